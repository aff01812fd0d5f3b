"""What one server has of the extension: its host, its events, its forks; and how it is put into the server."""

from __future__ import annotations

import weakref
from typing import Any

from jupyter_server.gateway.managers import GatewayMappingKernelManager
from jupyter_server.serverapp import ServerApp
from jupyter_server.utils import url_path_join

from ..errors import SnapshotNotFound
from ..settings.config import FcKernelConfig, load_config
from ..settings.kernelspec import PROVISIONER, provisioner_of
from .events import Events
from .forking import Forks
from .hosting import Host, Session, Snapshot, in_thread


class Extension:
    """Used on the server's loop."""

    def __init__(self, serverapp: ServerApp, host: Host | None = None) -> None:
        """``host`` is the process's engine and store unless a test gives another."""
        self.serverapp = serverapp
        self.gateway = isinstance(serverapp.kernel_manager, GatewayMappingKernelManager)
        self._host = host
        self.events = Events(self)
        self.forks = Forks(self)
        if host is not None:
            host.set_forker(self.forks.from_the_engine)

    @property
    def config(self) -> FcKernelConfig:
        """Defaults and limits; raises :class:`~fc_kernel.errors.ConfigError`."""
        return load_config(self.serverapp.config)

    @property
    def host(self) -> Host:
        """The engine and the store, made when they are first needed: a server without microVMs has no engine."""
        if self._host is None:
            from .engine_host import EngineHost  # noqa: PLC0415 - its imports take longer than the server's start

            self._host = EngineHost(self.config)
            self._host.set_forker(self.forks.from_the_engine)
        return self._host

    def session_of(self, kernel_id: str) -> Session | None:
        """The session of a kernel of this server; ``None`` when it is another provisioner's, or its VM is gone."""
        manager = self.serverapp.kernel_manager
        spec = manager.get_kernel(kernel_id).kernel_spec if kernel_id in manager else None
        if spec is None or provisioner_of(spec) != PROVISIONER:
            return None
        return self.host.session_of(kernel_id)

    async def current(self) -> frozenset[str]:
        """Ids of the snapshots where this server's kernels stand now."""
        sessions = [self.session_of(each) for each in self.serverapp.kernel_manager.list_kernel_ids()]

        async def ask() -> frozenset[str]:
            return frozenset(filter(None, (each.info().get("current") for each in sessions if each is not None)))

        return await self.host.run(ask()) if any(sessions) else frozenset()

    async def snapshot(self, host: Host, snapshot_id: str) -> Snapshot:
        """The snapshot with this very id; a name that looks like an id is none."""
        for snapshot in await in_thread(host.store.list):
            if snapshot.id == snapshot_id:
                return snapshot
        raise SnapshotNotFound(f"there is no snapshot {snapshot_id[:64]!r}")


#: The extension of each server of this process.
_EXTENSIONS: weakref.WeakKeyDictionary[Any, Extension] = weakref.WeakKeyDictionary()


def load(serverapp: ServerApp, host: Host | None = None) -> Extension:
    """Put the extension into a server."""
    from .routes import ROUTES  # noqa: PLC0415 - the handlers need what is above

    extension = Extension(serverapp, host)
    _EXTENSIONS[serverapp] = extension
    base_url = serverapp.web_app.settings["base_url"]
    web_app: Any = serverapp.web_app
    web_app.add_handlers(
        ".*$",
        [(url_path_join(base_url, route.pattern), route.handler, {"extension": extension}) for route in ROUTES],
    )
    if not extension.gateway:
        extension.events.start()
    serverapp.log.debug("fc_kernel: the server extension is loaded")
    return extension
