"""What was begun is carried to its end."""

from __future__ import annotations

import asyncio

import pytest

from fc_kernel.base.tasks import finish


class Work:
    """A request whose end the test decides."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.ended = False
        self._error = error

    async def run(self) -> None:
        self.begun.set()
        await self.may_end.wait()
        self.ended = True
        if self._error is not None:
            raise self._error


async def test_undisturbed() -> None:
    work = Work()
    work.may_end.set()
    await finish(work.run())
    assert work.ended


async def test_an_error_comes_through() -> None:
    work = Work(ValueError("refused"))
    work.may_end.set()
    with pytest.raises(ValueError, match="refused"):
        await finish(work.run())


@pytest.mark.parametrize("error", [None, ValueError("nobody waits for it")])
async def test_cancelled_in_the_middle(error: Exception | None) -> None:
    work = Work(error)
    task = asyncio.ensure_future(finish(work.run()))
    await work.begun.wait()
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    work.may_end.set()
    await asyncio.wait({task})
    assert task.cancelled()
    assert work.ended


async def test_a_second_cancellation_does_not_wait() -> None:
    work = Work()
    task = asyncio.ensure_future(finish(work.run()))
    await work.begun.wait()
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.wait({task})
    assert task.cancelled()
    assert not work.ended
    work.may_end.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert work.ended
