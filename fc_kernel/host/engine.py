"""The engine: one thread with one event loop for the whole process, and the sessions and supplies that live on it.

Not the caller's loop, because a synchronous ``KernelManager`` runs that only during its own calls; and not one thread for
each kernel, because the parent-death signal of a monitor is bound to the thread that started it.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import Callable, Mapping
from typing import ClassVar, Protocol

from ..api.calls import ForkResult
from ..api.events import Event
from ..api.models import ForkTicket
from ..base.loop_thread import LoopThread
from ..base.paths import RunDir
from ..channels.endpoints import ClientEndpoints
from ..errors import StateError
from ..sessions.fork import StartForks
from ..sessions.session import KernelSession
from ..sessions.tickets import TicketBook
from ..settings.tenant import Tenant
from ..supply.supply import Supply

log = logging.getLogger(__name__)

#: Ending a VM takes milliseconds; at the interpreter's exit we wait no longer than this for all of them.
CLOSE_DEADLINE_S = 15.0


class Closing(Protocol):
    """What the engine closes at its own end."""

    async def aclose(self) -> None:
        """Release everything; may be called twice."""


class Engine(LoopThread):
    """Runs the sessions of this process on its thread; :meth:`shared` is the process's own engine."""

    _shared: ClassVar[Engine | None] = None
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._closers: set[Closing] = set()
        self._kernels: dict[str, KernelSession] = {}
        self._supplies: dict[Tenant, Supply] = {}
        super().__init__("fc-kernel-engine")
        atexit.register(self.close)

    @classmethod
    def shared(cls) -> Engine:
        """The engine of this process, started at the first call; a forked child gets one of its own."""
        with cls._lock:
            if cls._shared is None or cls._shared._pid != os.getpid() or cls._shared._loop.is_closed():
                cls._shared = cls()
            return cls._shared

    @classmethod
    def running(cls) -> Engine | None:
        """The engine of this process if it was started, else ``None``."""
        with cls._lock:
            found = cls._shared
            return None if found is None or found._pid != os.getpid() or found._loop.is_closed() else found

    def open(
        self,
        tenant: Tenant,
        endpoints: ClientEndpoints,
        *,
        key: bytes,
        signature_scheme: str = "hmac-sha256",
        labels: Mapping[str, str] | None = None,
        endpoint_dir: RunDir | None = None,
        emit: Callable[[Event], None] | None = None,
        on_closed: Callable[[], None] | None = None,
        tickets: TicketBook | None = None,
        start_forks: StartForks | None = None,
    ) -> KernelSession:
        """Open a session, with its sockets bound and no kernel yet; on the loop. The engine closes it when it ends itself.

        ``endpoint_dir`` holds the sockets and is removed with the session, or when this fails. ``emit`` gets each event,
        ``on_closed`` is called when all is released, and ``start_forks`` uses ``tickets``; without it there are no forks.
        """
        session = KernelSession(
            self.supply(tenant),
            endpoints,
            key=key,
            signature_scheme=signature_scheme,
            labels=labels,
            endpoint_dir=endpoint_dir,
            emit=emit or _not_told,
            on_closed=lambda: self._closed(session, on_closed),
            tickets=tickets or TicketBook(),
            start_forks=start_forks or _no_forks,
        )
        self.adopt(session)
        if session.kernel_id:
            self._kernels[session.kernel_id] = session
        return session

    def _closed(self, session: KernelSession, on_closed: Callable[[], None] | None) -> None:
        self.release(session)
        # Unless another has its id by now.
        if self._kernels.get(session.kernel_id) is session:
            del self._kernels[session.kernel_id]
        if on_closed is not None:
            on_closed()

    def session_of(self, kernel_id: str) -> KernelSession | None:
        """The session of a kernel, from any thread; ``None`` when no microVM of this process runs it."""
        return self._kernels.get(kernel_id)

    def sessions(self) -> list[KernelSession]:
        """All sessions that have a kernel's id, from any thread."""
        return list(self._kernels.values())

    def supply(self, tenant: Tenant) -> Supply:
        """Where the machines of all of a tenant's sessions come from; on the loop. The engine closes it."""
        supply = self._supplies.get(tenant)
        if supply is None:
            supply = self._supplies[tenant] = Supply(tenant)
            self.adopt(supply)
        return supply

    def adopt(self, closing: Closing) -> None:
        """Close this (call its ``aclose``) when the process ends."""
        self._closers.add(closing)

    def release(self, closing: Closing) -> None:
        """Forget this: it is closed."""
        self._closers.discard(closing)

    def close(self) -> None:
        """End all VMs and the thread; may be called twice."""
        if self._loop.is_closed() or self._pid != os.getpid():
            return
        atexit.unregister(self.close)
        if not self.stop(self._close_all(), deadline_s=CLOSE_DEADLINE_S):
            log.error("the VMs were not closed within %g s; they end with this process", CLOSE_DEADLINE_S)

    async def _close_all(self) -> None:
        closing = [each.aclose() for each in list(self._closers)]
        for result in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(result, BaseException):
                log.error("a VM was not closed cleanly: %s", result)


def _not_told(_event: Event) -> None:
    """Drop an event that nobody listens to."""


async def _no_forks(_kernel_id: str, _tickets: list[ForkTicket]) -> list[ForkResult]:
    raise StateError("no client of this host can start a fork")
