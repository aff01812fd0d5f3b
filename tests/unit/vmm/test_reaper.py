"""The journal and the reaper, with real processes: what a dead owner left is ended, and never anything else."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from fc_kernel.base.paths import LOCK_NAME, RunDir, new_vm_id, runtime_dir
from fc_kernel.errors import RunDirError
from fc_kernel.vmm import journal
from fc_kernel.vmm.journal import JOURNAL_NAME, JournalEntry, executable, list_entries, read_entry, start_time
from fc_kernel.vmm.reaper import reap

DEADLINE_S = 30
#: Makes run directories, says so, and waits to be killed.
OWNER = """
import sys
from fc_kernel.base.paths import RunDir, runtime_dir
dirs = [RunDir.create(runtime_dir(), name) for name in sys.argv[1:]]
print(flush=True)
sys.stdin.read()
"""


class Owner:
    """Another process that owns run directories."""

    def __init__(self, *names: str) -> None:
        self.paths = [runtime_dir() / name for name in names]
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, *names], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=DEADLINE_S)


Own: TypeAlias = Callable[..., Owner]
Spawn: TypeAlias = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def own() -> Iterator[Own]:
    owners: list[Owner] = []

    def make(*names: str) -> Owner:
        owners.append(Owner(*names))
        return owners[-1]

    yield make
    for owner in owners:
        owner.kill()
        for path in owner.paths:
            shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    processes: list[subprocess.Popen[bytes]] = []

    def make() -> subprocess.Popen[bytes]:
        processes.append(subprocess.Popen(["sleep", "600"], start_new_session=True))
        # Between fork and exec the program is still this one.
        ours, end = executable(os.getpid()), time.monotonic() + DEADLINE_S
        while executable(processes[-1].pid) == ours:
            assert time.monotonic() < end
        return processes[-1]

    yield make
    for process in processes:
        process.kill()
        process.wait(DEADLINE_S)


def entry_of(pid: int, vm_id: str, **changes: Any) -> JournalEntry:
    entry = JournalEntry.of_process(pid, vm_id=vm_id, monitor="qemu", labels={"kernel_id": "k", "notebook": "a.ipynb"})
    return dataclasses.replace(entry, **changes)


def test_an_orphan_is_ended_and_its_directory_removed(own: Own, spawn: Spawn) -> None:
    owner, monitor = own("000000a1"), spawn()
    entry_of(monitor.pid, "000000a1").write(owner.paths[0])
    owner.kill()
    assert [entry.owner_alive for entry in list_entries(runtime_dir())] == [False]
    (reaped,) = reap(runtime_dir())
    assert (reaped.vm_id, reaped.outcome) == ("000000a1", f"removed; its process {monitor.pid} was killed")
    assert monitor.wait(DEADLINE_S) == -signal.SIGKILL
    assert not owner.paths[0].exists()
    assert reap(runtime_dir()) == []
    assert reaped.to_dict() == {"vm_id": "000000a1", "outcome": reaped.outcome}


def test_a_living_owners_is_spared(own: Own, spawn: Spawn) -> None:
    owner, monitor = own("000000a2"), spawn()
    entry_of(monitor.pid, "000000a2").write(owner.paths[0])
    mine = RunDir.create(runtime_dir(), new_vm_id())
    entry_of(monitor.pid, mine.path.name).write(mine.path)
    assert reap(runtime_dir()) == []
    assert monitor.poll() is None
    assert [entry.owner_alive for entry in list_entries(runtime_dir())] == [True, True]
    mine.remove()


@pytest.mark.parametrize(
    "changes",
    [
        lambda entry: {"start_time": entry.start_time - 1},
        lambda entry: {"start_time": entry.start_time + 1},
        lambda entry: {"exe": (entry.exe[0], entry.exe[1] + 1)},
        lambda entry: {"exe": (entry.exe[0] + 1, entry.exe[1])},
    ],
)
def test_a_recycled_pid_is_spared(own: Own, spawn: Spawn, changes: Callable[[JournalEntry], dict[str, Any]]) -> None:
    owner, stranger = own("000000a3"), spawn()
    entry = entry_of(stranger.pid, "000000a3")
    dataclasses.replace(entry, **changes(entry)).write(owner.paths[0])
    owner.kill()
    (reaped,) = reap(runtime_dir())
    assert "another process now and was left alone" in reaped.outcome
    assert not owner.paths[0].exists()
    assert stranger.poll() is None


def test_a_process_that_has_ended_already(own: Own, spawn: Spawn) -> None:
    owner, monitor = own("000000a4"), spawn()
    entry_of(monitor.pid, "000000a4").write(owner.paths[0])
    owner.kill()
    monitor.kill()
    monitor.wait(DEADLINE_S)
    (reaped,) = reap(runtime_dir())
    assert reaped.outcome == "removed; its process had ended"


def test_an_owner_that_died_before_it_started_anything(own: Own) -> None:
    owner = own("000000a5")
    owner.kill()
    (reaped,) = reap(runtime_dir())
    assert reaped.outcome == "removed; no process had been recorded"
    assert not owner.paths[0].exists()


def test_a_directory_that_lost_its_lock_goes_after_a_while(own: Own, spawn: Spawn) -> None:
    path = runtime_dir() / "000000a6"
    path.mkdir(mode=0o700)
    monitor = spawn()
    entry_of(monitor.pid, "000000a6").write(path)
    assert reap(runtime_dir()) == []
    os.utime(path, (0, 0))
    (reaped,) = reap(runtime_dir())
    assert "was killed" in reaped.outcome
    assert not path.exists()


def test_what_is_no_directory_is_left_alone(tmp_path: Path) -> None:
    stray, link = runtime_dir() / "stray", runtime_dir() / "link"
    stray.write_text("x")
    (tmp_path / "kept").write_text("x")
    (tmp_path / LOCK_NAME).touch()
    link.symlink_to(tmp_path)
    try:
        assert reap(runtime_dir()) == []
        assert list_entries(runtime_dir()) == []
        assert (tmp_path / "kept").exists()
    finally:
        stray.unlink()
        link.unlink()


def test_two_reapers_at_once(own: Own, spawn: Spawn) -> None:
    names = [f"0000{number:04x}" for number in range(20)]
    owner, monitor = own(*names), spawn()
    entry_of(monitor.pid, names[7]).write(owner.paths[7])
    owner.kill()
    with ThreadPoolExecutor(4) as pool:
        reaped = [vm.vm_id for found in pool.map(lambda _: reap(runtime_dir()), range(4)) for vm in found]
    assert sorted(reaped) == names
    assert monitor.wait(DEADLINE_S) == -signal.SIGKILL
    assert not any(path.exists() for path in owner.paths)


def test_what_cannot_be_removed_is_said_so(own: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = own("000000a7")
    owner.kill()
    with monkeypatch.context() as patch:
        patch.setattr("fc_kernel.vmm.reaper.shutil.rmtree", lambda *_, **__: None)
        (reaped,) = reap(runtime_dir())
    assert reaped.outcome.startswith(f"could not be removed ({owner.paths[0]})")
    assert len(reap(runtime_dir())) == 1


def test_a_runtime_directory_that_cannot_be_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setattr("fc_kernel.base.paths.MAX_SOCKET_PATH_BYTES", 1000)
    for function in (reap, list_entries):
        with pytest.raises(RunDirError, match="mode"):
            function(tmp_path)


GOOD = {
    "vm_id": "000000b1", "monitor": "qemu", "pid": 2, "start_time": 5, "exe": [1, 2], "owner_pid": 3, "created": 1.5,
    "kernel_id": "k", "labels": {"a": "b"}, "lifetime": "bound", "owner_alive": True,
}  # fmt: skip
WRONG: dict[str, dict[str, Any]] = {
    "another id": {"vm_id": "000000b2"},
    "id above": {"vm_id": "../000000b1"},
    "the init process": {"pid": 1},
    "no process": {"pid": 0},
    "all processes": {"pid": -1},
    "pid of another type": {"pid": "2"},
    "pid true": {"pid": True},
    "pid too large": {"pid": 2**70},
    "fraction": {"pid": 2.0},
    "start of another type": {"start_time": None},
    "owner of another type": {"owner_pid": [3]},
    "program of three": {"exe": [1, 2, 3]},
    "program of none": {"exe": []},
    "program of text": {"exe": "ab"},
    "program of nothing": {"exe": None},
    "monitor of another type": {"monitor": ["qemu"]},
    "kernel of another type": {"kernel_id": {"a": 1}},
    "time of another type": {"created": "now"},
    "no time": {"created": float("nan")},
    "endless time": {"created": float("inf")},
    "labels of another type": {"labels": ["a"]},
    "label of another type": {"labels": {"a": 1}},
    "more than there is": {"command": "rm"},
}
HOSTILE = {name: json.dumps({**GOOD, **changes}).encode() for name, changes in WRONG.items()} | {
    "nothing": b"",
    "cut off": json.dumps(GOOD).encode()[:-1],
    "a list": b"[]",
    "a number": b"7",
    "no UTF-8": b"\xff\xfe",
    "deep": b"[" * 60_000,
    "huge number": b'{"pid": ' + b"9" * 5000 + b"}",
    "large": json.dumps({**GOOD, "kernel_id": "x" * 70_000}).encode(),
    "something missing": b'{"vm_id": "000000b1", "exe": [1, 2]}',
}


@pytest.fixture
def run_dir() -> Iterator[Path]:
    owned = RunDir.create(runtime_dir(), "000000b1")
    yield owned.path
    owned.remove()


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_entry_is_none(kind: str, run_dir: Path) -> None:
    (run_dir / JOURNAL_NAME).write_bytes(HOSTILE[kind])
    assert read_entry(run_dir) is None
    assert list_entries(runtime_dir()) == []
    assert reap(runtime_dir()) == []


def test_the_good_one_among_them(run_dir: Path) -> None:
    (run_dir / JOURNAL_NAME).write_text(json.dumps(GOOD))
    entry = read_entry(run_dir)
    assert entry is not None
    assert json.loads(json.dumps(entry.to_dict())) == GOOD


@pytest.mark.parametrize("kind", ["fifo", "link", "directory"])
def test_an_entry_that_is_no_file(kind: str, run_dir: Path, tmp_path: Path) -> None:
    path = run_dir / JOURNAL_NAME
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        (tmp_path / "elsewhere").write_text(json.dumps(GOOD))
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.mkdir()
    assert read_entry(run_dir) is None


def test_writing_is_all_or_nothing(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry_of(os.getpid(), "000000b1", kernel_id="first").write(run_dir)

    def full(self: Path, text: str) -> int:
        with self.open("w") as file:
            file.write(text[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        entry_of(os.getpid(), "000000b1", kernel_id="second").write(run_dir)
    entry = read_entry(run_dir)
    assert entry is not None
    assert entry.kernel_id == "first"
    assert {path.name for path in run_dir.iterdir()} == {JOURNAL_NAME, "owner.lock"}


def test_the_entry_of_a_process(spawn: Spawn) -> None:
    process = spawn()
    entry = entry_of(process.pid, "000000b1")
    assert entry.names(process.pid)
    assert not entry.names(os.getpid())
    assert (entry.owner_pid, entry.kernel_id, entry.monitor) == (os.getpid(), "k", "qemu")
    assert entry.exe[1] == Path(shutil.which("sleep") or "").stat().st_ino
    process.kill()
    process.wait(DEADLINE_S)
    assert not entry.names(process.pid)
    with pytest.raises(ProcessLookupError):
        entry_of(process.pid, "000000b1")


def test_a_process_may_call_itself_anything() -> None:
    before = Path("/proc/self/comm").read_bytes()[:-1]
    started = start_time(os.getpid())
    set_name = ctypes.CDLL(None).prctl
    try:
        for name in (b"a b) R 1 (c", b"\xff\xfe) 1 2 3", b""):
            assert set_name(15, name, 0, 0, 0) == 0
            assert start_time(os.getpid()) == started
    finally:
        set_name(15, before, 0, 0, 0)


def test_what_is_listed_oldest_first(run_dir: Path) -> None:
    second = RunDir.create(runtime_dir(), "000000b0")
    entry_of(os.getpid(), "000000b1", created=1.0).write(run_dir)
    entry_of(os.getpid(), "000000b0", created=2.0).write(second.path)
    assert [entry.vm_id for entry in list_entries(runtime_dir())] == ["000000b1", "000000b0"]
    second.remove()
    assert journal.read_entry(second.path) is None
