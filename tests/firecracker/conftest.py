"""Kernels on every real Firecracker of this host, in the bare-metal guest: ordinary ones need more of KVM than there may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fc_kernel.vmm import monitors
from fc_kernel.vmm.firecracker.program import FirecrackerProgram
from fc_kernel.vmm.kvm import KvmReport

from ..conformance.conftest import Monitor, bare_metal_guest, firecracker_params
from .image import put_image
from .kernel import Kernel

__all__ = ["bare_metal_guest"]

MakeKernel = Callable[..., Kernel]


@pytest.fixture(scope="module", params=firecracker_params())
def program(request: pytest.FixtureRequest) -> FirecrackerProgram:
    monitor: Monitor = request.param
    assert monitor.program is not None
    return monitor.program


@pytest.fixture(scope="module")
def data_dir(
    program: FirecrackerProgram, bare_metal_guest: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A data directory whose image "default" is the bare-metal guest; KVM passes for usable, because for it it is."""
    root = tmp_path_factory.mktemp("data")
    put_image(root, bare_metal_guest)
    patch = pytest.MonkeyPatch()
    patch.setenv("FC_KERNEL_DATA_DIR", str(root))
    patch.setenv("FC_KERNEL_CACHE_DIR", str(root / "cache"))
    patch.setenv("JUPYTER_RUNTIME_DIR", str(root / "runtime"))
    patch.setattr(monitors, "probe_kvm", lambda: KvmReport("usable", "as far as the bare-metal guest goes", None, None))
    yield root
    patch.undo()


@pytest.fixture
def new_kernel(program: FirecrackerProgram, data_dir: Path) -> Iterator[MakeKernel]:
    kernels: list[Kernel] = []

    def make(**config: Any) -> Kernel:
        kernels.append(Kernel(program, **config))
        return kernels[-1]

    yield make
    for kernel in kernels:
        kernel.close()
