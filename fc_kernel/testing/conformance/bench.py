"""Makes the VMs under test, and checks that they leave nothing behind."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal, Self

import psutil

from ...base.paths import RunDir, new_vm_id, runtime_dir
from ...settings.spec import DriveSpec, VmSpec
from ...vmm.base import BootPlan, Capability, SnapshotCreate, SnapshotFiles, SnapshotLoad, Vmm, VmmState
from .expecting import expect
from .guest import BOOT_DEADLINE_S, DEADLINE_S, Counters, Guest, within

MakeVmm = Callable[[BootPlan], Vmm]

#: The size of the read-only drive, whose content is random.
SMALL_DRIVE_BYTES = 64 << 10
#: How much larger than the guest's memory the writable drive is: a limit on memory must not limit drives.
LARGER_BYTES = 64 << 20
#: The memory for a spec that does not say its size.
DEFAULT_MEM_MIB = 512


class Bench:
    """Makes VMs of one driver and one guest. An asynchronous context; used on one event loop."""

    def __init__(
        self,
        make_vmm: MakeVmm,
        spec: VmSpec,
        *,
        initrd: Path | None = None,
        start_timeout_s: float = DEADLINE_S,
        boot_deadline_s: float = BOOT_DEADLINE_S,
    ) -> None:
        self._make = make_vmm
        self.spec = spec
        self._initrd = initrd
        self._start_timeout_s = start_timeout_s
        self._boot_deadline_s = boot_deadline_s
        self._stack = AsyncExitStack()
        self._shared: tuple[Guest, AsyncExitStack] | None = None
        self._snapshot: SnapshotFiles | None = None
        #: The spec of the machine that a snapshot is of, by its vmstate.
        self._saved: dict[Path, VmSpec] = {}
        self._copies = 0
        self.capabilities: frozenset[Capability] = frozenset()

    async def __aenter__(self) -> Self:
        directory = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="fc-conformance-"))
        self.directory = Path(directory)
        self.small_content = os.urandom(SMALL_DRIVE_BYTES)
        (self.directory / "small").write_bytes(self.small_content)
        self.large_bytes = ((self.spec.mem_size_mib or DEFAULT_MEM_MIB) << 20) + LARGER_BYTES
        with (self.directory / "large").open("wb") as file:
            file.truncate(self.large_bytes)
        self.capabilities = self._make(self._plan(self.directory, {})).capabilities
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            if self._shared is not None:
                await self._shared[1].aclose()
        finally:
            await self._stack.aclose()

    def _plan(self, run_dir: Path, changes: dict[str, Any], **plan: Any) -> BootPlan:
        plan.setdefault("start_timeout_s", self._start_timeout_s)
        spec = self.spec.model_copy(update=changes)
        labels = {"purpose": "conformance"}
        return BootPlan(vm_id=run_dir.name, spec=spec, run_dir=run_dir, initrd=self._initrd, labels=labels, **plan)

    @property
    def drives(self) -> tuple[DriveSpec, ...]:
        """A small read-only drive and a large writable one, in this order after the root."""
        return (
            DriveSpec(drive_id="small", path_on_host=self.directory / "small", is_read_only=True),
            DriveSpec(drive_id="large", path_on_host=self.directory / "large", is_read_only=False),
        )

    def new_drive(self, name: str) -> Path:
        """A file for one check's own drive; only one VM may write to a file."""
        path = self.directory / f"own-{name}"
        path.write_bytes(bytes(SMALL_DRIVE_BYTES))
        return path

    @property
    def first_drive(self) -> int:
        """The guest's number of the first of :attr:`drives`."""
        return 0 if self.spec.rootfs is None else 1

    @asynccontextmanager
    async def vmm(self, *, start_timeout_s: float | None = None, **changes: Any) -> AsyncIterator[Vmm]:
        """A VM that is not started yet, with its own run directory; ``changes`` are fields of its spec.

        When the block ends the VM is closed, and must have left nothing behind.
        """
        run_dir = RunDir.create(runtime_dir(), new_vm_id())
        try:
            plan = {} if start_timeout_s is None else {"start_timeout_s": start_timeout_s}
            vmm = self._make(self._plan(run_dir.path, changes, **plan))
            try:
                yield vmm
            finally:
                pid = vmm.pid
                await within(vmm.aclose(), "aclose()")
            expect(
                pid is None or not psutil.pid_exists(pid), f"the monitor {pid} lives, or is not reaped, after aclose()"
            )
            nothing_runs_in(run_dir.path)
        finally:
            run_dir.remove()

    @asynccontextmanager
    async def guest(self, **changes: Any) -> AsyncIterator[Guest]:
        """The serving guest of a new VM."""
        async with self.vmm(**changes) as vmm:
            await vmm.start()
            guest = Guest(vmm)
            await guest.until_up(self._boot_deadline_s)
            yield guest

    async def shared_guest(self) -> Guest:
        """A guest that checks share, because a boot costs time; booted again if a check broke it.

        It has :attr:`drives` where the driver can.
        """
        if self._shared is not None and self._shared[0].vmm.pid is None:
            guest, stack = self._shared
            self._shared = None
            await stack.aclose()
        if self._shared is None:
            stack = AsyncExitStack()
            drives = {"extra_drives": self.drives} if Capability.DRIVES in self.capabilities else {}
            guest = await stack.enter_async_context(self.guest(**drives))
            self._shared = guest, stack
        return self._shared[0]

    async def snapshot_of_shared(self) -> SnapshotFiles:
        """A full snapshot of the shared guest, made once."""
        if self._snapshot is None:
            files = self.new_files("shared")
            await self.save(await self.shared_guest(), files)
            self._snapshot = files
        return self._snapshot

    async def save(self, guest: Guest, files: SnapshotFiles, *, kind: Literal["full", "diff"] = "full") -> Counters:
        """Pause, take a snapshot, resume, and wait until it is written; returns the guest's counters shortly before."""
        before = await guest.counters()
        await guest.vmm.pause()
        await guest.vmm.snapshot(SnapshotCreate(files=files, kind=kind))
        expect(guest.vmm.state is VmmState.PAUSED, f"after a snapshot the state is {guest.vmm.state}")
        await guest.vmm.resume()
        await within(guest.vmm.written(), "written()")
        self.knows(guest.vmm, files)
        return before

    def knows(self, vmm: Vmm, files: SnapshotFiles) -> None:
        """Remember that ``files`` are a snapshot of this VM's machine."""
        self._saved[files.vmstate] = vmm.plan.spec

    @asynccontextmanager
    async def loading(self, files: SnapshotFiles) -> AsyncIterator[Vmm]:
        """As :meth:`vmm`, for a load: its spec is that of the saved machine.

        Only one VM may write to a drive, so each VM gets a file of its own.
        """
        spec = self._saved.get(files.vmstate, self.spec)
        drives = []
        for drive in spec.extra_drives:
            path = drive.path_on_host
            if not drive.is_read_only:
                self._copies += 1
                path = self.directory / f"copy-{self._copies}"
                with path.open("wb") as file:
                    file.truncate(drive.path_on_host.stat().st_size)
            drives.append(drive.model_copy(update={"path_on_host": path}))
        async with self.vmm(extra_drives=tuple(drives), network_interfaces=spec.network_interfaces) as vmm:
            yield vmm

    @asynccontextmanager
    async def loaded(self, files: SnapshotFiles, **load: Any) -> AsyncIterator[Guest]:
        """A guest loaded from a snapshot; it serves unless ``resume=False``."""
        async with self.loading(files) as vmm:
            await vmm.load(SnapshotLoad(files=files, **load))
            guest = Guest(vmm)
            if load.get("resume", True):
                await guest.until_up()
            yield guest

    def new_files(self, name: str) -> SnapshotFiles:
        """The names of a new snapshot's files."""
        return SnapshotFiles(vmstate=self.directory / f"{name}.vmstate", mem=self.directory / f"{name}.mem")


def nothing_runs_in(run_dir: Path) -> None:
    """Expect that no process works in a VM's run directory."""
    left = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == run_dir:
                left.append(f"{process.pid} {process.name()} ({process.status()})")
        except psutil.Error:
            continue
    expect(not left, f"left of the VM {run_dir.name}: {', '.join(left)}")
