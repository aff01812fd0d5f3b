"""The process's engine and the user's store, as the handlers use them."""

from __future__ import annotations

import os
from collections.abc import Coroutine
from typing import Any, BinaryIO, TypeVar

from ..api.events import Event
from ..errors import QuotaExceeded
from ..host.engine import Engine
from ..sessions.fork import ForkInfo
from ..settings.config import FcKernelConfig
from ..settings.tenant import Tenant
from ..snapshots.export import export_snapshot, import_snapshot
from ..supply.stores import snapshot_store
from .hosting import Forker, Observer, Session, Snapshot, Store

T = TypeVar("T")


class EngineHost:
    """The :class:`~fc_kernel.server.hosting.Host` of a real server."""

    def __init__(self, config: FcKernelConfig) -> None:
        self._engine: Any = Engine.shared()
        self._store = snapshot_store(Tenant.of_this_process(config))

    @property
    def store(self) -> Store:
        """The user's snapshots."""
        return self._store

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the engine's loop."""
        result: T = await self._engine.run(coroutine)
        return result

    def session_of(self, kernel_id: str) -> Session | None:
        """The session of a kernel of this process."""
        session: Session | None = self._engine.session_of(kernel_id)
        return session

    def observe(self, kernel_id: str, observer: Observer) -> None:
        """Be told what happens to a kernel, on the engine's thread."""

        def heard(event: Event) -> None:
            if event.kernel_id == kernel_id:
                payload = event.model_dump(mode="json", exclude={"kernel_id", "action", "seq"})
                if "snapshot" in payload:
                    payload["snapshot"] = payload["snapshot"]["id"]
                observer(event.action, payload)

        self._engine.subscribe(heard)

    def set_forker(self, forker: Forker | None) -> None:
        """What makes a fork from now on."""
        self._engine.forker = forker

    def made(self, *, kernel_id: str, name: str, connection_file: str, url: str) -> ForkInfo:
        """A fork that runs."""
        return ForkInfo(kernel_id=kernel_id, name=name, connection_file=connection_file, url=url)

    def export(self, snapshot: Any, target: BinaryIO) -> None:
        """Write a snapshot as one file, once it is found to be sound."""
        free = self._free_bytes()
        if snapshot.size_bytes > free:
            raise QuotaExceeded(f"the file takes {snapshot.size_bytes >> 20} MiB; there is room for {free >> 20} MiB")
        self._store.check(snapshot)
        export_snapshot(snapshot, target)

    def import_(self, source: BinaryIO, scope: str) -> Snapshot:
        """Take one file into the store."""
        return import_snapshot(self._store, source, scope=scope)

    def room_bytes(self) -> int:
        """What the disk and the quota leave."""
        return max(0, min(self._free_bytes(), self._store.limits.max_bytes - self._store.disk_bytes()))

    def _free_bytes(self) -> int:
        self._store.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        disk = os.statvfs(self._store.root)
        return max(0, disk.f_bavail * disk.f_frsize - self._store.limits.min_free_bytes)
