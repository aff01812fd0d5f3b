"""The boundary: all that provisioner, launcher, server extension and command line know of a host of kernels.

Only plain data crosses it: the models of :mod:`fc_kernel.api`, byte streams, and one ordered stream of events. There are no
live objects, no callbacks, and no paths for clients to open except those of a kernel's endpoints. So the other side may be in
this process (:class:`~fc_kernel.host.local.LocalHost`) or in another one.

Every call may be made from any thread's event loop, and cancelling it reaches the other side. Errors are those of
:mod:`fc_kernel.errors`: :class:`~fc_kernel.errors.KernelNotFound` for a kernel that the host does not have,
:class:`~fc_kernel.errors.SnapshotNotFound` for a snapshot. ``ref`` is a snapshot's name in the scope, its id, or the
beginning of its id.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, get_args

from ..api.calls import (
    Channel,
    DiskUse,
    Endpoints,
    ForkClaim,
    ForkOrder,
    ForkResult,
    OpenKernel,
    RawSettings,
    Settings,
    Started,
    StartKernel,
    TakeSnapshot,
)
from ..api.events import Event
from ..api.inventory import BrokenSnapshot, SnapshotDetails, Swept, Vm
from ..api.models import Console, Kernel, LineageItem, Snapshot, Status

#: The channels of every kernel, in the order of Jupyter's connection file.
CHANNELS: tuple[Channel, ...] = get_args(Channel)
#: Bytes that come in pieces, as fast as they are taken.
ByteStream = AsyncGenerator[bytes, None]


class KernelHost(ABC):
    """A host of one tenant's kernels and snapshots."""

    # A kernel's life.

    @abstractmethod
    async def open(self, request: OpenKernel) -> Endpoints:
        """Bind a kernel's sockets, where clients can connect from now on; nothing runs yet. On an error nothing is left.

        Raises :class:`~fc_kernel.errors.StateError` when a kernel of that id is open.
        """

    @abstractmethod
    async def start(self, kernel_id: str, request: StartKernel) -> Started:
        """Resolve the settings and start a kernel process; on an error no process and no VM is left, and the sockets stay."""

    @abstractmethod
    async def signal(self, kernel_id: str, signum: int) -> None:
        """Send a signal to the kernel's process group; nothing happens when no process runs."""

    @abstractmethod
    async def kill(self, kernel_id: str) -> None:
        """Kill the kernel process; when the guest does not do it in time, kill the VM."""

    @abstractmethod
    async def wait(self, kernel_id: str) -> int:
        """Wait for the kernel process's end; returns its exit status (negative for a signal), 0 when none was started."""

    @abstractmethod
    async def close(self, kernel_id: str) -> None:
        """End the kernel process and its VM, and remove the sockets. No error when there is no such kernel."""

    @abstractmethod
    async def renew_lease(self, kernel_id: str) -> None:
        """Keep the kernel open for another lease from now."""

    # What there is.

    @abstractmethod
    async def kernels(self) -> list[Kernel]:
        """All open kernels."""

    @abstractmethod
    async def kernel(self, kernel_id: str) -> Kernel:
        """One kernel and its VM, as they are now."""

    @abstractmethod
    async def console(self, kernel_id: str, lines: int) -> Console:
        """The last lines of the guest's console; none when there is no VM."""

    # Snapshots, restores and forks of a kernel.

    @abstractmethod
    async def snapshot(self, kernel_id: str, request: TakeSnapshot) -> Snapshot:
        """Save the whole VM; the kernel goes on."""

    @abstractmethod
    async def restore(self, kernel_id: str, ref: str, *, same_seed: bool = False) -> None:
        """Restore this very kernel from a snapshot of its scope; on an error it goes on as it was.

        Its random number generators are seeded anew unless ``same_seed``.
        """

    @abstractmethod
    async def fork(self, kernel_id: str, count: int, *, ref: str | None = None) -> ForkOrder:
        """Issue tickets for ``count`` forks, from this instant or from a snapshot.

        The caller opens and starts a kernel with each, and reports with :meth:`forked`. A ticket is good once, for ten minutes.
        """

    @abstractmethod
    async def forked(self, request: str, results: Sequence[ForkResult]) -> None:
        """Report what came of the tickets of a :class:`ForkOrder`, or of a :class:`~fc_kernel.api.events.ForkWanted`.

        A report that comes too late is dropped.
        """

    # The tenant's snapshots.

    @abstractmethod
    async def snapshots(self, scope: str | None = None) -> list[Snapshot]:
        """The snapshots of a scope, or all, oldest first."""

    @abstractmethod
    async def find_snapshot(self, ref: str, *, scope: str | None = None) -> Snapshot:
        """The snapshot that ``ref`` names."""

    @abstractmethod
    async def change_snapshot(
        self, snapshot_id: str, *, name: str | None = None, description: str | None = None
    ) -> Snapshot:
        """Rename or describe a snapshot; ``None`` leaves what there is."""

    @abstractmethod
    async def delete_snapshot(self, snapshot_id: str, *, force: bool = False) -> None:
        """Remove a snapshot, even a broken one; raises :class:`~fc_kernel.errors.SnapshotInUse` while a VM has it.

        With ``force`` it is removed all the same: the VM goes on, but its kernel cannot take a further snapshot.
        """

    @abstractmethod
    async def broken_snapshots(self) -> list[BrokenSnapshot]:
        """The snapshots that cannot be used, and why."""

    @abstractmethod
    async def snapshot_details(self, snapshot_ids: Sequence[str]) -> list[SnapshotDetails]:
        """All that is known of these snapshots, in this order; those that are not there are left out."""

    @abstractmethod
    async def verify_snapshot(self, snapshot_id: str) -> None:
        """Compare every file with its digest; raises :class:`~fc_kernel.errors.SnapshotCorrupt`, which names the file."""

    @abstractmethod
    async def lineage(self, snapshot_id: str) -> list[LineageItem]:
        """The snapshot and its ancestors, oldest first, as far as they are still there."""

    @abstractmethod
    async def snapshot_notebook(self, snapshot_id: str) -> bytes | None:
        """The notebook document that was saved with a snapshot; ``None`` when none was."""

    @abstractmethod
    async def export_snapshot(self, snapshot_id: str) -> tuple[int, ByteStream]:
        """A checked snapshot as one file: its size in bytes and its content. Close a stream that is not read to its end."""

    @abstractmethod
    async def import_snapshot(self, content: ByteStream, *, scope: str | None, name: str | None = None) -> Snapshot:
        """Import an export, all of it or nothing, under its own scope and name unless others are given."""

    @abstractmethod
    async def disk_use(self) -> DiskUse:
        """How many bytes the snapshots take, and for how many more there is room."""

    # The host.

    @abstractmethod
    def events(self, *, forks: ForkClaim = "none") -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """All events from the entry of the context on, in order.

        A :class:`~fc_kernel.api.events.ForkWanted` goes only to the newest subscriber that claims forks, or where none does to
        the newest ``fallback``. A subscriber that is too slow gets a :class:`~fc_kernel.errors.StateError`; it should subscribe
        again and ask for :meth:`kernels`.
        """

    @abstractmethod
    async def status(self) -> Status:
        """Version, tier and limits."""

    @abstractmethod
    async def schema(self) -> dict[str, Any]:
        """JSON Schema of ``metadata.fc_kernel``, with the administrator's limits."""

    @abstractmethod
    async def check(self, settings: RawSettings) -> Settings:
        """What a start with these settings would get; raises what it would raise. Starts nothing."""

    @abstractmethod
    async def prepare(self, settings: RawSettings) -> bool:
        """Make the template from which kernels with these settings start; returns whether there is one now."""

    @abstractmethod
    async def vms(self) -> list[Vm]:
        """The tenant's VMs, oldest first, also those whose owner is dead."""

    @abstractmethod
    async def sweep(self) -> Swept:
        """End the VMs whose owner is dead, and remove what nobody finishes or uses any more; what is in use is not touched."""
