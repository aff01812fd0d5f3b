"""What goes over the wire: requests, answers and errors, each a model that validates, documents and serialises."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict

from ..settings.spec import NAME_PATTERN
from ..snapshots.manifest import MAX_DESCRIPTION
from ..snapshots.naming import ID_PATTERN, MAX_SCOPE, is_name, is_scope

#: Of one request; each fork is a machine of its own.
MAX_FORKS = 8


def _snapshot_name(text: str) -> str:
    if not is_name(text):
        raise ValueError("a name without '..' that is not like an id")
    return text


def _scope(text: str) -> str:
    if not is_scope(text):
        raise ValueError("a notebook's path, of printable characters")
    return text


SnapshotName = Annotated[str, Strict(), Field(pattern=NAME_PATTERN), AfterValidator(_snapshot_name)]
SnapshotId = Annotated[str, Strict(), Field(pattern=ID_PATTERN)]
Description = Annotated[str, Strict(), Field(max_length=MAX_DESCRIPTION)]
#: A path as the contents API has it; what it may not reach is that API's own rule.
ContentsPath = Annotated[str, Strict(), Field(min_length=1, max_length=MAX_SCOPE, pattern=r"^[^\x00-\x1f\x7f]+$")]
Scope = Annotated[str, Strict(), Field(min_length=1, max_length=MAX_SCOPE), AfterValidator(_scope)]
State = Literal["booting", "running", "pausing", "restoring", "dead"]


class Request(BaseModel):
    """A body that is checked: an unknown name is an error, a wrong type too."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Answer(BaseModel):
    """A body that we make; every field is in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_serialization_defaults_required=True)


class CreateSnapshot(Request):
    """A snapshot to take now."""

    name: SnapshotName | None = Field(None, description="unique within the scope; without one it becomes s1, s2, …")
    description: Description = Field("", description="shown in lists")
    notebook: dict[str, Any] | None = Field(None, description="the notebook document as it is on screen (nbformat 4)")


class Restore(Request):
    """Put the kernel back."""

    snapshot: SnapshotId = Field(description="id of a snapshot of the kernel's scope")
    same_seed: Annotated[bool, Strict()] = Field(False, description="leave Python's random generators as they were")


class Fork(Request):
    """Make new kernels."""

    snapshot: SnapshotId | None = Field(None, description="from this snapshot; without one from this instant")
    count: Annotated[int, Strict(), Field(ge=1, le=MAX_FORKS)] = Field(1, description="how many")
    path: ContentsPath | None = Field(
        None, description="a notebook; each fork gets a copy of it, beside the original, and a session on the copy"
    )


class ChangeSnapshot(Request):
    """What to change; what is left out stays."""

    name: SnapshotName | None = Field(None, description="the new name")
    description: Description | None = Field(None, description="the new description")


class ScopeQuery(Request):
    """Which snapshots to list."""

    scope: Scope | None = Field(None, description="only those of this notebook")


class ImportQuery(Request):
    """Where an imported snapshot belongs."""

    scope: Scope = Field(description="path of the notebook that it is to belong to")


class LineageItem(Answer):
    """One ancestor of a kernel's state."""

    id: str
    name: str


class Kernel(Answer):
    """A kernel in a microVM."""

    kernel_id: str
    state: State
    tier: str | None = Field(description="isolation that the running VM gives; null while there is none")
    monitor: str | None
    monitor_version: str | None
    vcpu_count: int | None
    mem_size_mib: int | None
    mem_used_mib: int | None = Field(description="memory that the host really spends on it")
    uptime_s: float | None
    generation: int = Field(description="raised by every start and restore")
    lineage: list[LineageItem] = Field(description="snapshots from which the state came, oldest first")
    current: str | None = Field(description="id of the snapshot that the state came from or was last saved as")
    scope: str
    disk_bytes: int = Field(description="what the snapshots of the scope take on disk")
    started: str | None = Field(description="template, pool, cold or snapshot")
    image: str | None
    vm_id: str | None
    network: str | None


class Snapshot(Answer):
    """A checkpoint of a whole machine."""

    id: str
    name: str
    description: str
    created: str = Field(description="ISO 8601, UTC")
    size_bytes: int = Field(description="what it added to the disk when it was taken")
    parent: str | None = Field(description="id")
    scope: str
    kernel_id: str | None
    has_notebook: bool
    mem_size_mib: int
    vcpu_count: int
    image: str
    monitor: str
    in_use: bool = Field(description="a running VM has it")
    current: bool = Field(description="a kernel's state stands here")


class ForkedKernel(Answer):
    """A kernel that was made by a fork."""

    kernel_id: str
    name: str
    path: str | None = Field(description="the notebook's copy")
    session_id: str | None


class ForkTicket(Answer):
    """Leave to start one kernel from a snapshot, once."""

    ticket: str = Field(description="random, and of no use a second time")
    kernel_id: str = Field(description="the kernel that is forked")
    snapshot_id: str
    vm_id: str = Field(description="the VM that the snapshot was taken of")
    name: str = Field(description="the snapshot's name")
    scope: str = Field(description="what the names of the fork's own snapshots are unique in: its parent's")


class Limits(Answer):
    """What the administrator allows."""

    max_vcpu_count: int
    max_mem_size_mib: int
    max_start_timeout_s: float
    minimum_tier: str
    allowed_images: list[str] | None = Field(description="null is all")
    networks: list[str]
    max_snapshots: int
    max_snapshot_bytes: int
    max_forks: int = Field(description="most kernels that one request may make")


class Status(Answer):
    """What this server can do."""

    version: str
    tier: str | None = Field(
        description="the best isolation of this host; null when no monitor runs, or with a gateway"
    )
    gateway: bool = Field(description="kernels are on another host; then the other routes answer 501")
    limits: Limits | None = Field(description="null with a gateway")
    message: str | None = Field(None, description="why there is no tier")


class Console(Answer):
    """The guest's console."""

    lines: list[str] = Field(description="the last ones, oldest first, without control characters")


class Failure(Answer):
    """Every error."""

    message: str = Field(description="one line, fit to be shown")
    reason: str = Field(description="class of the error, such as SnapshotExists")
    details: list[str] = Field(description="last lines of the guest's console, where there are any")
    field: str | None = Field(None, description="dotted path of the value that was refused")
    source: str | None = Field(None, description="who gave that value: kernelspec, notebook, call, request …")
