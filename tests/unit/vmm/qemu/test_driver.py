"""The QEMU driver against a double: what it says over QMP, and what it makes of a QEMU that fails."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from fc_kernel.errors import (
    LaunchError,
    MonitorApiError,
    MonitorError,
    OutcomeUnknown,
    StateError,
    UnsupportedByMonitor,
)
from fc_kernel.settings.spec import DriveSpec, VmSpec, VsockSpec
from fc_kernel.settings.tier import Tier
from fc_kernel.vmm.base import BootPlan, SnapshotCreate, SnapshotFiles, SnapshotLoad, VmmState
from fc_kernel.vmm.journal import read_entry
from fc_kernel.vmm.qemu import monitor
from fc_kernel.vmm.qemu.driver import QemuVmm

from ....qemu_double import commands_in, make_double

SPEC = VmSpec(kernel=Path("/k/vmlinux"), vcpu_count=1, mem_size_mib=128, boot_args="quiet")
FILES = SnapshotFiles(vmstate=Path("/s/vmstate"), mem=Path("/s/mem"))

Make = Callable[..., QemuVmm]


@pytest.fixture
def make(tmp_path: Path, run_dir: Path) -> Make:
    def make(
        faults: dict[str, str] | None = None, *, spec: VmSpec = SPEC, timeout_s: float = 60.0, accelerated: bool = False
    ) -> QemuVmm:
        program = make_double(tmp_path, **(faults or {}))
        plan = BootPlan(vm_id=run_dir.name, spec=spec, run_dir=run_dir, start_timeout_s=timeout_s)
        return QemuVmm(plan, program, accelerated=accelerated)

    return make


def state(vmm: QemuVmm) -> VmmState:
    """Looked up anew; a type checker takes a property for what it was at the last assertion."""
    return vmm.state


async def fails_to_start(vmm: QemuVmm) -> LaunchError:
    with pytest.raises(LaunchError) as caught:
        await vmm.start()
    assert vmm.pid is None
    assert state(vmm) is VmmState.CLOSED
    assert not [child for child in psutil.Process().children() if child.is_running()]
    return caught.value


async def test_start_pause_resume(make: Make, tmp_path: Path, run_dir: Path) -> None:
    vmm = make()
    await vmm.start()
    assert state(vmm) is VmmState.RUNNING
    assert vmm.uds_path == run_dir / "v.sock"
    assert vmm.uds_path.is_socket()
    entry = read_entry(run_dir)
    assert entry is not None
    assert (entry.pid, entry.monitor) == (vmm.pid, "qemu")
    await vmm.pause()
    assert state(vmm) is VmmState.PAUSED
    await vmm.resume()
    assert state(vmm) is VmmState.RUNNING
    await vmm.aclose()
    assert commands_in(tmp_path) == ["qmp_capabilities", "cont", "human-monitor-command", "stop", "cont"]
    assert vmm.console_tail() == ["qemu: somebody is there"]
    assert not vmm.uds_path.exists()


@pytest.mark.parametrize("accelerated", [True, False])
async def test_tier_is_what_the_process_has_open(make: Make, accelerated: bool) -> None:
    """Asking for acceleration gives nothing: the double does not open /dev/kvm."""
    vmm = make(accelerated=accelerated)
    await vmm.start()
    assert vmm.tier is Tier.EMULATED
    await vmm.aclose()


async def test_exit_at_the_start(make: Make) -> None:
    error = await fails_to_start(make({"start": "exit"}))
    assert "exited with status 1" in str(error)
    assert error.console == ("qemu: it cannot be",)


@pytest.mark.parametrize("where", ["start", "greeting", "cont"])
async def test_silence_at_the_start(make: Make, where: str) -> None:
    error = await fails_to_start(make({where: "hang"}, timeout_s=1.0))
    assert "not ready within 1 s" in str(error)


@pytest.mark.parametrize("fault", ["exit", "garbage", "hang up"])
async def test_no_greeting(make: Make, fault: str) -> None:
    error = await fails_to_start(make({"greeting": fault}))
    assert ("exited with status 1" if fault == "exit" else "cannot talk to QEMU") in str(error)
    assert "qemu: somebody is there" in error.console


async def test_refused_cont(make: Make) -> None:
    error = await fails_to_start(make({"cont": "refuse"}))
    assert "QEMU refused cont: the double refuses" in str(error)


@pytest.mark.parametrize("fault", ["exit", "hang up"])
async def test_lost_reply_to_cont(make: Make, fault: str) -> None:
    error = await fails_to_start(make({"cont": fault}))
    assert "QEMU could not start the VM: QEMU did not answer cont" in str(error)


async def test_refused_pause(make: Make) -> None:
    vmm = make({"stop": "refuse"})
    await vmm.start()
    with pytest.raises(MonitorApiError, match="QEMU refused stop: the double refuses"):
        await vmm.pause()
    assert state(vmm) is VmmState.RUNNING
    await vmm.aclose()


async def test_pause_without_an_answer(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    vmm = make({"stop": "hang"})
    await vmm.start()
    monkeypatch.setattr(monitor, "QMP_TIMEOUT_S", 0.2)
    with pytest.raises(OutcomeUnknown, match=r"QEMU did not answer stop within 0\.2 s"):
        await vmm.pause()
    await vmm.aclose()
    assert vmm.pid is None


async def test_death_during_a_pause(make: Make) -> None:
    vmm = make({"stop": "exit"})
    await vmm.start()
    with pytest.raises(OutcomeUnknown, match="QEMU did not answer stop"):
        await vmm.pause()
    assert (await vmm.wait()).returncode == 1
    assert state(vmm) is VmmState.EXITED
    with pytest.raises(StateError):
        await vmm.resume()
    await vmm.aclose()


async def test_stopped_monitor_can_be_killed(make: Make) -> None:
    vmm = make()
    await vmm.start()
    assert vmm.pid is not None
    os.kill(vmm.pid, signal.SIGSTOP)
    async with asyncio.timeout(30):
        assert (await vmm.kill()).returncode == -signal.SIGKILL
    await vmm.aclose()


async def test_what_it_cannot_do_starts_nothing(make: Make, tmp_path: Path, run_dir: Path) -> None:
    vmm = make(spec=SPEC.model_copy(update={"vsock": VsockSpec(cid=5, uds_path=Path("v.sock"))}))
    with pytest.raises(UnsupportedByMonitor, match=r"needs Firecracker 1\.12; found QEMU 7\.2\.22"):
        await vmm.start()
    assert state(vmm) is VmmState.CREATED
    assert vmm.pid is None
    await vmm.aclose()
    assert sorted(path.name for path in Path(run_dir).iterdir()) == ["owner.lock"]  # noqa: ASYNC240


async def test_vsock_override_names_what_is_needed(make: Make) -> None:
    vmm = make()
    with pytest.raises(UnsupportedByMonitor, match=r"vsock_override needs Firecracker 1\.16\.0; found QEMU 7\.2\.22"):
        await vmm.load(SnapshotLoad(files=FILES, vsock_override=Path("v.sock")))
    assert state(vmm) is VmmState.CREATED
    with pytest.raises(StateError):
        await vmm.snapshot(SnapshotCreate(files=FILES))
    await vmm.aclose()


async def test_missing_snapshot(make: Make) -> None:
    vmm = make()
    with pytest.raises(LaunchError, match=r"vmstate cannot be read: /s/vmstate: No such file"):
        await vmm.load(SnapshotLoad(files=FILES))
    assert vmm.pid is None
    assert state(vmm) is VmmState.CLOSED


async def test_guest_that_does_not_come_to_rest(make: Make, tmp_path: Path) -> None:
    """It is paused and goes on; but what is on its way to it or from it would be lost in a snapshot."""
    vmm = make()
    await vmm.start()
    await vmm.pause()
    assert state(vmm) is VmmState.PAUSED
    files = SnapshotFiles(vmstate=tmp_path / "vmstate", mem=tmp_path / "mem")
    with pytest.raises(MonitorError, match="did not bring its connections to rest"):
        await vmm.snapshot(SnapshotCreate(files=files))
    assert not files.vmstate.exists()
    assert not files.mem.exists()
    await vmm.resume()
    assert state(vmm) is VmmState.RUNNING
    await vmm.written()
    await vmm.aclose()


async def test_limits_fit_the_drives(make: Make, tmp_path: Path) -> None:
    """The monitor may write as much as its largest writable drive has, and no less than the memory."""
    with (tmp_path / "large").open("wb") as file:
        file.truncate(3 << 30)
    drive = DriveSpec(drive_id="large", path_on_host=tmp_path / "large", is_read_only=False)
    vmm = make(spec=SPEC.model_copy(update={"extra_drives": (drive,)}))
    await vmm.start()
    soft, hard = psutil.Process(vmm.pid).rlimit(psutil.RLIMIT_FSIZE)
    assert soft == hard >= 3 << 30
    assert psutil.Process(vmm.pid).rlimit(psutil.RLIMIT_CORE) == (0, 0)
    await vmm.aclose()


async def test_a_start_cancelled_as_its_socket_is_connected(make: Make) -> None:
    """Nobody gets the socket any more, and so it is closed."""
    vmm = make()
    ours, theirs = socket.socketpair()

    class Connected:
        async def connect(self, name: str) -> socket.socket:
            return ours

    class Process:
        async def guard(self, what: str, connecting: asyncio.Future[socket.socket]) -> None:
            await connecting
            raise asyncio.CancelledError

    place: Any = Connected()
    process: Any = Process()
    with theirs:
        with pytest.raises(asyncio.CancelledError):
            await vmm._socket(process, place, "q.sock")
        assert ours.fileno() == -1
    await vmm.aclose()
