"""The background tasks of an owner: none fails unheard, none outlives it."""

from __future__ import annotations

import asyncio

import pytest

from fc_kernel.base.tasks import TaskSet


class Owner:
    """Keeps what it is told of failures."""

    def __init__(self) -> None:
        self.failures: list[tuple[str, str]] = []
        self.tasks = TaskSet(lambda name, error: self.failures.append((name, str(error))))


async def fail() -> None:
    raise OSError("broken")


async def wait_for_ever() -> None:
    await asyncio.Event().wait()


async def test_a_failure_is_heard_and_a_cancellation_is_none() -> None:
    owner = Owner()
    waiting = owner.tasks.start(wait_for_ever(), "waiting")
    owner.tasks.start(fail(), "failing")
    assert waiting is not None
    assert len(owner.tasks) == 2
    await asyncio.sleep(0)
    waiting.cancel()
    await owner.tasks.wait()
    assert owner.failures == [("failing", "broken")]
    assert len(owner.tasks) == 0


async def test_the_wait_includes_what_is_started_meanwhile() -> None:
    owner, done = Owner(), []

    async def second() -> None:
        await asyncio.sleep(0)
        done.append("second")

    async def first() -> None:
        owner.tasks.start(second(), "second")

    owner.tasks.start(first(), "first")
    await owner.tasks.wait()
    assert done == ["second"]


@pytest.mark.filterwarnings("error")
async def test_once_closed_nothing_is_run_any_more() -> None:
    owner = Owner()
    waiting = owner.tasks.start(wait_for_ever(), "waiting")
    owner.tasks.close()
    assert owner.tasks.start(fail(), "late") is None
    await owner.tasks.wait()
    assert waiting is not None
    assert waiting.cancelled()
    assert owner.failures == []
