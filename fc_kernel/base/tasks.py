"""Tasks that must run to their end, background tasks of an owner, and blocking calls in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def finish(work: Coroutine[Any, Any, None]) -> None:
    """Await ``work``; when cancelled, first wait for it to end, so that its effects are known, and then raise.

    For a request to a monitor: cancelling the sender cannot take it back. It ends soon by itself, or when the monitor
    ends. A second cancellation does not wait.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_retrieve_error)
        await asyncio.wait({task})
        raise


async def off_loop(call: Callable[[], T], *, undo: Callable[[T], object] | None = None) -> T:
    """Run a blocking call in a thread and return its result.

    A cancelled caller does not wait for the call to end; its late result is passed to ``undo``, also in a thread.
    """
    loop = asyncio.get_running_loop()
    try:
        future = loop.run_in_executor(None, call)
    except RuntimeError:
        # The interpreter is exiting, and no thread can be started any more.
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
    """Retrieve an error that nobody awaits any more, so that asyncio does not report it."""
    if not task.cancelled():
        task.exception()


class TaskSet:
    """Background tasks of one owner. ``failed(name, error)`` is called for each that fails."""

    def __init__(self, failed: Callable[[str, BaseException], None]) -> None:
        self._failed = failed
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None] | None:
        """Run a coroutine on the running loop; a closed set runs nothing and returns ``None``."""
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
        """Cancel all tasks and start no more; :meth:`wait` waits for them to end."""
        self._closed = True
        for task in self._tasks:
            task.cancel()

    async def wait(self) -> None:
        """Wait until no task is left, including those that are started in the meantime."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))
