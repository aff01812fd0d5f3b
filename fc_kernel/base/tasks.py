"""What was begun is carried to its end: a request that a monitor has got cannot be taken back by cancelling who sent it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def finish(work: Coroutine[Any, Any, None]) -> None:
    """Await ``work``; when cancelled, wait for it to end, so that its effects are known, and only then raise.

    It ends soon by itself, or by the monitor's end. A second cancellation does not wait.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_seen)
        await asyncio.wait({task})
        raise


def _seen(task: asyncio.Future[None]) -> None:
    """Take note of an error that nobody waits for any more."""
    if not task.cancelled():
        task.exception()
