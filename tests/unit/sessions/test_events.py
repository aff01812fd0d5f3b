"""What a session tells of itself: typed events, in the order in which things happen."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from fc_kernel.api.events import Event, KernelForked, SnapshotRestored, SnapshotTaken, StateChanged
from fc_kernel.errors import FcKernelError, StateError
from fc_kernel.machine.start import KernelRequest

from ...scripted_kernel import ScriptedKernel, scripted_environment, scripted_kernels
from ...waiting import until

Make = Callable[..., Awaitable[ScriptedKernel]]


@pytest.fixture
async def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    scripted_environment(monkeypatch, tmp_path)
    async with scripted_kernels() as made:
        yield made


def heard_of(kernel: ScriptedKernel) -> list[Event]:
    """From now on, in order."""
    events: list[Event] = []
    kernel.session._emit = events.append
    return events


def told(events: list[Event]) -> list[str]:
    return [each.state if isinstance(each, StateChanged) else each.action for each in events]


async def test_a_snapshot_and_the_way_back(make: Make) -> None:
    kernel = await make()
    events = heard_of(kernel)
    await kernel.snapshot("one")
    await kernel.restore("one")
    assert told(events) == ["pausing", "running", "snapshot", "restoring", "restore", "running"]
    taken, restored = events[2], events[4]
    assert isinstance(taken, SnapshotTaken)
    assert isinstance(restored, SnapshotRestored)
    assert taken.snapshot == restored.snapshot
    assert (taken.snapshot.name, taken.snapshot.current, taken.kernel_id) == ("one", True, kernel.kernel_id)


async def test_a_restore_that_fails_ends_as_it_began(make: Make) -> None:
    kernel = await make()
    events = heard_of(kernel)
    with pytest.raises(FcKernelError):
        await kernel.restore("none-of-that-name")
    assert told(events) == ["restoring", "running"]


async def test_forks(make: Make) -> None:
    kernel = await make()
    events = heard_of(kernel)
    forks = await kernel.fork(2, "two")
    forked = events[-1]
    assert isinstance(forked, KernelForked)
    assert {each.kernel_id for each in forked.forks} == {fork.kernel_id for fork in forks}
    assert forked.snapshot.name == "two"


async def test_a_machine_that_ends_says_why(make: Make) -> None:
    kernel = await make()
    events = heard_of(kernel)
    await kernel.engine.run(kernel.vmm.kill())
    await until(lambda: told(events) == ["dead"])
    [dead] = events
    assert isinstance(dead, StateChanged)
    assert dead.vm_ended
    assert dead.message.startswith("the microVM ended")
    assert dead.returncode == kernel.session.returncode


async def test_a_kernel_that_is_killed_leaves_its_machine_and_a_close_is_no_accident(make: Make) -> None:
    kernel = await make()
    events = heard_of(kernel)
    await kernel.engine.run(kernel.session.kill())
    await until(lambda: told(events) == ["dead"])
    await kernel.engine.run(kernel.session.aclose())
    assert told(events) == ["dead", "dead"]
    assert [each.vm_ended for each in events if isinstance(each, StateChanged)] == [False, False]
    assert kernel.session.resolved is not None
    with pytest.raises(StateError, match="closed"):
        await kernel.engine.run(kernel.session.start(KernelRequest(resolved=kernel.session.resolved)))


async def test_who_hears_of_it_cannot_keep_a_kernel_from_its_end(
    make: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = await make()

    def broken(event: Event) -> None:
        raise OSError("nobody listens")

    monkeypatch.setattr(kernel.session, "_emit", broken)
    await kernel.snapshot("one")
    assert kernel.session.running
    await kernel.engine.run(kernel.session.aclose())
    assert kernel.session.state == "closed"
    assert kernel.session.machine is None
    assert caplog.text.count("an event was lost") == 4
