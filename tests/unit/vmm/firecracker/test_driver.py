"""The driver against a double that checks every request against Firecracker's own API description."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from fc_kernel.errors import LaunchError, MonitorApiError, StateError, UnsupportedByMonitor
from fc_kernel.settings.spec import NetworkInterface, SnapshotRef, VmSpec
from fc_kernel.settings.tier import Tier
from fc_kernel.vmm import isolation
from fc_kernel.vmm.base import BootPlan, SnapshotCreate, SnapshotFiles, SnapshotLoad, VmmState
from fc_kernel.vmm.firecracker.driver import FirecrackerVmm
from fc_kernel.vmm.journal import read_entry

from ....firecracker_double.program import VM, Double
from .test_requests import EVERYTHING

SPEC = VmSpec(kernel=Path("/k/vmlinux"), vcpu_count=1, mem_size_mib=128, boot_args="quiet")
BOOT = ["PUT /machine-config", "PUT /boot-source", "PUT /vsock", "PUT /entropy", "PUT /actions"]
#: Every version that has the fault, one before it and one after it.
HANGING, SOUND = ["1.16.0", "1.16.1"], ["1.12.1", "1.16.2"]

Make = Callable[..., FirecrackerVmm]


@pytest.fixture
def make(tmp_path: Path, run_dir: Path) -> Make:
    def make(version: str = "1.16.1", spec: VmSpec = SPEC) -> FirecrackerVmm:
        double = Double.make(tmp_path, version)
        return FirecrackerVmm(BootPlan(vm_id=run_dir.name, spec=spec, run_dir=run_dir), double.program)

    return make


def asked(tmp_path: Path) -> list[str]:
    return Double.asked_in(tmp_path)


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def files(tmp_path: Path, name: str = "snapshot") -> SnapshotFiles:
    return SnapshotFiles(vmstate=tmp_path / f"{name}.vmstate", mem=tmp_path / f"{name}.mem")


@pytest.mark.parametrize("version", ["1.12.1", "1.16.1"])
async def test_boot(make: Make, tmp_path: Path, run_dir: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vmm = make(version, EVERYTHING)
    # The double has no VM, and shows something else in its place.
    monkeypatch.setattr(isolation, "KVM_VM", VM)
    assert vmm.version == version
    await vmm.start()
    try:
        assert vmm.state is VmmState.RUNNING
        tiers = [vmm.tier]
        monkeypatch.undo()
        tiers.append(vmm.tier)
        assert tiers == [Tier.KVM, Tier.NONE], "a Firecracker that runs no VM of KVM's isolates nothing"
        assert vmm.uds_path == run_dir / "other.sock"
        assert vmm.uds_path.is_socket()
        entry = read_entry(run_dir)
        assert entry is not None
        assert entry.pid == vmm.pid
        for name in ("log", "metrics"):
            assert stat.S_IMODE((run_dir / name).stat().st_mode) == 0o600
            assert (run_dir / name).read_text()
    finally:
        await vmm.aclose()
    assert len(asked(tmp_path)) == 10
    assert asked(tmp_path)[0] == "PUT /machine-config"
    assert asked(tmp_path)[-1] == "PUT /actions"


async def test_console_is_the_process_output(make: Make) -> None:
    vmm = make()
    await vmm.start()
    await vmm.kill()
    await vmm.aclose()
    assert vmm.console_tail() == ["double of Firecracker v1.16.1", "guest: booting"]


@pytest.mark.parametrize("version", SOUND)
async def test_pause_and_resume(make: Make, tmp_path: Path, version: str) -> None:
    vmm = make(version)
    await vmm.start()
    await vmm.pause()
    await vmm.resume()
    await vmm.aclose()
    assert asked(tmp_path) == [*BOOT, "PATCH /vm", "PATCH /vm"]


@pytest.mark.parametrize("version", HANGING)
async def test_bare_resume_is_healed_by_a_diff_that_is_thrown_away(
    make: Make, tmp_path: Path, run_dir: Path, version: str
) -> None:
    vmm = make(version)
    await vmm.start()
    before = names_in(run_dir)
    for _ in range(2):
        await vmm.pause()
        await vmm.resume()
    assert names_in(run_dir) == before
    await vmm.aclose()
    assert asked(tmp_path) == [*BOOT, *["PATCH /vm", "PUT /snapshot/create", "PATCH /vm"] * 2]
    heals = [each["body"] for each in Double.requests_in(tmp_path) if each["path"] == "/snapshot/create"]
    assert [body["snapshot_type"] for body in heals] == ["Diff", "Diff"]


@pytest.mark.parametrize("version", HANGING)
async def test_a_snapshot_heals_by_itself(make: Make, tmp_path: Path, version: str) -> None:
    vmm = make(version)
    await vmm.start()
    await vmm.pause()
    await vmm.snapshot(SnapshotCreate(files=files(tmp_path)))
    await vmm.resume()
    await vmm.aclose()
    assert asked(tmp_path) == [*BOOT, "PATCH /vm", "PUT /snapshot/create", "PATCH /vm"]
    assert files(tmp_path).vmstate.read_bytes() == b"vmstate"


async def test_diff_after_a_heal_needs_a_new_base(make: Make, tmp_path: Path) -> None:
    """The pages that the heal threw away are in no snapshot, so a diff would lose them."""
    vmm = make("1.16.1")
    await vmm.start()
    await vmm.pause()
    await vmm.resume()
    await vmm.pause()
    with pytest.raises(UnsupportedByMonitor, match="a full snapshot first"):
        await vmm.snapshot(SnapshotCreate(files=files(tmp_path), kind="diff"))
    assert vmm.state is VmmState.PAUSED
    await vmm.snapshot(SnapshotCreate(files=files(tmp_path, "base")))
    await vmm.snapshot(SnapshotCreate(files=files(tmp_path, "diff"), kind="diff"))
    await vmm.aclose()


@pytest.mark.parametrize("version", ["1.12.1", "1.16.1"])
@pytest.mark.parametrize("resume", [True, False])
async def test_load(make: Make, tmp_path: Path, run_dir: Path, version: str, resume: bool) -> None:
    for path in (files(tmp_path).vmstate, files(tmp_path).mem):
        path.write_bytes(b"saved")
    vmm = make(version, VmSpec())
    overrides = (NetworkInterface(iface_id="eth0", host_dev_name="tap3"),)
    await vmm.load(SnapshotLoad(files=files(tmp_path), resume=resume, network_overrides=overrides))
    assert vmm.state is (VmmState.RUNNING if resume else VmmState.PAUSED)
    assert vmm.uds_path.is_socket()
    if not resume:
        await vmm.resume()
    await vmm.aclose()
    # Nothing but the load: whatever is configured before makes Firecracker refuse it. And no heal after it.
    assert asked(tmp_path) == ["PUT /snapshot/load", *([] if resume else ["PATCH /vm"])]


async def test_vsock_override(make: Make, tmp_path: Path, run_dir: Path) -> None:
    for path in (files(tmp_path).vmstate, files(tmp_path).mem):
        path.write_bytes(b"saved")
    vmm = make("1.16.1")
    await vmm.load(SnapshotLoad(files=files(tmp_path), vsock_override=run_dir / "w.sock"))
    assert vmm.uds_path == run_dir / "w.sock"
    assert vmm.uds_path.is_socket()
    await vmm.aclose()


async def test_vsock_override_is_refused_before_anything_is_started(make: Make, tmp_path: Path, run_dir: Path) -> None:
    vmm = make("1.12.1")
    with pytest.raises(UnsupportedByMonitor, match=r"needs Firecracker 1\.16\.0; found Firecracker 1\.12\.1"):
        await vmm.load(SnapshotLoad(files=files(tmp_path), vsock_override=Path("w.sock")))
    assert vmm.state is VmmState.CREATED
    assert names_in(run_dir) == ["owner.lock"]
    assert asked(tmp_path) == []
    await vmm.aclose()


async def test_restore_from_is_no_boot(make: Make, tmp_path: Path) -> None:
    vmm = make(spec=VmSpec(restore_from=SnapshotRef(vm_id="a", snapshot_id="b")))
    with pytest.raises(UnsupportedByMonitor, match="restore_from"):
        await vmm.start()
    assert asked(tmp_path) == []
    await vmm.aclose()


async def test_failed_load_carries_the_fault_and_ends_the_process(make: Make, tmp_path: Path) -> None:
    vmm = make()
    with pytest.raises(LaunchError, match=r"Failed to open .*snapshot\.vmstate"):
        await vmm.load(SnapshotLoad(files=files(tmp_path)))
    assert vmm.pid is None
    assert vmm.state is VmmState.CLOSED
    with pytest.raises(StateError):
        await vmm.load(SnapshotLoad(files=files(tmp_path)))


async def test_failed_snapshot_leaves_no_file(make: Make, tmp_path: Path) -> None:
    vmm = make()
    await vmm.start()
    await vmm.pause()
    (tmp_path / "taken.mem").write_bytes(b"mine")
    with pytest.raises(StateError, match="needs new files"):
        await vmm.snapshot(SnapshotCreate(files=files(tmp_path, "taken")))
    nowhere = SnapshotFiles(vmstate=tmp_path / "no/vmstate", mem=tmp_path / "no/mem")
    with pytest.raises(MonitorApiError):
        await vmm.snapshot(SnapshotCreate(files=nowhere))
    assert vmm.state is VmmState.PAUSED
    await vmm.aclose()
    assert (tmp_path / "taken.mem").read_bytes() == b"mine"
    assert not (tmp_path / "taken.vmstate").exists()
