"""The interface of all monitor drivers, so that no other code depends on which monitor runs.

The *monitor* (a process on the host) and the *guest* inside it have separate states: a live monitor may have a dead guest,
and the reverse.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from pathlib import Path
from typing import ClassVar, Literal

from ..settings.spec import NetworkInterface, VmSpec
from ..settings.tier import Tier
from .launch import Lifetime


class Capability(Enum):
    """What a driver can do beyond booting a guest."""

    PAUSE = "pause and resume"
    #: Without it the guest sees a transport reset: its peers have to dial again.
    PAUSE_KEEPS_CONNECTIONS = "connections that outlive a pause"
    #: Without it the source of a snapshot also sees such a reset.
    SNAPSHOT_KEEPS_CONNECTIONS = "connections that outlive a snapshot"
    DRIVES = "drives"
    NETWORK = "network interfaces"
    VSOCK_ADDRESS = "a chosen vsock cid and uds_path"
    SNAPSHOT = "full snapshots"
    DIFF_SNAPSHOT = "diff snapshots"
    NETWORK_OVERRIDES = "network_overrides at a restore"
    VSOCK_OVERRIDE = "vsock_override at a restore"
    #: Without it the caller has to merge the layers into one file before the load.
    LAYERS = "page files laid over a snapshot's memory at a restore"
    RATE_LIMITERS = "rate limiters"
    NETWORK_RATE_LIMITERS = "rate limiters on network interfaces"


class VmmState(StrEnum):
    """The states of one VM, as its driver sees them."""

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"
    CLOSED = "closed"


@dataclass(frozen=True, kw_only=True)
class BootPlan:
    """All that a driver needs to boot one VM.

    ``spec`` is fully resolved: ``kernel``, ``rootfs`` (unless the guest needs none), ``vcpu_count``, ``mem_size_mib``,
    ``boot_args``, ``rootfs_read_only`` and ``track_dirty_pages`` are set. ``initrd`` is not a field of the reference
    ``VmSpec``; it comes from the image. For a :meth:`Vmm.load` the spec is that of the saved VM, as far as it is
    known: the machine itself comes from the snapshot. ``run_dir`` is the VM's private 0700 directory, which the driver may
    fill but does not remove. ``start_timeout_s`` bounds :meth:`Vmm.start`, not the guest's own boot. ``lifetime`` says
    whether the monitor outlives its owner; :meth:`Vmm.aclose` ends it either way.
    """

    vm_id: str
    spec: VmSpec
    run_dir: Path
    initrd: Path | None = None
    start_timeout_s: float = 30.0
    lifetime: Lifetime = Lifetime.BOUND
    #: Extra facts for the journal entry (kernel id, notebook), shown by ``fc-kernel ps``.
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class VmmExit:
    """How a monitor process ended; ``returncode`` is negative for a signal, as in :mod:`subprocess`.

    It is ``None`` for a monitor that another process spawned: only a parent learns the exit status.
    """

    returncode: int | None
    console: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.returncode is None:
            return "the monitor ended"
        if self.returncode < 0:
            return f"the monitor was killed by signal {-self.returncode}"
        return f"the monitor exited with status {self.returncode}"


@dataclass(frozen=True, kw_only=True)
class SnapshotFiles:
    """The two files of a snapshot, in the format of the monitor that wrote them."""

    vmstate: Path
    mem: Path


@dataclass(frozen=True, kw_only=True)
class SnapshotCreate:
    """Write a snapshot of a paused VM; ``diff`` holds only the pages dirtied since the last one."""

    files: SnapshotFiles
    kind: Literal["full", "diff"] = "full"


@dataclass(frozen=True, kw_only=True)
class SnapshotLoad:
    """Load a snapshot into a fresh monitor instead of booting.

    The load opens the files and never changes them; afterwards they may be renamed, linked or unlinked.
    """

    files: SnapshotFiles
    #: Page files (:mod:`fc_kernel.memory.pages`) laid over ``files.mem``, oldest first; needs ``Capability.LAYERS``.
    layers: Sequence[Path] = ()
    resume: bool = True
    track_dirty_pages: bool = True
    network_overrides: Sequence[NetworkInterface] = ()
    #: For where the snapshot's own (relative) path cannot be used; needs ``Capability.VSOCK_OVERRIDE``.
    vsock_override: Path | None = None


class Vmm(ABC):
    """One VM and the monitor process that runs it.

    Used from one event loop. The constructor does nothing that has to be undone. :meth:`aclose` always releases
    everything (process reaped, descriptors closed, tasks ended), even if it is cancelled or the guest does not end
    gracefully, and may be called twice. Afterwards every other call raises :class:`~fc_kernel.errors.StateError`, except
    ``state``, ``pid``, ``uds_path``, ``version``, ``capabilities`` and :meth:`console_tail`.

    A cancelled :meth:`start` or :meth:`load` leaves nothing behind; a cancelled :meth:`pause`, :meth:`resume` or
    :meth:`snapshot` is first completed, so that ``state`` is true.
    """

    #: ``firecracker``, ``qemu`` or ``fake``.
    name: ClassVar[str]

    def __init__(self, plan: BootPlan) -> None:
        self.plan = plan

    @property
    @abstractmethod
    def version(self) -> str:
        """Version of the monitor program, such as ``1.16.1``; known before :meth:`start`."""

    @property
    @abstractmethod
    def capabilities(self) -> frozenset[Capability]:
        """What this driver can do with this version of its monitor."""

    @property
    @abstractmethod
    def state(self) -> VmmState:
        """The VM's current state."""

    @property
    @abstractmethod
    def tier(self) -> Tier:
        """The isolation that the running process gives; raises :class:`StateError` before it runs."""

    @property
    @abstractmethod
    def pid(self) -> int | None:
        """The monitor's process id, or ``None`` while no process runs."""

    @property
    @abstractmethod
    def uds_path(self) -> Path:
        r"""The host's hybrid-vsock socket: connect, send ``CONNECT <port>\n``, read ``OK <n>\n``."""

    @abstractmethod
    async def start(self) -> None:
        """Spawn the monitor and boot the guest; returns when the guest runs. On an error nothing is left behind.

        Raises :class:`~fc_kernel.errors.UnsupportedByMonitor`, before anything is started, when the monitor cannot do
        what the spec asks for, else :class:`~fc_kernel.errors.LaunchError`.
        """

    @abstractmethod
    async def load(self, snapshot: SnapshotLoad) -> None:
        """Spawn the monitor and load a snapshot instead of booting; as :meth:`start` otherwise.

        Needs ``Capability.SNAPSHOT``, else :class:`~fc_kernel.errors.UnsupportedByMonitor`. The guest drops all its connections
        when it notices that it was loaded, even one that was opened just before; so whoever dials tries again.
        """

    async def prepare(self) -> None:  # noqa: B027 - most drivers need no preparation
        """Prepare for a pause and a snapshot while the VM still runs, so that it is paused for less time.

        Optional. Raises :class:`StateError` when the VM does not run.
        """

    @abstractmethod
    async def pause(self) -> None:
        """Stop the vCPUs of a running VM; returns when they have stopped. Raises :class:`StateError` in any other state."""

    @abstractmethod
    async def resume(self) -> None:
        """Let the vCPUs of a paused VM run again. Raises :class:`StateError` in any other state."""

    @abstractmethod
    async def snapshot(self, request: SnapshotCreate) -> None:
        """Save the paused VM into new files, which are complete when :meth:`written` has returned.

        On an error the VM is still paused and the files are removed. Raises :class:`StateError` in any other state, for a file
        that exists (a running VM may have mapped it), and while an earlier snapshot is still being written.
        """

    async def written(self) -> None:  # noqa: B027 - most drivers have nothing to wait for
        """Return when the files of the last :meth:`snapshot` are complete; the VM may run again meanwhile.

        Raises the error of the writing; the files are then removed. A driver that writes while the VM is paused has nothing
        to wait for.
        """

    @abstractmethod
    async def wait(self) -> VmmExit:
        """Return when the monitor process has ended, for whatever reason; several tasks may wait."""

    @abstractmethod
    async def kill(self) -> VmmExit:
        """Kill the monitor (SIGKILL) and reap it; nothing happens if it has ended."""

    @abstractmethod
    def console_tail(self, lines: int = 20) -> list[str]:
        """The last lines of the guest's console, oldest first, control characters removed."""

    @abstractmethod
    async def aclose(self) -> None:
        """Kill the monitor if it runs and release everything."""
