"""What goes wrong when a test asks for it: each fault at its step, and what is left afterwards."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fc_kernel.errors import LaunchError, MonitorApiError, MonitorExited, SpecError, StateError, UnsupportedByMonitor
from fc_kernel.settings.spec import VmSpec
from fc_kernel.testing import FakeVmm
from fc_kernel.testing.scripted_guest.faults import Fault, Faults
from fc_kernel.vmm.base import BootPlan, SnapshotCreate, SnapshotLoad, VmmState

from ...waiting import until
from ..scripted_host import DEADLINE_S, CallFailed, ScriptedHost, booted, files_in, loaded, machine


def test_faults_are_read_and_counted() -> None:
    faults = Faults("freeze:die,snapshot:ENOSPC@2,renew:late=0.5")
    assert faults.at("freeze") == faults.at("freeze") == Fault("freeze", "die")
    assert [faults.at("snapshot") is None for _ in range(3)] == [True, False, True]
    assert faults.at("renew") == Fault("renew", "late", 0.5)
    assert faults.at("thaw") is None
    assert str(faults) == "freeze:die,snapshot:ENOSPC@2,renew:late=0.5"
    faults.add("snapshot:EIO@1")
    fault = faults.at("snapshot")
    assert fault is not None
    assert fault.error is not None
    assert fault.error.strerror == "Input/output error"


@pytest.mark.parametrize(
    "text", ["freeze", "freeze:", "freeze:no", "freeze:ENOTHING", "freeze:late=1.2.3", "a:die@x", " "]
)
def test_what_is_no_fault(text: str) -> None:
    with pytest.raises(SpecError, match="step:what"):
        Faults(text)


async def _goes_on(host: ScriptedHost) -> None:
    """The VM was left paused by a failure, as a driver promises."""
    assert host.vmm.state is VmmState.PAUSED
    await host.vmm.resume()
    await host.call("thaw")
    assert await host.value("x") == "1"


@pytest.mark.parametrize("step", ["snapshot", "vmstate", "written"])
@pytest.mark.parametrize(("error", "text"), [("ENOSPC", "No space"), ("EIO", "Input/output"), ("EDQUOT", "quota")])
async def test_a_file_that_cannot_be_written(tmp_path: Path, step: str, error: str, text: str) -> None:
    """The files are gone, the VM goes on, the next snapshot works, and its diff still has its base."""
    async with booted() as host:
        base, files, diff = (files_in(tmp_path, name) for name in ("base", "failed", "diff"))
        await host.run("big = 'b' * 1000000")
        await host.save(base)
        await host.run("x = 1")
        await host.vmm.inject(f"{step}:{error}@1")
        with pytest.raises(MonitorApiError, match=text):
            await host.save(files, "diff")
        assert not files.mem.exists()
        assert not files.vmstate.exists()
        if step == "written":
            await host.call("thaw")
            assert await host.value("x") == "1"
        else:
            await _goes_on(host)
        await host.save(diff, "diff")
        assert 0 < diff.mem.stat().st_blocks * 512 <= base.mem.stat().st_blocks * 512 / 4


@pytest.mark.parametrize("fault", ["pause:die", "snapshot:die", "vmstate:die", "resume:die", "written:die"])
async def test_a_monitor_that_dies_while_it_saves(tmp_path: Path, fault: str) -> None:
    async with booted(fault) as host:
        files = files_in(tmp_path)
        with pytest.raises(MonitorExited):
            await host.save(files)
        assert host.vmm.state is VmmState.EXITED
        if not fault.startswith("resume"):
            assert not files.mem.exists()
            assert not files.vmstate.exists()


@pytest.mark.parametrize(
    ("fault", "text"), [("load:die", "signal 9"), ("load:EIO", "Input/output"), ("load:hang", "within")]
)
async def test_a_monitor_that_cannot_load(tmp_path: Path, fault: str, text: str) -> None:
    files = files_in(tmp_path)
    async with booted() as host:
        await host.save(files)
    async with machine(fault) as vmm:
        plan = BootPlan(vm_id="x", spec=VmSpec(), run_dir=vmm.plan.run_dir, start_timeout_s=1.0)
        failing = FakeVmm(plan, guest="scripted", faults=fault)
        with pytest.raises(LaunchError, match=text):
            await failing.load(SnapshotLoad(files=files))
        assert failing.pid is None
    assert files.mem.exists()


async def test_a_guest_that_dies_in_the_freezer(tmp_path: Path) -> None:
    async with booted("freeze:die@2") as host:
        await host.save(files_in(tmp_path))
        answer = host.begin("freeze", hooks=True, timeout_s=1.0)
        assert (await host.vmm.wait()).returncode == -9
        assert not answer.done()


async def test_a_guest_that_hangs(tmp_path: Path) -> None:
    """It does not answer the call, and all others."""
    async with booted("freeze:hang@1") as host:
        await host.run("x = 1")
        hanging = host.begin("freeze", hooks=True, timeout_s=1.0)
        await host.call("ping")
        assert not hanging.done()
        await host.call("thaw")
        assert await host.value("x") == "1"
        await host.save(files_in(tmp_path))


async def test_a_guest_that_answers_late(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    async with booted("freeze:late=0.2") as host:
        assert (await host.save(files))["instance"] == 1
    async with loaded(files, "renew:late=0.2,thaw:late=0.2,answer:late=0.2") as copy:
        assert (await copy.restored())["instance"] == 1
        msg_id = await copy.send("%vm")
        await copy.call("answer", id=(await copy.asked())["id"], result={})
        assert (await copy.reply(msg_id))["status"] == "ok"
        assert await copy.call("ping") == {}


async def test_refused_randomness(tmp_path: Path) -> None:
    """The code of the protocol, and not one statement of the user has run."""
    files = files_in(tmp_path)
    async with booted() as host:
        msg_id = await host.send("stream(100000)")
        await until(lambda: host.printed(msg_id), DEADLINE_S)
        await host.save(files)
    async with loaded(files, "renew:refuse") as copy:
        with pytest.raises(CallFailed, match="refused") as refused:
            await copy.restored()
        assert refused.value.code == -32001
        await asyncio.sleep(0.1)
        assert not [line for line in copy.vmm.console_tail() if "user code" in line]


async def test_a_refused_call() -> None:
    async with booted("freeze:refuse@1") as host:
        with pytest.raises(CallFailed, match="freeze was refused"):
            await host.call("freeze", hooks=True, timeout_s=1.0)
        await host.call("freeze", hooks=True, timeout_s=1.0)


async def test_a_cell_can_ask_for_faults(tmp_path: Path) -> None:
    async with booted() as host:
        await host.run("%fault snapshot:ENOSPC@1\nx = 1")
        with pytest.raises(MonitorApiError, match="No space"):
            await host.save(files_in(tmp_path))
        await _goes_on(host)
        assert (await host.run("%fault nonsense"))["ename"] == "UsageError"


async def test_connections_that_break_at_a_resume(tmp_path: Path) -> None:
    """As Firecracker's do. Nothing is lost: the same generation goes on where it was."""
    async with booted("resume:reset") as host:
        await host.run("x = 1")
        await host.call("freeze", hooks=True, timeout_s=1.0)
        await host.vmm.pause()
        await host.vmm.snapshot(SnapshotCreate(files=files_in(tmp_path)))
        await host.vmm.resume()
        assert host.reader is not None
        await asyncio.wait_for(host.reader, DEADLINE_S)
        await host.close()
        await host.connect()
        await host.call("thaw")
        await host.attach(2)
        assert await host.value("x") == "1"


async def test_another_snapshot_while_one_is_written(tmp_path: Path) -> None:
    async with booted("written:late=0.5") as host:
        await host.vmm.pause()
        await host.vmm.snapshot(SnapshotCreate(files=files_in(tmp_path, "one")))
        await host.vmm.resume()
        writing = asyncio.ensure_future(host.vmm.written())
        await asyncio.sleep(0)
        await host.vmm.pause()
        with pytest.raises(StateError, match="not written"):
            await host.vmm.snapshot(SnapshotCreate(files=files_in(tmp_path, "two")))
        await writing
        await host.vmm.snapshot(SnapshotCreate(files=files_in(tmp_path, "two")))


async def test_faults_are_for_scripted_guests(tmp_path: Path) -> None:
    vmm = FakeVmm(BootPlan(vm_id="x", spec=VmSpec(), run_dir=tmp_path), guest="agent")
    with pytest.raises(UnsupportedByMonitor, match="scripted"):
        await vmm.inject("freeze:die")
