"""The engine's thread: it runs what it is given, passes cancellation on, and ends everything once."""

from __future__ import annotations

import asyncio
import threading

import pytest

from fc_kernel.errors import StateError
from fc_kernel.host.engine import Engine

DEADLINE_S = 20.0


@pytest.fixture
def engine():
    engine = Engine()
    yield engine
    engine.close()


async def test_runs_elsewhere(engine: Engine) -> None:
    async def where() -> str:
        return threading.current_thread().name

    assert await engine.run(where()) == "fc-kernel-engine"
    assert threading.current_thread().name != "fc-kernel-engine"


async def test_cancelling_reaches_the_engine(engine: Engine) -> None:
    started, cancelled = threading.Event(), threading.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    task = asyncio.ensure_future(engine.run(work()))
    assert await asyncio.to_thread(started.wait, DEADLINE_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(cancelled.wait, DEADLINE_S)


async def test_errors_come_back(engine: Engine) -> None:
    async def fail() -> None:
        raise StateError("not so")

    with pytest.raises(StateError, match="not so"):
        await engine.run(fail())
    with pytest.raises(StateError, match="not so"):
        await asyncio.to_thread(engine.run_blocking, fail())


def test_it_does_not_wait_for_itself(engine: Engine) -> None:
    async def nothing() -> None:
        """Never run."""

    async def wait_here() -> None:
        engine.run_blocking(nothing())

    with pytest.raises(StateError, match="wait for itself"):
        engine.run_blocking(wait_here())


class Session:
    """Something to close."""

    def __init__(self, engine: Engine, *, broken: bool = False) -> None:
        self.closed = 0
        self._broken = broken
        engine.adopt(self)

    async def aclose(self) -> None:
        self.closed += 1
        if self._broken:
            raise OSError("broken")


def test_close_ends_all_and_only_once(caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine()
    released = Session(engine)
    engine.release(released)
    sessions = [Session(engine), Session(engine, broken=True), Session(engine)]

    async def wait_for_ever() -> None:
        await asyncio.Event().wait()

    waiting = engine.submit(wait_for_ever())
    engine.close()
    engine.close()
    assert [session.closed for session in sessions] == [1, 1, 1]
    assert released.closed == 0
    assert "broken" in caplog.text
    assert waiting.cancelled()
    with pytest.raises(StateError, match="closed"):
        engine.submit(wait_for_ever())


def test_shared_is_one_until_closed() -> None:
    first = Engine.shared()
    assert Engine.shared() is first
    first.close()
    second = Engine.shared()
    assert second is not first
    second.close()
