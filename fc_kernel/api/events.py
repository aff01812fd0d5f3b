"""What happens to kernels and snapshots: typed events, in one ordered stream."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, TypeAdapter
from pydantic.json_schema import models_json_schema

from .models import Answer, ForkedKernel, ForkTicket, Snapshot, State


class KernelEvent(Answer):
    """The fields of every event."""

    kernel_id: str = Field(description="ID of the kernel; empty if it is unknown")
    seq: int = Field(0, description="its number in the host's stream of events")


class StateChanged(KernelEvent):
    """The state of a kernel has changed. For ``dead``, the event says why and has the end of the guest's console."""

    action: Literal["state"] = "state"
    state: State
    message: str = Field("", description="one line for people: why the kernel is dead")
    returncode: int | None = Field(None, description="exit status of the kernel process, if it has ended")
    console: list[str] = Field([], description="the last lines of the guest's console, if the kernel is dead")
    vm_ended: bool = Field(
        False, description="the microVM has ended, not only the kernel process, and nobody shut it down"
    )


class SnapshotTaken(KernelEvent):
    """A snapshot was taken, or imported."""

    action: Literal["snapshot"] = "snapshot"
    snapshot: Snapshot


class SnapshotRestored(KernelEvent):
    """A kernel was restored to a snapshot."""

    action: Literal["restore"] = "restore"
    snapshot: Snapshot


class KernelForked(KernelEvent):
    """New kernels were started from a snapshot of this one."""

    action: Literal["fork"] = "fork"
    snapshot: Snapshot
    forks: list[ForkedKernel]


class ForkWanted(KernelEvent):
    """A cell asks for forks: whoever owns this kernel starts a kernel with each ticket and answers the request."""

    action: Literal["fork_wanted"] = "fork_wanted"
    request: str = Field(description="ID of the request, which the answer repeats")
    tickets: list[ForkTicket]


class SnapshotChanged(KernelEvent):
    """The name or description of a snapshot has changed."""

    action: Literal["rename"] = "rename"
    snapshot: Snapshot


class SnapshotDeleted(KernelEvent):
    """A snapshot was deleted."""

    action: Literal["delete"] = "delete"
    snapshot: Snapshot


#: What the server's subscribers see.
PublicEvent = StateChanged | SnapshotTaken | SnapshotRestored | KernelForked | SnapshotChanged | SnapshotDeleted
Event = PublicEvent | ForkWanted

#: Reads and writes any of them as JSON.
EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="action")])
PUBLIC_EVENTS: tuple[type[KernelEvent], ...] = get_args(PublicEvent)

SCHEMA_ID = "https://fc-kernel.readthedocs.io/events/v1"
TITLE = "MicroVM kernels and their snapshots"


def public_event_schema(definitions: str = "#/components/schemas/") -> dict[str, Any]:
    """JSON Schema of :data:`PublicEvent`: one of the models, chosen by ``action``. ``definitions`` is where the models are."""
    references = {event.model_fields["action"].default: f"{definitions}{event.__name__}" for event in PUBLIC_EVENTS}
    return {
        "description": "What happened to a kernel's microVM, or to a snapshot.",
        "oneOf": [{"$ref": reference} for reference in references.values()],
        "discriminator": {"propertyName": "action", "mapping": references},
    }


def event_schema() -> dict[str, Any]:
    """The same for jupyter_events, which needs an object: it has the properties of all events, and is one of the models."""
    models: list[tuple[type[BaseModel], Literal["serialization"]]] = [
        (event, "serialization") for event in PUBLIC_EVENTS
    ]
    schemas = models_json_schema(models, ref_template="#/$defs/{model}")[1]["$defs"]
    properties = {
        name: value for event in PUBLIC_EVENTS for name, value in schemas[event.__name__]["properties"].items()
    }
    actions = [event.model_fields["action"].default for event in PUBLIC_EVENTS]
    return {
        "$id": SCHEMA_ID,
        "version": "1",
        "title": TITLE,
        "personal-data": True,
        **public_event_schema("#/$defs/"),
        "type": "object",
        "required": ["kernel_id", "action"],
        "properties": {**properties, "action": {"enum": actions, "description": "What happened."}},
        "$defs": schemas,
    }
