"""The open kernels of one tenant in this process, on the engine's loop: sessions, leases, events and forks."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial

from ..api.calls import Endpoints, OpenKernel
from ..api.events import Event
from ..base.paths import RunDir, new_vm_id
from ..channels.endpoints import ClientEndpoints
from ..errors import KernelNotFound, StateError
from ..sessions.session import KernelSession
from ..sessions.tickets import Issued
from ..settings.tenant import Tenant
from .engine import Engine
from .forking import ForkBook
from .leases import Lease
from .stream import EventStream

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class OpenedKernel:
    """A session, its lease and endpoints, and for a fork the ticket that it starts with."""

    session: KernelSession
    lease: Lease
    endpoints: Endpoints
    fork: Issued | None


@dataclass
class Kernels:
    """All open kernels. They may be read from any thread, and are changed on the engine's loop."""

    stream: EventStream = field(default_factory=EventStream)
    opened: dict[str, OpenedKernel] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.forks = ForkBook(self.stream)

    def get(self, kernel_id: str) -> OpenedKernel:
        """A kernel that is open; raises :class:`~fc_kernel.errors.KernelNotFound`."""
        found = self.opened.get(kernel_id)
        if found is None:
            raise KernelNotFound(f"there is no kernel {kernel_id[:64]!r} here")
        return found

    def open(self, request: OpenKernel, tenant: Tenant, engine: Engine) -> Endpoints:
        """Bind the sockets of a kernel; not a coroutine, so that it cannot be cancelled halfway."""
        kernel_id = request.kernel_id
        if kernel_id in self.opened:
            raise StateError(f"the kernel {kernel_id[:64]!r} is open already")
        fork = self.forks.tickets.take(request.ticket) if request.ticket else None
        listen = request.listen
        endpoint_dir = RunDir.create(tenant.run_dir, new_vm_id())
        ip = str(endpoint_dir.path / "k") if listen.transport == "ipc" else listen.ip
        session = engine.open(
            tenant,
            ClientEndpoints(
                transport=listen.transport,
                ip=ip,
                ports=dict(listen.ports.items()),
                curve_publickey=listen.curve_publickey,
                curve_secretkey=listen.curve_secretkey,
            ),
            key=request.key,
            signature_scheme=request.signature_scheme,
            labels=_labels(request, fork),
            endpoint_dir=endpoint_dir,
            emit=self._tell,
            on_closed=lambda: self._closed(kernel_id, session),
            tickets=self.forks.tickets,
            start_forks=self.forks.start,
        )
        endpoints = Endpoints(
            transport=listen.transport,
            ip=ip,
            ports=session.ports,
        )
        lease = Lease(request.lease_s, partial(self._lease_ended, kernel_id, session))
        self.opened[kernel_id] = OpenedKernel(session=session, lease=lease, endpoints=endpoints, fork=fork)
        return endpoints

    def _tell(self, event: Event) -> None:
        self.stream.publish(event)

    def _lease_ended(self, kernel_id: str, session: KernelSession) -> None:
        log.warning("kernel %s is closed: its lease has run out", kernel_id)
        session.abandon()

    async def close(self, kernel_id: str) -> None:
        """End a kernel, if it is open, and release all that it has."""
        found = self.opened.get(kernel_id)
        if found is not None:
            found.lease.cancel()
            await found.session.aclose()

    def _closed(self, kernel_id: str, session: KernelSession) -> None:
        found = self.opened.get(kernel_id)
        if found is not None and found.session is session:
            found.lease.cancel()
            del self.opened[kernel_id]


def _labels(request: OpenKernel, fork: Issued | None) -> dict[str, str]:
    """What lists of VMs show, and what the kernel's snapshots are filed under."""
    given = {**request.labels, "kernel_id": request.kernel_id, "notebook": request.notebook[:512]}
    given["scope"] = fork.ticket.scope if fork is not None else request.scope[:512]
    if fork is not None:
        given["fork_of"] = fork.ticket.kernel_id
    return {name: value for name, value in given.items() if value}
