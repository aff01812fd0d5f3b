"""Tasks that must not be cut off half-way, the background tasks of an owner, and blocking calls that run in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def finish(work: Coroutine[Any, Any, None]) -> None:
    """Await ``work``; when cancelled, wait for it to end, so that its effects are known, and only then raise.

    For a request that a monitor has got: cancelling who sent it cannot take it back. It ends soon by itself, or by the
    monitor's end. A second cancellation does not wait.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_retrieve_error)
        await asyncio.wait({task})
        raise


async def off_loop(call: Callable[[], T], *, undo: Callable[[T], object] | None = None) -> T:
    """The result of a blocking call, which is made in a thread.

    Whoever is cancelled does not wait for the call's end; what it still returns goes to ``undo``, in a thread as well.
    """
    loop = asyncio.get_running_loop()
    try:
        future = loop.run_in_executor(None, call)
    except RuntimeError:
        # The interpreter ends, and no thread can be started any more.
        return call()

    def unclaimed(done: asyncio.Future[T]) -> None:
        if done.cancelled() or done.exception() is not None or undo is None:
            return
        try:
            loop.run_in_executor(None, undo, done.result())
        except RuntimeError:
            # As above.
            undo(done.result())

    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        future.add_done_callback(unclaimed)
        raise


def _retrieve_error(task: asyncio.Future[None]) -> None:
    """Take note of an error that nobody waits for any more."""
    if not task.cancelled():
        task.exception()


class TaskSet:
    """Background tasks of one owner, none of which fails unheard: ``failed(name, error)`` is told."""

    def __init__(self, failed: Callable[[str, BaseException], None]) -> None:
        self._failed = failed
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None] | None:
        """Run a coroutine on the running loop; once the set is closed, nothing is run, and ``None`` returned."""
        if self._closed:
            coroutine.close()
            return None
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._failed(task.get_name(), error)

    def close(self) -> None:
        """Cancel all, and start none any more; :meth:`wait` waits for their ends."""
        self._closed = True
        for task in self._tasks:
            task.cancel()

    async def wait(self) -> None:
        """Wait until none is left, those included that are started in the meantime."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))
