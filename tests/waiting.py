"""Waiting for conditions that nothing announces; the deadline is generous, and no promise."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE_S = 180.0
LOOK_EVERY_S = 0.01


def eventually(true: Callable[[], T | None], what: str, deadline_s: float = DEADLINE_S) -> T:
    """The first true answer; fails with ``what`` when there is none in time."""
    end = time.monotonic() + deadline_s
    while not (answer := true()):
        assert time.monotonic() < end, f"{what}: not within {deadline_s:g} s"
        time.sleep(LOOK_EVERY_S)
    return answer


async def until(true: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """As :func:`eventually`, on an event loop."""
    async with asyncio.timeout(deadline_s):
        while not true():
            await asyncio.sleep(LOOK_EVERY_S)
