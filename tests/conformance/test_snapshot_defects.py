"""The conformance suite finds what is wrong with a driver's snapshots, shown with defective drivers of the real Firecracker."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fc_kernel.errors import FcKernelError, LaunchError, MonitorApiError
from fc_kernel.settings.spec import VmSpec
from fc_kernel.testing.conformance import CHECKS, Bench, ConformanceError
from fc_kernel.testing.conformance import guest as guest_module
from fc_kernel.vmm.base import SnapshotCreate, SnapshotLoad, VmmState
from fc_kernel.vmm.firecracker.driver import FirecrackerVmm
from fc_kernel.vmm.firecracker.requests import snapshot_create

from ..guests.build import BARE_METAL_MEM_MIB
from .conftest import Monitor, firecracker_params

pytestmark = [pytest.mark.firecracker, pytest.mark.parametrize("monitor", firecracker_params())]

#: What a defective driver never does is not waited for as long as a slow monitor may take.
SHORT_DEADLINE_S = 3.0


class BootsInsteadOfLoading(FirecrackerVmm):
    async def load(self, snapshot: SnapshotLoad) -> None:
        await self.start()


class ResumesInAnyCase(FirecrackerVmm):
    async def load(self, snapshot: SnapshotLoad) -> None:
        await super().load(SnapshotLoad(files=snapshot.files))


class LoadsWithoutResuming(FirecrackerVmm):
    async def load(self, snapshot: SnapshotLoad) -> None:
        await super().load(SnapshotLoad(files=snapshot.files, resume=False))
        self._state = VmmState.RUNNING


class WritesOver(FirecrackerVmm):
    async def snapshot(self, request: SnapshotCreate) -> None:
        await self._request_api().send(snapshot_create(request))


class CopiesAnOldSnapshot(FirecrackerVmm):
    """A diff that holds nothing of what happened since."""

    async def snapshot(self, request: SnapshotCreate) -> None:
        await super().snapshot(request)
        if request.kind == "diff":
            with request.files.mem.open("r+b") as file:
                size = file.seek(0, 2)
                file.truncate(0)
                file.truncate(size)


class LeavesFilesOfACancelledOne(FirecrackerVmm):
    async def snapshot(self, request: SnapshotCreate) -> None:
        try:
            await super().snapshot(request)
        except BaseException:
            shutil.copy("/proc/version", request.files.vmstate)
            raise


class KeepsARefusedMonitor(FirecrackerVmm):
    async def load(self, snapshot: SnapshotLoad) -> None:
        try:
            await super().load(snapshot)
        except FcKernelError as error:
            raise MonitorApiError(str(error)) from error


@pytest.fixture(autouse=True)
def short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    for function in (guest_module.within, guest_module.Guest.until_up):
        monkeypatch.setattr(function, "__defaults__", (SHORT_DEADLINE_S,))


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        (BootsInsteadOfLoading, "full_snapshot_is_loaded_where_it_was"),
        (BootsInsteadOfLoading, "damaged_vmstate_is_refused"),
        (ResumesInAnyCase, "loads_without_resuming"),
        (LoadsWithoutResuming, "snapshot_is_forked"),
        (WritesOver, "existing_files_are_not_overwritten"),
        (WritesOver, "running_vm_is_not_saved"),
        (CopiesAnOldSnapshot, "diff_snapshot_completes_its_base"),
        (CopiesAnOldSnapshot, "loaded_guest_has_its_snapshot_as_the_base"),
        (LeavesFilesOfACancelledOne, "cancelled_snapshot_leaves_no_file"),
        (KeepsARefusedMonitor, "truncated_mem_is_refused"),
        (KeepsARefusedMonitor, "missing_files_are_refused"),
    ],
)
async def test_defect(monitor: Monitor, bare_metal_guest: Path, driver: type[FirecrackerVmm], name: str) -> None:
    program = monitor.program
    assert program is not None
    spec = VmSpec(kernel=bare_metal_guest, vcpu_count=1, mem_size_mib=BARE_METAL_MEM_MIB, boot_args="")
    [check] = [check for check in CHECKS if check.name == name]
    async with Bench(lambda plan: driver(plan, program), spec, boot_deadline_s=SHORT_DEADLINE_S) as bench:
        # Firecracker itself may notice first that what it loads does not fit together.
        with pytest.raises((ConformanceError, LaunchError)):
            await check.run(bench)
