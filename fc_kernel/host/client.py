"""This process's side of a host: it renews the leases of the kernels that it has opened and follows what becomes of them.

A synchronous KernelManager runs its event loop only during its own calls, so this needs a thread of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from ..api.calls import OpenKernel
from ..api.events import Event, ForkWanted
from ..base.loop_thread import LoopThread
from ..errors import FcKernelError, StateError
from .held import HeldKernel
from .service import KernelHost
from .standalone import StandaloneForks

log = logging.getLogger(__name__)

#: Generous: an owner may be stopped in a debugger, or starved on a busy host, for most of it.
LEASE_S = 60.0
RENEW_EVERY_S = 10.0
#: How long to wait before following a host's events again when they have ended.
FOLLOW_AGAIN_S = 1.0


class HostClient:
    """This process's side of one host. All but :meth:`open` and :meth:`release` runs on the background thread."""

    _thread: ClassVar[LoopThread | None] = None
    _thread_pid: ClassVar[int] = 0
    # Reentrant: a kernel's owner may be collected as garbage while it is held.
    _lock: ClassVar[threading.RLock] = threading.RLock()

    def __init__(self, host: KernelHost) -> None:
        self.host = host
        self._kernels: weakref.WeakValueDictionary[str, HeldKernel] = weakref.WeakValueDictionary()
        self._following: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._subscribed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._opening = 0
        self._standalone = StandaloneForks(self.open, lease_s=LEASE_S)

    @classmethod
    def _background(cls) -> LoopThread:
        with cls._lock:
            if cls._thread is None or cls._thread_pid != os.getpid():
                cls._thread, cls._thread_pid = LoopThread("fc-kernel-client"), os.getpid()
            return cls._thread

    async def open(self, request: OpenKernel) -> HeldKernel:
        """Open a kernel; on an error nothing is left. Keep what is returned: without it the kernel is closed."""
        background = self._background()
        with self._lock:
            self._opening += 1
        try:
            # Events are followed before anything can happen to the kernel.
            await background.run(self._follow())
            try:
                endpoints = await self.host.open(request)
                held = HeldKernel(self.host, request.kernel_id, endpoints, release=self.release)
                self._kernels[request.kernel_id] = held
            except FcKernelError:
                raise
            except BaseException:
                # The host may have opened it already.
                background.submit(self.host.close(request.kernel_id))
                raise
        finally:
            with self._lock:
                self._opening -= 1
        return held

    def release(self, kernel_id: str, pid: int) -> None:
        """Close a kernel whose owner was collected as garbage; in any thread. In a forked child nothing happens."""
        if pid != os.getpid():
            return
        log.info("kernel %s is closed: nothing refers to it any more", kernel_id)
        closing = self.host.close(kernel_id)
        try:
            self._background().submit(closing)
        except StateError:
            closing.close()

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], object]:
        """Call ``listener`` with each event, on the background thread; returns a function that stops it.

        The listener gets forks, too: it starts a kernel for each ticket of a :class:`ForkWanted` and reports to the host.
        """
        return self._background().submit(self._listen(listener)).cancel

    async def _listen(self, listener: Callable[[Event], None]) -> None:
        while True:
            try:
                async with self.host.events(forks="claim") as events:
                    async for event in events:
                        listener(event)
            except FcKernelError as error:
                log.warning("the events of the kernels' host have ended: %s", error)
            except Exception:
                log.exception("the events of the kernels' host were not followed")
            await asyncio.sleep(FOLLOW_AGAIN_S)

    async def _follow(self) -> None:
        """Follow the events; return once no event can be missed."""
        if self._following is None or self._following.done():
            self._subscribed.clear()
            self._following = asyncio.ensure_future(self._follow_events())
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.ensure_future(self._renew())
        subscribed = asyncio.ensure_future(self._subscribed.wait())
        await asyncio.wait({subscribed, self._following}, return_when=asyncio.FIRST_COMPLETED)
        subscribed.cancel()

    async def _follow_events(self) -> None:
        while True:
            try:
                async with self.host.events(forks="fallback") as events:
                    if self._subscribed.is_set():
                        await self._look_again()
                    self._subscribed.set()
                    async for event in events:
                        self._saw(event)
            except FcKernelError as error:
                log.warning("the events of the kernels' host have ended: %s", error)
            except Exception:
                log.exception("the events of the kernels' host were not followed")
            await asyncio.sleep(FOLLOW_AGAIN_S)

    async def _look_again(self) -> None:
        """Look for kernels whose death was among the events that were missed."""
        asked = {kernel_id: held.since for kernel_id, held in list(self._kernels.items())}
        there = {each.kernel_id for each in await self.host.kernels() if each.state != "dead"}
        for kernel_id, held in list(self._kernels.items()):
            # One that was started in the meantime is not the process that was asked about.
            if kernel_id not in there and asked.get(kernel_id) == held.since:
                held.lost()
                self._start(self._standalone.ended(kernel_id))

    def _saw(self, event: Event) -> None:
        if isinstance(event, ForkWanted):
            self._start(self._fork(event))
            return
        held = self._kernels.get(event.kernel_id)
        if held is not None:
            held.saw(event)
            if held.dead:
                self._start(self._standalone.ended(event.kernel_id))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a fork failed: %s", error, exc_info=error)

    async def _fork(self, wanted: ForkWanted) -> None:
        """Start forks as kernels of this process, because nobody else claims them."""
        await self.host.forked(wanted.request, await self._standalone.make(wanted))

    async def _renew(self) -> None:
        """Renew leases as long as there are any; after the last one the events are not followed any more."""
        while self._kernels or self._opening or self._tasks:
            await self._renew_all()
            await asyncio.sleep(RENEW_EVERY_S)
        if self._following is not None:
            self._following.cancel()
            self._following = None

    async def _renew_all(self) -> None:
        for kernel_id in [each for each, held in list(self._kernels.items()) if held.kept]:
            try:
                await self.host.renew_lease(kernel_id)
            except FcKernelError as error:
                log.debug("the lease of kernel %s was not renewed: %s", kernel_id, error)
            except Exception:
                # The other kernels' leases, and this one the next time, are still renewed.
                log.exception("the lease of kernel %s was not renewed", kernel_id)
