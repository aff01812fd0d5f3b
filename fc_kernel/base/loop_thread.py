"""A thread with its own event loop, on which other threads run coroutines."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from ..errors import StateError

log = logging.getLogger(__name__)
T = TypeVar("T")


class LoopThread:
    """Runs from the constructor until :meth:`stop`."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, for :func:`asyncio.run_coroutine_threadsafe`."""
        return self._loop

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on this loop and await it on the caller's; cancelling the caller cancels the coroutine."""
        return await asyncio.wrap_future(self.submit(coroutine))

    def run_blocking(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on this loop and block until it is done.

        Raises :class:`~fc_kernel.errors.StateError` on the loop's own thread.
        """
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise StateError("the engine's thread cannot wait for itself")
        return self.submit(coroutine).result()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine on this loop, from any thread; raises :class:`~fc_kernel.errors.StateError` once it is stopped."""
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            raise StateError("the engine is closed") from None

    def stop(self, last: Coroutine[Any, Any, None], *, deadline_s: float) -> bool:
        """Run ``last``, cancel all other tasks and end the thread; returns whether that was done within ``deadline_s``."""
        in_time = True
        try:
            asyncio.run_coroutine_threadsafe(self._end(last), self._loop).result(deadline_s)
        except TimeoutError:
            in_time = False
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(deadline_s)
        if not self._thread.is_alive():
            self._loop.close()
        return in_time

    async def _end(self, last: Coroutine[Any, Any, None]) -> None:
        await last
        # Whoever still waits for a task of this loop is cancelled, instead of waiting for ever.
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        with contextlib.suppress(RuntimeError):
            # At interpreter exit the worker threads are gone already, and no thread can be started to wait for them.
            await self._loop.shutdown_default_executor()
