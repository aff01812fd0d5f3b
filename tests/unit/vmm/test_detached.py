"""A detached monitor outlives the process that started it, is found by its journal entry, and is ended by its next owner."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from fc_kernel.base.paths import RunDir, owner_is_dead, runtime_dir
from fc_kernel.errors import MonitorExited, StateError
from fc_kernel.vmm import console as console_module
from fc_kernel.vmm.console import CONSOLE_FILE, ConsoleFile, ConsoleRing
from fc_kernel.vmm.executor import DirectPlace
from fc_kernel.vmm.journal import read_entry
from fc_kernel.vmm.launch import Launch, Lifetime, ResourceLimits
from fc_kernel.vmm.process import MonitorProcess
from fc_kernel.vmm.qemu.monitor import QemuMonitor
from fc_kernel.vmm.reaper import reap

from ...qemu_double import make_double

DEADLINE_S = 30.0
LIMITS = ResourceLimits(max_file_bytes=1 << 20)
VM_ID = "000000de"
#: Starts a VM under the double of QEMU, says so, and waits to be killed.
OWNER = """
import asyncio, sys
from pathlib import Path
from fc_kernel.base.paths import RunDir, runtime_dir
from fc_kernel.settings.spec import VmSpec
from fc_kernel.vmm.base import BootPlan
from fc_kernel.vmm.launch import Lifetime
from fc_kernel.vmm.qemu.driver import QemuVmm
from fc_kernel.vmm.qemu.program import QemuProgram

async def main():
    owned = RunDir.create(runtime_dir(), sys.argv[2])
    spec = VmSpec(kernel=Path("/k"), vcpu_count=1, mem_size_mib=64)
    plan = BootPlan(vm_id=sys.argv[2], spec=spec, run_dir=owned.path, lifetime=Lifetime(sys.argv[3]))
    vmm = QemuVmm(plan, QemuProgram(Path(sys.argv[1]), "7.2.22"))
    await vmm.start()
    print(vmm.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def start(tmp_path: Path, lifetime: Lifetime) -> int:
    """The pid of a VM whose owner was killed."""
    program = make_double(tmp_path)
    command = [sys.executable, "-c", OWNER, str(program.path), VM_ID, lifetime]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        owner.send_signal(signal.SIGKILL)
    return pid


@pytest.fixture
def run_path() -> Iterator[Path]:
    path = runtime_dir() / VM_ID
    yield path
    if (entry := read_entry(path)) is not None and entry.names(entry.pid):
        os.kill(entry.pid, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(entry.pid)] if psutil.pid_exists(entry.pid) else [], DEADLINE_S)
    reap(runtime_dir())
    assert not path.exists()


def adopt(path: Path) -> RunDir:
    """Its owner is dead; it is ours now."""
    end = time.monotonic() + DEADLINE_S
    while (lock := owner_is_dead(path)) is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    return RunDir(path, lock)


async def test_it_lives_is_attached_to_and_ended(tmp_path: Path, run_path: Path) -> None:
    pid = await asyncio.to_thread(start, tmp_path, Lifetime.DETACHED)
    assert reap(runtime_dir()) == [], "nobody has to own it all the time"
    owned = adopt(run_path)
    console = ConsoleRing()
    process = MonitorProcess.attach(run_path, console)
    assert process.pid == pid
    assert process.exited is None
    assert console.tail() == ["qemu: somebody is there"]
    # The sockets are where they were, and for us alone.
    sock = await DirectPlace(run_path).connect("qmp.sock")
    qmp = await QemuMonitor.connect(VM_ID, sock)
    assert await qmp.execute("query-status") == {"status": "paused"}
    await qmp.aclose()
    exited = await process.kill()
    assert exited.returncode is None
    assert str(exited) == "the monitor ended"
    assert exited.console == ("qemu: somebody is there",)
    await process.aclose()
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    owned.remove()


async def test_a_bound_one_dies_with_its_owner(tmp_path: Path, run_path: Path) -> None:
    pid = await asyncio.to_thread(start, tmp_path, Lifetime.BOUND)
    end = time.monotonic() + DEADLINE_S
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
    owned = adopt(run_path)
    with pytest.raises(StateError, match="no journal entry of a detached monitor"):
        MonitorProcess.attach(run_path, ConsoleRing())
    owned.remove()


def test_the_reaper_removes_what_a_detached_one_left(tmp_path: Path, run_path: Path) -> None:
    pid = start(tmp_path, Lifetime.DETACHED)
    assert reap(runtime_dir()) == []
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + DEADLINE_S
    while not (reaped := reap(runtime_dir())):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert reaped[0].vm_id == VM_ID
    assert not run_path.exists()


