"""The engine: one thread with one event loop for the whole process, and the sessions and supplies that live on it.

Not the caller's loop, because a synchronous ``KernelManager`` runs that only during its own calls; and not one thread for
each kernel, because the parent-death signal of a monitor is bound to the thread that started it.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import logging
import os
import threading
from collections.abc import Callable, Mapping
from typing import ClassVar, Protocol

from ..api.events import Event
from ..base.loop_thread import LoopThread
from ..base.paths import RunDir
from ..channels.endpoints import ClientEndpoints
from ..sessions.fork import Forker, ForkInfo, ForkRequest
from ..sessions.session import KernelSession
from ..settings.tenant import Tenant
from ..supply.supply import Supply
from .standalone import standalone

log = logging.getLogger(__name__)

#: Ending a VM takes milliseconds; at the interpreter's exit we wait no longer than this for all of them.
CLOSE_DEADLINE_S = 15.0

#: Is told of each event, on the engine's loop.
Subscriber = Callable[[Event], None]


class Closing(Protocol):
    """What the engine closes at its own end."""

    async def aclose(self) -> None:
        """Release everything; may be called twice."""


class Engine(LoopThread):
    """The registry of this process's kernels; :meth:`shared` is the process's own."""

    _shared: ClassVar[Engine | None] = None
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._closers: set[Closing] = set()
        self._kernels: dict[str, KernelSession] = {}
        self._supplies: dict[Tenant, Supply] = {}
        self._subscribers: list[Subscriber] = []
        #: Makes a kernel of a fork, in place of :func:`~fc_kernel.host.standalone.standalone`: a server has its own way.
        self.forker: Forker | None = None
        super().__init__("fc-kernel-engine")
        atexit.register(self.close)

    @classmethod
    def shared(cls) -> Engine:
        """The engine of this process, started at the first call; a forked child gets one of its own."""
        with cls._lock:
            if cls._shared is None or cls._shared._pid != os.getpid() or cls._shared._loop.is_closed():
                cls._shared = cls()
            return cls._shared

    def open(
        self,
        tenant: Tenant,
        endpoints: ClientEndpoints,
        *,
        key: bytes,
        signature_scheme: str = "hmac-sha256",
        labels: Mapping[str, str] | None = None,
        endpoint_dir: RunDir | None = None,
    ) -> KernelSession:
        """A session whose sockets are bound and that has no kernel yet; on the loop. The engine closes it at its own end.

        ``endpoint_dir`` holds the sockets and is removed with the session, or when this fails.
        """
        session = KernelSession(
            self.supply(tenant),
            endpoints,
            key=key,
            signature_scheme=signature_scheme,
            labels=labels,
            endpoint_dir=endpoint_dir,
            emit=self.emit,
            on_closed=lambda: self._closed(session),
            fork_one=functools.partial(self._fork_one, tenant),
        )
        self.adopt(session)
        if session.kernel_id:
            self._kernels[session.kernel_id] = session
        return session

    async def _fork_one(self, tenant: Tenant, request: ForkRequest) -> ForkInfo:
        if self.forker is not None:
            return await self.forker(request)
        return await standalone(self, tenant, request)

    def _closed(self, session: KernelSession) -> None:
        self.release(session)
        # Unless another has its id by now.
        if self._kernels.get(session.kernel_id) is session:
            del self._kernels[session.kernel_id]

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

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call ``subscriber`` with each event of every session, in order, on the loop; returns what ends that."""
        self._subscribers.append(subscriber)

        def unsubscribe() -> None:
            with contextlib.suppress(ValueError):
                self._subscribers.remove(subscriber)

        return unsubscribe

    def emit(self, event: Event) -> None:
        """Tell all subscribers; what fails there is their business."""
        for subscriber in list(self._subscribers):
            try:
                subscriber(event)
            except Exception:
                log.exception("a subscriber to events failed")

    def adopt(self, closing: Closing) -> None:
        """Close it (its ``aclose``) when the process ends."""
        self._closers.add(closing)

    def release(self, closing: Closing) -> None:
        """It is closed."""
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
                log.error("a VM was not closed in order: %s", result)
