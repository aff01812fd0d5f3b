"""What happens to kernels and snapshots: typed events, in one ordered stream."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from .models import Answer, ForkedKernel, ForkTicket, Snapshot, State


class KernelEvent(Answer):
    """What all events have."""

    kernel_id: str = Field(description="the kernel; empty where none is known")


class StateChanged(KernelEvent):
    """A kernel is in another state. A ``dead`` one says why, and shows the end of the guest's console."""

    action: Literal["state"] = "state"
    state: State
    message: str = Field("", description="one line for people: why the kernel is dead")
    returncode: int | None = Field(None, description="exit status of a kernel process that has ended")
    console: list[str] = Field([], description="the last lines of the guest's console, for a kernel that is dead")
    vm_ended: bool = Field(
        False, description="the microVM has ended by itself: nobody shut it down, and not only its kernel process ended"
    )


class SnapshotTaken(KernelEvent):
    """A snapshot was taken, or imported."""

    action: Literal["snapshot"] = "snapshot"
    snapshot: Snapshot


class SnapshotRestored(KernelEvent):
    """A kernel was put back to a snapshot."""

    action: Literal["restore"] = "restore"
    snapshot: Snapshot


class KernelForked(KernelEvent):
    """New kernels start from a snapshot of this one."""

    action: Literal["fork"] = "fork"
    snapshot: Snapshot
    forks: list[ForkedKernel]


class ForkWanted(KernelEvent):
    """A cell asks for forks: whoever owns this kernel starts one for each ticket and answers the request."""

    action: Literal["fork_wanted"] = "fork_wanted"
    request: str = Field(description="what the answer names")
    tickets: list[ForkTicket]


class SnapshotChanged(KernelEvent):
    """A snapshot has another name or description."""

    action: Literal["rename"] = "rename"
    snapshot: Snapshot


class SnapshotDeleted(KernelEvent):
    """A snapshot is gone."""

    action: Literal["delete"] = "delete"
    snapshot: Snapshot


Event = StateChanged | SnapshotTaken | SnapshotRestored | KernelForked | ForkWanted | SnapshotChanged | SnapshotDeleted

#: Reads and writes any of them as JSON.
EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="action")])
