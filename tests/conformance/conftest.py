"""The monitors of this host and the guests that they are tested with."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from fc_kernel.base.paths import cache_dir, data_dir
from fc_kernel.errors import ConfigError
from fc_kernel.images.initramfs import boot_initrd
from fc_kernel.images.store import ImageStore
from fc_kernel.settings.spec import VmSpec
from fc_kernel.testing import FakeVmm, guest_services
from fc_kernel.testing.conformance import Bench, MakeVmm
from fc_kernel.vmm.base import BootPlan, Capability
from fc_kernel.vmm.firecracker.driver import FirecrackerVmm, find_firecracker
from fc_kernel.vmm.firecracker.program import FirecrackerProgram
from fc_kernel.vmm.qemu.driver import QemuVmm
from fc_kernel.vmm.qemu.program import QemuProgram, find_qemu

from ..guests.build import BARE_METAL_MEM_MIB, build_guest

#: A Linux guest with Python needs more than the bare-metal guest.
LINUX_MEM_MIB = 384


@dataclass(frozen=True)
class Monitor:
    """A driver under test; what it can do is known before it runs."""

    name: str
    capabilities: frozenset[Capability]
    #: Makes the driver and says which guest it runs.
    prepare: Callable[[pytest.FixtureRequest], tuple[MakeVmm, VmSpec, Path | None]]
    #: The real Firecracker, for tests of drivers of its.
    program: FirecrackerProgram | None = None


def _nowhere() -> BootPlan:
    return BootPlan(vm_id="none", spec=VmSpec(), run_dir=Path("/nonexistent"))


def fake() -> Monitor:
    def make(plan: BootPlan) -> FakeVmm:
        return FakeVmm(plan, service="conformance")

    return Monitor("fake", make(_nowhere()).capabilities, lambda _request: (make, VmSpec(mem_size_mib=64), None))


def qemu() -> Monitor:
    def prepare(_request: pytest.FixtureRequest) -> tuple[MakeVmm, VmSpec, Path]:
        image = ImageStore(data_dir() / "images", cache_dir()).get("default")
        spec = VmSpec(
            kernel=image.kernel,
            rootfs=image.rootfs,
            rootfs_read_only=True,
            vcpu_count=1,
            mem_size_mib=LINUX_MEM_MIB,
            boot_args=f"{image.boot_args} fc.service={guest_services.SERVICE}",
            track_dirty_pages=True,
        )
        program = find_qemu()
        return lambda plan: QemuVmm(plan, program), spec, boot_initrd(image, cache_dir(), guest_services.FILES)

    return Monitor("qemu", QemuVmm(_nowhere(), QemuProgram(Path("qemu"), "0")).capabilities, prepare)


def firecracker(path: str) -> Monitor:
    program = find_firecracker(path)

    def make(plan: BootPlan) -> FirecrackerVmm:
        return FirecrackerVmm(plan, program)

    def prepare(request: pytest.FixtureRequest) -> tuple[MakeVmm, VmSpec, None]:
        guest: Path = request.getfixturevalue("bare_metal_guest")
        spec = VmSpec(kernel=guest, vcpu_count=1, mem_size_mib=BARE_METAL_MEM_MIB, boot_args="", track_dirty_pages=True)
        return make, spec, None

    return Monitor(f"firecracker-{program.version}", make(_nowhere()).capabilities, prepare, program)


def firecrackers() -> tuple[list[Monitor], str]:
    """Every Firecracker of ``FC_KERNEL_FIRECRACKER`` (a path, or several with ':' between), else the one on the PATH.

    And why there is none.
    """
    paths = [path for path in os.environ.get("FC_KERNEL_FIRECRACKER", "").split(os.pathsep) if path]
    if not paths and (found := shutil.which("firecracker")):
        paths = [found]
    if not paths:
        return [], "no Firecracker: FC_KERNEL_FIRECRACKER is not set, and none is on the PATH"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return [], "Firecracker needs /dev/kvm, which cannot be opened here"
    try:
        return [firecracker(path) for path in paths], ""
    except ConfigError as error:
        return [], str(error)


@pytest.fixture(scope="session")
def bare_metal_guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_guest(tmp_path_factory.mktemp("guest"))


def firecracker_params() -> list[object]:
    found, reason = firecrackers()
    skipped = pytest.param(None, id="none", marks=pytest.mark.skip(reason=reason))
    return [pytest.param(monitor, id=monitor.name) for monitor in found] or [skipped]


@asynccontextmanager
async def serving(monitor: Monitor, request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """A bench whose shared guest already serves: what a test leaves is told from what was there before."""
    make, spec, initrd = monitor.prepare(request)
    async with Bench(make, spec, initrd=initrd) as bench:
        await bench.shared_guest()
        yield bench


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fake_bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with serving(fake(), request) as bench:
        yield bench


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def qemu_bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with serving(qemu(), request) as bench:
        yield bench


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=firecracker_params())
async def firecracker_bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with serving(request.param, request) as bench:
        yield bench
