"""Loading a snapshot under QEMU, against a double: what it is told, and what becomes of a load that fails."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from fc_kernel.errors import LaunchError, StateError
from fc_kernel.memory.pages import PAGE_BYTES, write_pages
from fc_kernel.settings.spec import NetworkInterface, VmSpec
from fc_kernel.vmm.base import BootPlan, SnapshotFiles, SnapshotLoad, VmmState
from fc_kernel.vmm.qemu.driver import QemuVmm
from fc_kernel.vmm.qemu.vmstate import Machine, write_vmstate

from ....qemu_double import commands_in, make_double

SPEC = VmSpec(kernel=Path("/k/vmlinux"), vcpu_count=1, mem_size_mib=16, boot_args="quiet")
MEM_BYTES = 16 << 20

Make = Callable[..., QemuVmm]


@pytest.fixture
def make(tmp_path: Path, run_dir: Path) -> Make:
    def make(timeout_s: float = 60.0, spec: VmSpec = SPEC, **faults: str) -> QemuVmm:
        program = make_double(tmp_path, **faults)
        return QemuVmm(BootPlan(vm_id=run_dir.name, spec=spec, run_dir=run_dir, start_timeout_s=timeout_s), program)

    return make


@pytest.fixture
def files(tmp_path: Path) -> SnapshotFiles:
    files = SnapshotFiles(vmstate=tmp_path / "vmstate", mem=tmp_path / "mem")
    with files.vmstate.open("wb") as file:
        write_vmstate(file.fileno(), Machine.of(SPEC, accelerated=False), b"devices")
    with files.mem.open("wb") as file:
        file.truncate(MEM_BYTES)
    return files


async def test_a_load(make: Make, files: SnapshotFiles, tmp_path: Path) -> None:
    vmm = make(spec=SPEC.model_copy(update={"vcpu_count": 7, "mem_size_mib": 999}))
    await vmm.load(SnapshotLoad(files=files))
    assert vmm.state is VmmState.RUNNING
    assert commands_in(tmp_path) == ["qmp_capabilities", "migrate-incoming", "query-status", "cont"]
    words = psutil.Process(vmm.pid).cmdline()
    assert words[words.index("-smp") + 1] == "1", "the snapshot has a machine of its own"
    assert words[words.index("-m") + 1] == "16M"
    status = Path(f"/proc/{vmm.pid}/status").read_text()  # noqa: ASYNC240
    assert "THP_enabled:\t0" in status or "THP_enabled" not in status
    assert "THP_enabled:\t0" not in Path("/proc/self/status").read_text()  # noqa: ASYNC240
    with pytest.raises(StateError):
        await vmm.load(SnapshotLoad(files=files))
    await vmm.aclose()
    assert files.mem.stat().st_size == MEM_BYTES


async def test_a_load_without_resuming(make: Make, files: SnapshotFiles, tmp_path: Path) -> None:
    vmm = make()
    await vmm.load(SnapshotLoad(files=files, resume=False))
    assert vmm.state == "paused"
    assert commands_in(tmp_path)[-1] == "query-status"
    for path in (files.vmstate, files.mem):
        path.unlink()
    await vmm.resume()
    assert vmm.state == "running"
    await vmm.aclose()


async def fails(vmm: QemuVmm, load: SnapshotLoad) -> str:
    with pytest.raises(LaunchError) as caught:
        await vmm.load(load)
    assert vmm.pid is None
    assert vmm.state is VmmState.CLOSED
    assert not [child for child in psutil.Process().children() if child.is_running()]
    return str(caught.value)


@pytest.mark.parametrize("command", ["migrate-incoming", "query-status", "cont"])
@pytest.mark.parametrize("fault", ["refuse", "exit", "hang up"])
async def test_what_fails_leaves_nothing(make: Make, files: SnapshotFiles, command: str, fault: str) -> None:
    said = await fails(make(**{command: fault}), SnapshotLoad(files=files))
    assert said.startswith(f"QEMU could not start the VM: QEMU {'refused' if fault == 'refuse' else 'did not answer'}")


async def test_a_load_that_hangs(make: Make, files: SnapshotFiles) -> None:
    assert "not ready within 1 s" in await fails(make(1.0, **{"query-status": "hang"}), SnapshotLoad(files=files))


async def test_a_monitor_that_does_not_say_where_its_memory_is(
    make: Make, files: SnapshotFiles, tmp_path: Path
) -> None:
    layer = tmp_path / "0.pages"
    write_pages(layer, [(1, bytes(PAGE_BYTES))])
    assert "does not say where" in await fails(make(), SnapshotLoad(files=files, layers=[layer]))


async def test_bad_files_start_nothing(make: Make, files: SnapshotFiles, tmp_path: Path) -> None:
    short, fifo = tmp_path / "short", tmp_path / "fifo"
    short.write_bytes(bytes(PAGE_BYTES))
    os.mkfifo(fifo)
    for mem in (short, fifo, tmp_path):
        said = await fails(make(), SnapshotLoad(files=SnapshotFiles(vmstate=files.vmstate, mem=mem)))
        assert "the snapshot's mem is damaged" in said
    missing = SnapshotLoad(files=files, layers=[tmp_path / "missing"])
    assert "a layer of the snapshot cannot be read" in await fails(make(), missing)
    unknown = SnapshotLoad(files=files, network_overrides=[NetworkInterface(iface_id="eth0", host_dev_name="tap0")])
    assert "no network interface 'eth0'" in await fails(make(), unknown)
    assert commands_in(tmp_path) == []
