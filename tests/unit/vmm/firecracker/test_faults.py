"""What the driver makes of a Firecracker that dies, hangs, refuses, or does what it was asked and does not say so."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from fc_kernel.errors import AgentUnreachable, LaunchError, MonitorApiError, OutcomeUnknown, UnsupportedByMonitor
from fc_kernel.machine import boot
from fc_kernel.settings.config import FcKernelConfig
from fc_kernel.settings.resolve import Resolved
from fc_kernel.settings.spec import VmSpec
from fc_kernel.settings.tenant import Tenant
from fc_kernel.settings.tier import Tier
from fc_kernel.vmm import isolation
from fc_kernel.vmm.base import BootPlan, SnapshotCreate, SnapshotFiles, VmmState
from fc_kernel.vmm.firecracker import api
from fc_kernel.vmm.firecracker.driver import FirecrackerVmm
from fc_kernel.vmm.monitors import Choice

from ....firecracker_double.program import VM, Double

SPEC = VmSpec(kernel=Path("/k/vmlinux"), vcpu_count=1, mem_size_mib=128, boot_args="quiet")
BOOT = ["PUT /machine-config", "PUT /boot-source", "PUT /vsock", "PUT /entropy", "PUT /actions"]
#: Short enough to wait for, long enough for a double to get that far on a busy host.
START_TIMEOUT_S = 3.0

Make = Callable[..., FirecrackerVmm]


@pytest.fixture
def make(tmp_path: Path, run_dir: Path) -> Make:
    def make(faults: dict[str, str], version: str = "1.12.1", timeout_s: float = 60.0) -> FirecrackerVmm:
        double = Double.make(tmp_path, version, faults)
        plan = BootPlan(vm_id=run_dir.name, spec=SPEC, run_dir=run_dir, start_timeout_s=timeout_s)
        return FirecrackerVmm(plan, double.program)

    return make


def files(tmp_path: Path) -> SnapshotFiles:
    return SnapshotFiles(vmstate=tmp_path / "vmstate", mem=tmp_path / "mem")


def state(vmm: FirecrackerVmm) -> VmmState:
    """Looked up anew; a type checker takes a property for what it was at the last assertion."""
    return vmm.state


def is_over(vmm: FirecrackerVmm) -> None:
    """Nothing of a failed start is left."""
    assert vmm.pid is None
    assert state(vmm) is VmmState.CLOSED
    assert not [child for child in psutil.Process().children() if child.is_running()]


async def fails_to_start(vmm: FirecrackerVmm) -> LaunchError:
    with pytest.raises(LaunchError) as caught:
        await vmm.start()
    is_over(vmm)
    return caught.value


async def test_exit_before_the_api_is_up(make: Make) -> None:
    """F02: the error has the exit status, what the program said and the log's last lines."""
    error = await fails_to_start(make({"start": "exit"}))
    assert "exited with status 7" in str(error)
    assert "double of Firecracker v1.12.1" in error.console
    assert any("what the log says last" in line for line in error.console)


async def test_killed_before_the_api_is_up(make: Make, run_dir: Path) -> None:
    """F02: the same for a kill from outside."""
    vmm = make({"start": "hang"})
    starting = asyncio.ensure_future(vmm.start())
    while vmm.pid is None or not (run_dir / "log").read_text():
        await asyncio.sleep(0.01)
    os.kill(vmm.pid, signal.SIGKILL)
    with pytest.raises(LaunchError, match="killed by signal 9") as caught:
        await starting
    assert any("what the log says last" in line for line in caught.value.console)
    is_over(vmm)


async def test_api_that_never_comes(make: Make) -> None:
    error = await fails_to_start(make({"start": "hang"}, timeout_s=0.5))
    assert "not ready within 0.5 s" in str(error)


@pytest.mark.parametrize("fault", ["stop", "hang"])
async def test_silence_before_the_instance_starts(make: Make, tmp_path: Path, fault: str) -> None:
    """F03: a stopped or hanging monitor is ended at the deadline."""
    error = await fails_to_start(make({"PUT /vsock": fault}, timeout_s=START_TIMEOUT_S))
    assert f"not ready within {START_TIMEOUT_S:g} s" in str(error)
    assert any("what the log says last" in line for line in error.console)
    assert Double.asked_in(tmp_path)[-1] == "PUT /vsock"


@pytest.mark.parametrize("request_", BOOT)
async def test_refused_request(make: Make, tmp_path: Path, request_: str) -> None:
    error = await fails_to_start(make({request_: "refuse"}))
    assert f"{request_}: the double refuses" in str(error)
    assert Double.asked_in(tmp_path)[-1] == request_


@pytest.mark.parametrize("request_", [BOOT[0], BOOT[-1]])
async def test_exit_at_a_request(make: Make, request_: str) -> None:
    error = await fails_to_start(make({request_: "exit"}))
    assert "status 7" in str(error) or "no answer" in str(error)


