"""Where VMs under test are made, and where it is checked that nothing of them is left."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

import psutil

from ...paths import RunDir, new_vm_id
from ...spec import DriveSpec, VmSpec
from ...vmm.base import BootPlan, Capability, SnapshotCreate, SnapshotFiles, Vmm
from .check import expect
from .guest import BOOT_DEADLINE_S, DEADLINE_S, Guest, within

MakeVmm = Callable[[BootPlan], Vmm]

#: Of the read-only drive, whose content is random.
SMALL_DRIVE_BYTES = 64 << 10
#: The writable drive is larger than the guest's memory by this much: no limit on the memory may be one on drives.
LARGER_BYTES = 64 << 20
#: A spec without a size of its own is of a guest that needs no more.
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
        """A file for a drive of one check's own; a file that is written has one VM."""
        path = self.directory / f"own-{name}"
        path.write_bytes(bytes(SMALL_DRIVE_BYTES))
        return path

    @property
    def first_drive(self) -> int:
        """The number of the first of :attr:`drives` in the guest."""
        return 0 if self.spec.rootfs is None else 1

    @asynccontextmanager
    async def vmm(self, *, start_timeout_s: float | None = None, **changes: Any) -> AsyncIterator[Vmm]:
        """A VM that was not started, with a run directory of its own; ``changes`` are fields of its spec.

        When the block ends the VM is closed, and nothing of it may be left.
        """
        run_dir = RunDir.create(new_vm_id())
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
        """A VM of its own whose guest serves."""
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
            vmm = (await self.shared_guest()).vmm
            files = self.new_files("shared")
            await vmm.pause()
            await vmm.snapshot(SnapshotCreate(files=files))
            await vmm.resume()
            self._snapshot = files
        return self._snapshot

    def new_files(self, name: str) -> SnapshotFiles:
        """Names of files for a snapshot."""
        return SnapshotFiles(vmstate=self.directory / f"{name}.vmstate", mem=self.directory / f"{name}.mem")


def nothing_runs_in(run_dir: Path) -> None:
    """No process may work in a VM's run directory."""
    left = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == run_dir:
                left.append(f"{process.pid} {process.name()} ({process.status()})")
        except psutil.Error:
            continue
    expect(not left, f"left of the VM {run_dir.name}: {', '.join(left)}")
