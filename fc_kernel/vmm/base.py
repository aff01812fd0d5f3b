"""What every monitor driver offers, so that the rest does not know which monitor runs.

Two things have a state of their own: the *monitor* (a process on the host) and the *guest* inside it. A live monitor
with a dead guest, and the reverse, are both real.
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
    #: Without it the guest sees a transport reset: whoever is connected has to dial again.
    PAUSE_KEEPS_CONNECTIONS = "connections that outlive a pause"
    #: Without it the source of a snapshot sees such a reset, too.
    SNAPSHOT_KEEPS_CONNECTIONS = "connections that outlive a snapshot"
    DRIVES = "drives"
    NETWORK = "network interfaces"
    VSOCK_ADDRESS = "a chosen vsock cid and uds_path"
    SNAPSHOT = "full snapshots"
    DIFF_SNAPSHOT = "diff snapshots"
    NETWORK_OVERRIDES = "network_overrides at a restore"
    VSOCK_OVERRIDE = "vsock_override at a restore"
    #: Without it whoever loads has to merge the layers into one file before.
    LAYERS = "page files laid over a snapshot's memory at a restore"
    RATE_LIMITERS = "rate limiters"
    NETWORK_RATE_LIMITERS = "rate limiters on network interfaces"


class VmmState(StrEnum):
    """The states of one VM, as its driver sees it."""

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
    ``VmSpec``; it comes from the image. For a :meth:`Vmm.load` the spec is that of the VM that was saved, as far as it is
    known: the snapshot has a machine of its own. ``run_dir`` is the VM's private 0700 directory, which the driver may fill but
    does not remove. ``start_timeout_s`` bounds :meth:`Vmm.start`, not the guest's own boot. ``lifetime`` says whether the
    monitor goes on when its owner dies; :meth:`Vmm.aclose` ends it either way.
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

    It is ``None`` for a monitor that another process had spawned: only a parent learns an exit status.
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

    The files are opened by the load and never changed; afterwards they may be renamed, linked or unlinked.
    """

    files: SnapshotFiles
    #: Page files (:mod:`fc_kernel.memory.pages`) laid over ``files.mem``, oldest first; needs ``Capability.LAYERS``.
    layers: Sequence[Path] = ()
    resume: bool = True
    track_dirty_pages: bool = True
    network_overrides: Sequence[NetworkInterface] = ()
    #: Only where the snapshot's own (relative) path cannot be used; needs ``Capability.VSOCK_OVERRIDE``.
    vsock_override: Path | None = None


class Vmm(ABC):
    """One VM and the monitor process that runs it.

    Used from one event loop. Construction does nothing that has to be undone. :meth:`aclose` always releases
    everything (process reaped, descriptors closed, tasks ended), even if it is cancelled or grace fails, and may be
    called twice; any other call after it raises :class:`~fc_kernel.errors.StateError`, but for those that only tell what
    was: ``state``, ``pid``, ``uds_path``, ``version``, ``capabilities`` and :meth:`console_tail`.

    A cancelled :meth:`start` or :meth:`load` leaves nothing; a cancelled :meth:`pause`, :meth:`resume` or :meth:`snapshot` is
    carried to its end first, so that ``state`` is what the VM's state is.
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
        """The VM's present state."""

    @property
    @abstractmethod
    def tier(self) -> Tier:
        """The isolation that the running process gives; :class:`StateError` before it runs."""

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
        """Spawn the monitor and boot the guest. Either the guest's first instruction has run, or nothing is left.

        Raises :class:`~fc_kernel.errors.UnsupportedByMonitor` before anything is started when the monitor cannot do
        what the spec asks, :class:`~fc_kernel.errors.LaunchError` otherwise.
        """

    @abstractmethod
    async def load(self, snapshot: SnapshotLoad) -> None:
        """Spawn the monitor and load a snapshot instead of booting; as :meth:`start` otherwise.

        Needs ``Capability.SNAPSHOT``, else :class:`~fc_kernel.errors.UnsupportedByMonitor`. The guest drops all its connections
        when it sees that it was loaded; one that was opened a moment before that falls too, so whoever dials tries again.
        """

    async def prepare(self) -> None:  # noqa: B027 - most drivers need no preparation
        """Do, while the VM runs, what would take time when it stands still: a pause and a snapshot come next.

        Not needed for either. :class:`StateError` when the VM does not run.
        """

    @abstractmethod
    async def pause(self) -> None:
        """Stop the vCPUs of a running VM; returns when they stand still. :class:`StateError` in any other state."""

    @abstractmethod
    async def resume(self) -> None:
        """Let the vCPUs of a paused VM run again. :class:`StateError` in any other state."""

    @abstractmethod
    async def snapshot(self, request: SnapshotCreate) -> None:
        """Capture the paused VM into new files, which are whole when :meth:`written` has returned.

        On an error the VM is still paused and the files are removed. :class:`StateError` in any other state, for a file that
        exists (it may be mapped by a running VM), and while an earlier snapshot is not written.
        """

    async def written(self) -> None:  # noqa: B027 - most drivers have nothing to wait for
        """Return when the files of the last :meth:`snapshot` are whole; the VM may run again meanwhile.

        Raises what went wrong with the writing; then the files are removed. A driver that writes while the VM is paused has
        nothing to wait for.
        """

    @abstractmethod
    async def wait(self) -> VmmExit:
        """Return when the monitor process has ended, however; may be awaited by several tasks."""

    @abstractmethod
    async def kill(self) -> VmmExit:
        """End the monitor at once (SIGKILL) and reap it; nothing happens if it has ended."""

    @abstractmethod
    def console_tail(self, lines: int = 20) -> list[str]:
        """The last lines of the guest's console, oldest first, control characters removed."""

    @abstractmethod
    async def aclose(self) -> None:
        """Kill the monitor if it runs and release everything."""