async def test_lost_reply_to_the_start(make: Make) -> None:
    """Nobody knows whether the guest runs, so it is ended."""
    error = await fails_to_start(make({"PUT /actions": "drop"}))
    assert isinstance(error.__cause__, OutcomeUnknown)


async def test_fault_messages_are_cut(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "MAX_FAULT", 10)
    error = await fails_to_start(make({"PUT /vsock": "refuse"}))
    assert "PUT /vsock: the double\n" in str(error) + "\n"
    assert "refuses" not in str(error).splitlines()[0]


@pytest.mark.parametrize("lost", ["PATCH /vm"])
async def test_lost_reply_to_a_pause_is_looked_up(make: Make, tmp_path: Path, lost: str) -> None:
    """The instance is asked for its state; it was paused, so nothing has failed."""
    vmm = make({lost: "drop"})
    await vmm.start()
    await vmm.pause()
    assert state(vmm) is VmmState.PAUSED
    await vmm.resume()
    assert state(vmm) is VmmState.RUNNING
    await vmm.aclose()
    assert Double.asked_in(tmp_path)[len(BOOT) :] == ["PATCH /vm", "GET /", "PATCH /vm", "GET /"]


async def test_pause_without_any_answer(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    vmm = make({"PATCH /vm": "hang"})
    await vmm.start()
    monkeypatch.setattr(api, "REQUEST_TIMEOUT_S", 0.3)
    with pytest.raises(OutcomeUnknown, match="PATCH /vm: no answer"):
        await vmm.pause()
    assert state(vmm) is VmmState.RUNNING
    await vmm.aclose()


async def test_death_during_a_pause(make: Make) -> None:
    vmm = make({"PATCH /vm": "exit"})
    await vmm.start()
    with pytest.raises(OutcomeUnknown):
        await vmm.pause()
    assert (await vmm.wait()).returncode == 7
    assert state(vmm) is VmmState.EXITED
    await vmm.aclose()


async def test_lost_reply_to_a_snapshot(make: Make, tmp_path: Path) -> None:
    """F15: the outcome is unknown, the files are discarded, the VM is resumed; a diff has lost its base."""
    vmm = make({"PUT /snapshot/create": "drop"})
    await vmm.start()
    await vmm.pause()
    with pytest.raises(OutcomeUnknown, match="PUT /snapshot/create: no answer"):
        await vmm.snapshot(SnapshotCreate(files=files(tmp_path)))
    assert Double.asked_in(tmp_path)[-2:] == ["PUT /snapshot/create", "GET /"]
    assert not files(tmp_path).vmstate.exists()
    assert not files(tmp_path).mem.exists()
    assert state(vmm) is VmmState.PAUSED
    with pytest.raises(UnsupportedByMonitor, match="a full snapshot first"):
        await vmm.snapshot(SnapshotCreate(files=files(tmp_path), kind="diff"))
    await vmm.resume()
    assert state(vmm) is VmmState.RUNNING
    await vmm.aclose()


async def test_refused_snapshot(make: Make, tmp_path: Path) -> None:
    vmm = make({"PUT /snapshot/create": "refuse"})
    await vmm.start()
    await vmm.pause()
    with pytest.raises(MonitorApiError, match="the double refuses") as caught:
        await vmm.snapshot(SnapshotCreate(files=files(tmp_path)))
    assert caught.value.status == 400
    assert state(vmm) is VmmState.PAUSED
    await vmm.aclose()


async def test_failed_heal_leaves_the_vm_paused(make: Make, run_dir: Path) -> None:
    """A resume that would hang every connection is not made."""
    vmm = make({"PUT /snapshot/create": "refuse"}, version="1.16.1")
    await vmm.start()
    await vmm.pause()
    with pytest.raises(MonitorApiError):
        await vmm.resume()
    assert state(vmm) is VmmState.PAUSED
    assert not (run_dir / "heal.mem").exists()
    await vmm.aclose()


async def test_guest_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F04: the monitor runs and nobody in the guest answers: the error has the console's last lines, nothing is left."""
    double = Double.make(tmp_path, "1.16.1")
    choice = Choice("firecracker", Tier.KVM, lambda plan: FirecrackerVmm(plan, double.program))
    monkeypatch.setattr(boot, "choose_monitor", lambda *_: choice)
    monkeypatch.setattr(isolation, "KVM_VM", VM)
    monkeypatch.setattr(boot, "with_image", lambda *_: (SPEC, None, None))
    resolved = Resolved(
        spec=SPEC,
        image="default",
        monitor="firecracker",
        minimum_tier=Tier.KVM,
        network="none",
        start_timeout_s=START_TIMEOUT_S,
    )
    with pytest.raises(AgentUnreachable, match=f"did not answer within {START_TIMEOUT_S:g} s") as caught:
        await boot.boot(resolved, Tenant.of_this_process(FcKernelConfig()), labels={})
    assert "guest: booting" in caught.value.console
    assert not [child for child in psutil.Process().children() if child.is_running()]
