"""A server that is killed while it takes a snapshot, restores or forks one: all of it is there afterwards or nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fc_kernel.base.paths import runtime_dir
from fc_kernel.errors import SnapshotNotFound
from fc_kernel.vmm.journal import list_entries
from fc_kernel.vmm.reaper import reap

from ..scripted_kernel import scripted_environment, scripted_kernels
from ..waiting import eventually

POINTS = [
    "store:make", "store:lock", "store:reserve", "<freeze", "freeze>", "<pause", "pause>", "<snapshot", "snapshot>",
    "<resume", "resume>", "<thaw", "thaw>", "<written", "written>", "store:base", "store:hash mem", "store:fsync mem",
    "store:hash vmstate", "store:fsync vmstate", "store:manifest", "store:unreserve", "store:rename", "store:fsync",
    "store:published",
]  # fmt: skip
LOADS = ["<load", "load>", "<renew", "renew>", "<thaw", "thaw>"]
#: From here on the snapshot has its place.
WHOLE = ("store:fsync", "store:published")


def server(data_dir: Path, doing: str, point: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.faults.snapshot_server", str(data_dir), doing, point]
    root = Path(__file__).parents[2]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def reaped() -> Iterator[None]:
    """A dead server's run directories are the next one's to remove."""
    yield
    reap(runtime_dir())
    assert list_entries(runtime_dir()) == []


def test_these_are_all_points(tmp_path: Path) -> None:
    done = server(tmp_path, "snapshot", "list")
    assert done.stdout.split("\n")[:-1] == POINTS, done.stderr


@pytest.mark.usefixtures("reaped")
@pytest.mark.parametrize("point", POINTS)
async def test_a_server_that_is_killed(point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = server(tmp_path, "snapshot", point)
    assert done.returncode == -signal.SIGKILL, done.stderr
    eventually(
        lambda: all(entry.owner_alive is False for entry in list_entries(runtime_dir())), "the server's end is seen"
    )
    scripted_environment(monkeypatch, tmp_path)
    async with scripted_kernels(templates=False) as make:
        kernel = await make()
        if point in WHOLE:
            assert kernel.names == ["a"]
            await kernel.restore("a")
            assert await kernel.client.value("x") == "'kept'"
        else:
            assert kernel.names == []
            with pytest.raises(SnapshotNotFound):
                await kernel.restore("a")
            # The name is free, and making use of it sweeps away what was left.
            assert await kernel.snapshot("a") == "a"
        assert kernel.half_made == []


@pytest.mark.usefixtures("reaped")
@pytest.mark.parametrize("doing", ["restore", "fork"])
@pytest.mark.parametrize("point", LOADS)
async def test_a_server_that_is_killed_while_it_loads(
    doing: str, point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot is as it was, and nobody holds it any more."""
    done = server(tmp_path, doing, point)
    assert done.returncode == -signal.SIGKILL, done.stderr
    scripted_environment(monkeypatch, tmp_path)
    async with scripted_kernels(templates=False) as make:
        kernel = await make()
        assert kernel.names == ["a"]
        assert kernel.half_made == []
        await kernel.restore("a")
        assert await kernel.client.value("x") == "'kept'"
        await kernel.snapshot("b")
        await kernel.restore("b")
        kernel.store.delete(kernel.store.get("a"))
        assert await kernel.client.value("x") == "'kept'"
