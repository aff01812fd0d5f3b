"""The executor's seam: the direct place, one that stands for a jail, and the sockets that a monitor makes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from fc_kernel.errors import LaunchError
from fc_kernel.settings.spec import DriveSpec, VmSpec
from fc_kernel.vmm.base import BootPlan, SnapshotCreate, SnapshotFiles, SnapshotLoad
from fc_kernel.vmm.console import ConsoleRing
from fc_kernel.vmm.executor import DirectExecutor, DirectPlace, Executor, Place
from fc_kernel.vmm.firecracker.driver import FirecrackerVmm
from fc_kernel.vmm.launch import Launch
from fc_kernel.vmm.process import MonitorProcess

from ...firecracker_double.program import Double

DEADLINE_S = 30.0


class Elsewhere(Place):
    """As a jail has it: a directory of its own, in which every file is a copy that was brought there under another name."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        directory.mkdir(mode=0o700)
        self.admissions: list[tuple[Path, bool]] = []
        self.closed = False

    def admit(self, path: Path, *, writable: bool = False) -> Path:
        self.admissions.append((path, writable))
        name = f"file{len(self.admissions)}"
        if path.exists():
            shutil.copyfile(path, self.directory / name)
        return Path(name)

    @contextlib.contextmanager
    def receiving(self, paths: Sequence[Path]) -> Iterator[list[Path]]:
        names = [Path(f"out{number}") for number in range(len(paths))]
        try:
            yield names
            for name, path in zip(names, paths, strict=True):
                (self.directory / name).rename(path)
        finally:
            for name in names:
                (self.directory / name).unlink(missing_ok=True)

    async def spawn(self, launch: Launch, console: ConsoleRing) -> MonitorProcess:
        assert not launch.pass_fds, "a jail closes them"
        return MonitorProcess.spawn(launch, cwd=self.directory, console=console)

    async def aclose(self) -> None:
        self.closed = True


class OneElsewhere(Executor):
    def __init__(self, directory: Path) -> None:
        self.made = Elsewhere(directory)

    async def place(self, plan: BootPlan) -> Place:
        return self.made


@pytest.fixture
def executor(run_dir: Path) -> OneElsewhere:
    return OneElsewhere(run_dir / "jail")


def full_plan(tmp_path: Path, run_dir: Path) -> BootPlan:
    for name in ("kernel", "initrd", "rootfs", "disk"):
        (tmp_path / name).write_text(name)
    drive = DriveSpec(drive_id="disk", path_on_host=tmp_path / "disk", is_read_only=False)
    spec = VmSpec(
        kernel=tmp_path / "kernel", rootfs=tmp_path / "rootfs", rootfs_read_only=True, extra_drives=(drive,),
        vcpu_count=1, mem_size_mib=128, boot_args="",
    )  # fmt: skip
    return BootPlan(vm_id=run_dir.name, spec=spec, run_dir=run_dir, initrd=tmp_path / "initrd")


async def test_a_monitor_that_is_elsewhere(executor: OneElsewhere, tmp_path: Path, run_dir: Path) -> None:
    """The driver names every file as its monitor sees it, and finds the monitor's sockets and files where they are."""
    double = Double.make(tmp_path)
    vmm = FirecrackerVmm(full_plan(tmp_path, run_dir), double.program, executor)
    await vmm.start()
    place = executor.made
    try:
        assert vmm.uds_path == place.directory / "v.sock"
        assert vmm.uds_path.is_socket()
        assert stat.S_IMODE((place.directory / "api.sock").stat().st_mode) == 0o600
        bodies = {each["path"]: each["body"] for each in Double.requests_in(tmp_path)}
        named = {
            "kernel": bodies["/boot-source"]["kernel_image_path"],
            "initrd": bodies["/boot-source"]["initrd_path"],
            "rootfs": bodies["/drives/rootfs"]["path_on_host"],
            "disk": bodies["/drives/disk"]["path_on_host"],
        }
        for name, path in named.items():
            assert (place.directory / path).read_text() == name
        assert {path.name for path, writable in place.admissions if writable} == {"disk"}
        await vmm.pause()
        files = SnapshotFiles(vmstate=tmp_path / "vmstate", mem=tmp_path / "mem")
        await vmm.snapshot(SnapshotCreate(files=files))
        assert (files.vmstate.read_text(), files.mem.read_text()) == ("vmstate", "mem")
        assert not list(place.directory.glob("out*"))
    finally:
        await vmm.aclose()
    assert place.closed


