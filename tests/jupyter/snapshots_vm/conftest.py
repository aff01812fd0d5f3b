"""Snapshots of small real VMs: one kernel for each module, and clients of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_client.manager import KernelManager

from fc_kernel.base.paths import data_dir

from ...conftest import ProcessResources
from ...waiting import eventually
from ..snapshot_clients import Caller


@pytest.fixture(autouse=True)
def nothing_is_left() -> None:
    """Each restore puts a VM in the place of another; what is left is looked for when a module's tests have all run."""


@pytest.fixture(scope="module")
def monitor(
    jupyter_path: Path, tmp_path_factory: pytest.TempPathFactory, short_private_runtime_dir: Path
) -> Iterator[str]:
    """QEMU; its VMs' snapshots are kept in a store of the module's own, while images and templates are everybody's."""
    before = ProcessResources(short_private_runtime_dir)
    data = tmp_path_factory.mktemp("data")
    for shared in ("images", "templates"):
        (data_dir() / shared).mkdir(mode=0o700, parents=True, exist_ok=True)
        (data / shared).symlink_to(data_dir() / shared)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FC_KERNEL_DATA_DIR", str(data))
        patch.setenv("FC_KERNEL_MONITOR", "qemu")
        patch.setenv("FC_KERNEL_MEM_SIZE_MIB", "512")
        patch.setenv("JUPYTER_RUNTIME_DIR", str(data / "runtime"))
        yield "qemu"
    eventually(lambda: not ProcessResources(short_private_runtime_dir).more_than(before), "all VMs have ended")


@pytest.fixture
def caller(manager: KernelManager) -> Iterator[Caller]:
    """A client of the module's kernel."""
    caller = Caller.of(manager)
    yield caller
    caller.close()


@pytest.fixture
def other(manager: KernelManager) -> Iterator[Caller]:
    """Another client of the same kernel."""
    caller = Caller.of(manager)
    yield caller
    caller.close()
