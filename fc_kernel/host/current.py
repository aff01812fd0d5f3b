"""The one place that decides which host a tenant of this process has; another factory can be put there."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

from ..settings.tenant import Tenant
from .client import HostClient
from .kernels import Kernels
from .local import LocalHost
from .service import KernelHost

Factory = Callable[[Tenant], KernelHost]


class Hosts:
    """The hosts of a process, one for each tenant and configuration; those of one tenant share its kernels."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._kernels: dict[Any, Kernels] = {}
        self._clients: dict[Tenant, HostClient] = {}
        self._factory: Factory | None = None

    def local(self, tenant: Tenant) -> LocalHost:
        """The engine of this process as the tenant's host."""
        return LocalHost(tenant, self._kernels.setdefault(_identity(tenant), Kernels()))

    def client(self, tenant: Tenant) -> HostClient:
        """This process's side of the tenant's host, made at the first call; a forked child gets one of its own."""
        with self._lock:
            if tenant not in self._clients:
                self._clients[tenant] = HostClient((self._factory or self.local)(tenant))
            return self._clients[tenant]

    def use(self, factory: Factory | None) -> None:
        """Make hosts with ``factory`` from now on, or with ``None`` as usual; kernels that are open stay where they are."""
        with self._lock:
            self._factory = factory
            self._clients.clear()

    @property
    def of_this_process(self) -> bool:
        """Whether this was made in this process, and not before a fork."""
        return self._pid == os.getpid()


def _identity(tenant: Tenant) -> tuple[object, ...]:
    return tenant.owner, tenant.data_dir, tenant.image_dir, tenant.cache_dir, tenant.run_dir


_hosts = Hosts()


def hosts() -> Hosts:
    """The hosts of this process."""
    global _hosts  # noqa: PLW0603 - the process's own; a forked child has no engine yet
    if not _hosts.of_this_process:
        _hosts = Hosts()
    return _hosts


def client_for(tenant: Tenant) -> HostClient:
    """This process's side of a tenant's host."""
    return hosts().client(tenant)


def host_for(tenant: Tenant) -> KernelHost:
    """A tenant's host."""
    return client_for(tenant).host