async def test_a_load_elsewhere(executor: OneElsewhere, tmp_path: Path, run_dir: Path) -> None:
    files = SnapshotFiles(vmstate=tmp_path / "vmstate", mem=tmp_path / "mem")
    files.vmstate.write_text("state")
    files.mem.write_text("pages")
    double = Double.make(tmp_path)
    vmm = FirecrackerVmm(full_plan(tmp_path, run_dir), double.program, executor)
    await vmm.load(SnapshotLoad(files=files))
    await vmm.aclose()
    [request] = Double.requests_in(tmp_path)
    assert (executor.made.directory / request["body"]["snapshot_path"]).read_text() == "state"
    assert (executor.made.directory / request["body"]["mem_backend"]["backend_path"]).read_text() == "pages"


async def test_a_refused_snapshot_leaves_nothing_elsewhere(
    executor: OneElsewhere, tmp_path: Path, run_dir: Path
) -> None:
    double = Double.make(tmp_path, faults={"PUT /snapshot/create": "refuse"})
    vmm = FirecrackerVmm(full_plan(tmp_path, run_dir), double.program, executor)
    await vmm.start()
    await vmm.pause()
    files = SnapshotFiles(vmstate=tmp_path / "vmstate", mem=tmp_path / "mem")
    with pytest.raises(Exception, match="the double refuses"):
        await vmm.snapshot(SnapshotCreate(files=files))
    await vmm.aclose()
    assert not files.vmstate.exists()
    assert not list(executor.made.directory.glob("out*"))


async def test_the_direct_place_changes_no_name(tmp_path: Path, run_dir: Path) -> None:
    plan = full_plan(tmp_path, run_dir)
    place = await DirectExecutor().place(plan)
    assert place.directory == run_dir
    assert place.admitted(plan) == plan
    bare = replace(plan, spec=VmSpec(), initrd=None)
    assert place.admitted(bare) == bare
    new = [tmp_path / "one", tmp_path / "two"]
    with place.receiving(new) as names:
        assert names == new
        new[0].touch()
    assert new[0].exists()
    with pytest.raises(OSError, match="broken"), place.receiving(new):
        raise OSError("broken")
    assert not new[0].exists()
    await place.aclose()


async def test_a_socket_that_comes_late(run_dir: Path) -> None:
    """First nothing, then a socket on which nobody listens yet, then somebody."""
    place = DirectPlace(run_dir)
    connecting = asyncio.ensure_future(place.connect("late.sock"))
    await asyncio.sleep(0.02)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(run_dir / "late.sock"))
        await asyncio.sleep(0.02)
        assert not connecting.done()
        listener.listen()
        async with asyncio.timeout(DEADLINE_S):
            ours = await connecting
        theirs, _ = listener.accept()
        with ours, theirs:
            ours.send(b"here")
            assert theirs.recv(10) == b"here"
        assert stat.S_IMODE((run_dir / "late.sock").stat().st_mode) == 0o600


async def test_a_socket_that_never_comes_leaves_no_descriptor(run_dir: Path) -> None:
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await DirectPlace(run_dir).connect("never.sock")
    assert len(os.listdir("/proc/self/fd")) == len(before)  # noqa: PTH208


async def test_what_is_no_socket_or_too_deep(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(LaunchError, match="cannot connect to"):
        await DirectPlace(tmp_path / "loop").connect("x")
    with pytest.raises(LaunchError, match="set FC_KERNEL_RUNTIME_DIR to a shorter path"):
        await DirectPlace(tmp_path / ("d" * 100)).connect("x")
