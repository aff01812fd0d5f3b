"""The engine's thread: one event loop for the whole process, on which all VMs live.

Not the caller's loop, because a synchronous ``KernelManager`` runs that only during its own calls; and not one thread for
each kernel, because the parent-death signal of a monitor is bound to the thread that started it.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, ClassVar, Protocol, TypeVar

from ..errors import StateError

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Ending a VM takes milliseconds; at the interpreter's exit we wait no longer than this for all of them.
CLOSE_DEADLINE_S = 15.0


class Closing(Protocol):
    """What the engine has to know of a session."""

    async def aclose(self) -> None:
        """Release everything; may be called twice."""


class Engine:
    """A thread with an event loop; :meth:`shared` is the process's own."""

    _shared: ClassVar[Engine | None] = None
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._closers: set[Closing] = set()
        self._kernels: dict[str, Any] = {}
        #: What the sessions of a tenant have in common, by the tenant; on the loop.
        self.shared_things: dict[Any, Any] = {}
        #: Makes the kernels of a fork, in place of :func:`~fc_kernel.sessions.forks.standalone`; a server's way of having them.
        self.forker: Any = None
        self._thread = threading.Thread(target=self._run, name="fc-kernel-engine", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @classmethod
    def shared(cls) -> Engine:
        """The engine of this process, started at the first call; a forked child gets one of its own."""
        with cls._lock:
            if cls._shared is None or cls._shared._pid != os.getpid() or cls._shared._loop.is_closed():
                cls._shared = cls()
            return cls._shared

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The engine's loop, for :func:`asyncio.run_coroutine_threadsafe`."""
        return self._loop

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the engine's loop and await it on the caller's; cancelling reaches it."""
        return await asyncio.wrap_future(self.submit(coroutine))

    def run_blocking(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the engine's loop and block until it is done."""
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise StateError("the engine's thread cannot wait for itself")
        return self.submit(coroutine).result()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine on the engine's loop, from any thread."""
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            raise StateError("the engine is closed") from None

    def adopt(self, session: Closing) -> None:
        """Close ``session`` (its ``aclose``) when the process ends."""
        self._closers.add(session)

    def release(self, session: Closing) -> None:
        """The session is closed."""
        self._closers.discard(session)

    def register(self, kernel_id: str, session: Any) -> None:
        """A kernel by its id, until it is released; an id that is empty names none."""
        if kernel_id:
            self._kernels[kernel_id] = session

    def unregister(self, kernel_id: str, session: Any) -> None:
        """The kernel is gone, unless another has its id by now."""
        if self._kernels.get(kernel_id) is session:
            del self._kernels[kernel_id]

    def session_of(self, kernel_id: str) -> Any:
        """The session of a kernel, from any thread; ``None`` when no microVM of this process runs it."""
        return self._kernels.get(kernel_id)

    def sessions(self) -> list[Any]:
        """All sessions that have a kernel's id, from any thread."""
        return list(self._kernels.values())

    def close(self) -> None:
        """End all VMs and the thread; may be called twice."""
        if self._loop.is_closed() or self._pid != os.getpid():
            return
        atexit.unregister(self.close)
        try:
            asyncio.run_coroutine_threadsafe(self._end_all(), self._loop).result(CLOSE_DEADLINE_S)
        except TimeoutError:
            log.error("the VMs were not closed within %g s; they end with this process", CLOSE_DEADLINE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_DEADLINE_S)
        if not self._thread.is_alive():
            self._loop.close()

    async def _end_all(self) -> None:
        closing = [session.aclose() for session in list(self._closers)]
        for result in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(result, BaseException):
                log.error("a VM was not closed in order: %s", result)
        # Whoever still waits for something here gets a cancellation instead of silence.
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        with contextlib.suppress(RuntimeError):
            # When the interpreter ends its threads are gone already, and no new one can be started to wait for them.
            await self._loop.shutdown_default_executor()
