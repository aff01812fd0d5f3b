"""The extension in one server: its host, its events and its forks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jupyter_server.gateway.managers import GatewayMappingKernelManager
from jupyter_server.serverapp import ServerApp

from ..api.openapi import Route
from ..settings.config import FcKernelConfig, load_config
from ..settings.kernelspec import PROVISIONER, provisioner_of
from .events import Events
from .forking import Forks

if TYPE_CHECKING:
    from ..host.client import HostClient
    from ..host.service import KernelHost


class Extension:
    """Used on the server's loop."""

    def __init__(self, serverapp: ServerApp, client: HostClient | None = None, *, routes: Sequence[Route] = ()) -> None:
        """``client`` is this process's client of the user's host, unless a test gives another; ``routes`` are the API's."""
        self.serverapp = serverapp
        self.routes = routes
        self.gateway = isinstance(serverapp.kernel_manager, GatewayMappingKernelManager)
        self._client = client
        self.forks = Forks(serverapp, lambda: self.host)
        self.events = Events(serverapp, self.forks, self.is_ours, lambda: self.client)

    @property
    def config(self) -> FcKernelConfig:
        """Defaults and limits; raises :class:`~fc_kernel.errors.ConfigError`."""
        return load_config(self.serverapp.config)

    @property
    def client(self) -> HostClient:
        """The client of the user's host, made when it is first needed: a server without microVMs has none."""
        if self._client is None:
            from ..host.current import client_for  # noqa: PLC0415 - its imports take longer than the server's start
            from ..settings.tenant import Tenant  # noqa: PLC0415

            self._client = client_for(Tenant.of_this_process(self.config))
        return self._client

    @property
    def host(self) -> KernelHost:
        """The user's host; its events are passed on from now on."""
        host = self.client.host
        self.events.follow()
        return host

    def is_ours(self, kernel_id: str) -> bool:
        """Whether a kernel of this server runs in a microVM; others belong to another provisioner."""
        manager = self.serverapp.kernel_manager
        spec = manager.get_kernel(kernel_id).kernel_spec if kernel_id in manager else None
        return spec is not None and provisioner_of(spec) == PROVISIONER
