"""Kernels on every real Firecracker of this host, in the bare-metal guest: ordinary ones need more of KVM than there may be."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fc_kernel.host import select
from fc_kernel.images.manifest import ImageManifest, Part
from fc_kernel.images.store import ROLES
from fc_kernel.vmm.firecracker.program import FirecrackerProgram
from fc_kernel.vmm.kvm import KvmReport

from ..conformance.conftest import Monitor, bare_metal_guest, firecracker_params
from .kernel import Kernel

__all__ = ["bare_metal_guest"]

MakeKernel = Callable[..., Kernel]

#: A file that is no part of the test's guest but has to be there.
PLACEHOLDER = bytes(4096)


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
    image = root / "images" / "default"
    image.mkdir(parents=True)
    files = {"kernel": bare_metal_guest.read_bytes(), "initrd": PLACEHOLDER, "rootfs": PLACEHOLDER}
    for name, content in files.items():
        (image / name).write_bytes(content)
    manifest = ImageManifest(
        name="default",
        created="2026-01-01T00:00:00+00:00",
        recipe=hashlib.sha256(files["kernel"]).hexdigest(),
        kernel_release="bare",
        python="none",
        boot_args="",
        parts=tuple(Part.of(role, image / role) for role in ROLES),
    )
    (image / "manifest.json").write_text(manifest.model_dump_json())
    patch = pytest.MonkeyPatch()
    patch.setenv("FC_KERNEL_DATA_DIR", str(root))
    patch.setenv("FC_KERNEL_CACHE_DIR", str(root / "cache"))
    patch.setenv("JUPYTER_RUNTIME_DIR", str(root / "runtime"))
    patch.setattr(select, "probe_kvm", lambda: KvmReport("usable", "as far as the bare-metal guest goes", None, None))
    yield root
    patch.undo()


@pytest.fixture
def new_kernel(program: FirecrackerProgram, data_dir: Path) -> Iterator[MakeKernel]:
    kernels: list[Kernel] = []

    def make(**config: object) -> Kernel:
        kernels.append(Kernel(program, **config))
        return kernels[-1]

    yield make
    for kernel in kernels:
        kernel.close()