class Spawned:
    """A detached child of this process."""

    def __init__(self, run_dir: Path, *argv: str) -> None:
        self.console = ConsoleRing()
        launch = Launch(argv=argv, limits=LIMITS, lifetime=Lifetime.DETACHED)
        self.process = MonitorProcess.spawn(launch, cwd=run_dir, console=self.console)

    def record(self, run_dir: Path) -> None:
        end = time.monotonic() + DEADLINE_S
        while psutil.Process(self.process.pid).name() != "sleep":
            assert time.monotonic() < end
        self.process.record(run_dir, vm_id=run_dir.name, monitor="qemu", labels={}, lifetime=Lifetime.DETACHED)


async def test_our_own_childs_exit_status_is_known(run_dir: Path) -> None:
    spawned = Spawned(run_dir, "sh", "-c", "echo last words; exit 7")
    exited = await spawned.process.wait()
    assert (exited.returncode, exited.console) == (7, ("last words",))
    await spawned.process.aclose()


async def test_letting_go_leaves_it_running(run_dir: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    spawned = Spawned(run_dir, "sleep", "600")
    spawned.record(run_dir)
    waiting = asyncio.ensure_future(spawned.process.wait())
    await asyncio.sleep(0)
    spawned.process.detach()
    spawned.process.detach()
    with pytest.raises(StateError, match="let go"):
        await waiting
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208
    assert psutil.Process(spawned.process.pid).is_running()
    again = MonitorProcess.attach(run_dir, ConsoleRing())
    assert (await again.kill()).returncode is None
    await again.aclose()
    with pytest.raises(MonitorExited, match="has ended"):
        MonitorProcess.attach(run_dir, ConsoleRing())
    await Spawned(run_path_of(run_dir), "true").process.aclose()  # collects the one that was let go
    assert not psutil.pid_exists(spawned.process.pid)


def run_path_of(run_dir: Path) -> Path:
    (run_dir / CONSOLE_FILE).unlink()
    return run_dir


async def test_a_bound_one_cannot_be_let_go(run_dir: Path) -> None:
    process = MonitorProcess.spawn(Launch(argv=["sleep", "600"], limits=LIMITS), cwd=run_dir, console=ConsoleRing())
    with pytest.raises(StateError, match="cannot be let go"):
        process.detach()
    await process.aclose()


async def test_a_recycled_pid_is_not_attached_to(run_dir: Path) -> None:
    spawned = Spawned(run_dir, "sleep", "600")
    spawned.record(run_dir)
    entry = read_entry(run_dir)
    assert entry is not None
    for changes in ({"start_time": entry.start_time + 1}, {"exe": (entry.exe[0], entry.exe[1] + 1)}):
        replace(entry, **changes).write(run_dir)
        with pytest.raises(MonitorExited, match="has ended"):
            MonitorProcess.attach(run_dir, ConsoleRing())
    assert spawned.process.exited is None
    await spawned.process.aclose()


@pytest.mark.parametrize("lifetime", ["", "for ever", 7, None])
def test_an_entry_with_another_lifetime_is_none(run_dir: Path, lifetime: object) -> None:
    entry = {
        "vm_id": run_dir.name, "monitor": "qemu", "pid": os.getpid(), "start_time": 1, "exe": [1, 2], "owner_pid": 1,
        "created": 1.0,
    }  # fmt: skip
    (run_dir / "journal.json").write_text(json.dumps(entry))
    assert read_entry(run_dir) is not None, "one from before there were lifetimes is of a bound monitor"
    (run_dir / "journal.json").write_text(json.dumps({**entry, "lifetime": lifetime}))
    assert read_entry(run_dir) is None


def test_the_consoles_file_is_bounded(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "MAX_FILE_BYTES", 1000)
    ring, file = ConsoleRing(), ConsoleFile.create(run_dir)
    path = run_dir / CONSOLE_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    for number in range(100):
        os.write(file.fileno(), b"%098d\n" % number * 3)
        file.read_into(ring)
        assert path.stat().st_size <= 1000 + 300
    assert ring.tail(400) == [f"{number:098}" for number in range(100) for _ in range(3)]
    os.write(file.fileno(), b"x" * 5000 + b"\nthe end\n")
    file.read_into(ring)
    assert ring.tail(1) == ["the end"]
    assert path.stat().st_size == 0
    file.close()
    file.close()


def test_a_console_that_the_monitor_replaced(run_dir: Path, tmp_path: Path) -> None:
    path = run_dir / CONSOLE_FILE
    (tmp_path / "elsewhere").write_text("not ours")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        ConsoleFile.reopen(run_dir)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a regular file"):
        ConsoleFile.reopen(run_dir)
