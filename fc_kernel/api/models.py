"""The REST API's requests, answers and errors as models, which validate, document and serialise."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict

from ..settings.spec import NAME_PATTERN
from ..snapshots.manifest import MAX_DESCRIPTION
from ..snapshots.naming import ID_PATTERN, MAX_SCOPE, is_name, is_scope

#: The most forks that one REST request may ask for, on every host: the request is answered when all of them run. The
#: administrator's limit, ``FcKernelConfig.max_forks``, holds for REST requests and ``%fork`` cells; ``Limits.max_forks`` is the
#: lower of the two.
MAX_FORKS = 8


def _snapshot_name(text: str) -> str:
    if not is_name(text):
        raise ValueError("a name without '..' that cannot be mistaken for an ID (16 hexadecimal digits)")
    return text


def _scope(text: str) -> str:
    if not is_scope(text):
        raise ValueError("a notebook's path, of printable characters")
    return text


SnapshotName = Annotated[str, Strict(), Field(pattern=NAME_PATTERN), AfterValidator(_snapshot_name)]
SnapshotId = Annotated[str, Strict(), Field(pattern=ID_PATTERN)]
Description = Annotated[str, Strict(), Field(max_length=MAX_DESCRIPTION)]
#: A path for the contents API, which decides itself what the path may reach.
ContentsPath = Annotated[str, Strict(), Field(min_length=1, max_length=MAX_SCOPE, pattern=r"^[^\x00-\x1f\x7f]+$")]
Scope = Annotated[str, Strict(), Field(min_length=1, max_length=MAX_SCOPE), AfterValidator(_scope)]
State = Literal["booting", "running", "pausing", "restoring", "dead"]


class Request(BaseModel):
    """A request's body, which is checked: unknown names and wrong types are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class Answer(BaseModel):
    """An answer's body; it always has every field."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", defer_build=True, json_schema_serialization_defaults_required=True
    )


class CreateSnapshot(Request):
    """A snapshot to take now."""

    name: SnapshotName | None = Field(None, description="unique within the scope; the default is s1, s2, …")
    description: Description = Field("", description="shown in lists")
    notebook: dict[str, Any] | None = Field(
        None, description="the notebook document as it is on the screen (nbformat 4)"
    )


class Restore(Request):
    """Restore a kernel to a snapshot."""

    snapshot: SnapshotId = Field(description="ID of a snapshot of the kernel's scope")
    same_seed: Annotated[bool, Strict()] = Field(False, description="keep the state of Python's random generators")


class Fork(Request):
    """Start new kernels from a snapshot of this one."""

    snapshot: SnapshotId | None = Field(
        None, description="ID of the snapshot to start from; by default one that is taken now"
    )
    count: Annotated[int, Strict(), Field(ge=1, le=MAX_FORKS)] = Field(1, description="number of new kernels")
    path: ContentsPath | None = Field(
        None,
        description="path of a notebook; each fork gets a copy of it, beside the original, and a session on the copy",
    )


class ChangeSnapshot(Request):
    """Changes of a snapshot; what is left out stays as it is."""

    name: SnapshotName | None = Field(None, description="the new name")
    description: Description | None = Field(None, description="the new description")


class ScopeQuery(Request):
    """Which snapshots to list."""

    scope: Scope | None = Field(None, description="only those of this notebook")


class ImportQuery(Request):
    """Where an imported snapshot belongs."""

    scope: Scope = Field(description="path of the notebook that the snapshot will belong to")


class LineageItem(Answer):
    """A snapshot from which a kernel's state came."""

    id: str
    name: str


class Kernel(Answer):
    """A kernel in a microVM."""

    kernel_id: str
    state: State
    tier: str | None = Field(description="isolation tier of the running VM; null while there is no VM")
    monitor: str | None
    monitor_version: str | None
    vcpu_count: int | None
    mem_size_mib: int | None
    mem_used_mib: int | None = Field(description="memory of the host that the VM takes at present")
    uptime_s: float | None
    generation: int = Field(description="a number that every start and restore raises")
    lineage: list[LineageItem] = Field(description="snapshots from which the state came, oldest first")
    current: str | None = Field(description="ID of the snapshot that the state came from or was last saved as")
    scope: str
    disk_bytes: int = Field(description="disk space of the snapshots from which the state came")
    started: str | None = Field(description="template, pool, cold or snapshot")
    image: str | None
    vm_id: str | None
    network: str | None


class Snapshot(Answer):
    """A snapshot of a whole VM."""

    id: str
    name: str
    description: str
    created: str = Field(description="ISO 8601, UTC")
    size_bytes: int = Field(description="disk space that it added when it was taken")
    parent: str | None = Field(description="ID of the snapshot before it")
    scope: str
    kernel_id: str | None
    has_notebook: bool
    mem_size_mib: int
    vcpu_count: int
    image: str
    monitor: str
    in_use: bool = Field(description="a running VM uses its files")
    current: bool = Field(description="a running kernel's state came from it or was last saved as it")


class ForkedKernel(Answer):
    """A kernel that a fork started."""

    kernel_id: str
    name: str
    path: str | None = Field(description="path of its copy of the notebook")
    session_id: str | None


class ForkTicket(Answer):
    """Permission to start one kernel from a snapshot, once."""

    ticket: str = Field(description="a random token that works once")
    kernel_id: str = Field(description="the kernel that is forked")
    snapshot_id: str
    vm_id: str = Field(description="the VM that the snapshot was taken of")
    name: str = Field(description="the snapshot's name")
    scope: str = Field(description="the parent's scope, in which the fork's snapshots are named, too")


class Limits(Answer):
    """The administrator's limits."""

    max_vcpu_count: int
    max_mem_size_mib: int
    max_start_timeout_s: float
    minimum_tier: str
    allowed_images: list[str] | None = Field(description="null means all")
    networks: list[str]
    max_snapshots: int
    max_snapshot_bytes: int
    max_forks: int = Field(description="the most forks that one request may ask for")


class Status(Answer):
    """What this server can do."""

    version: str
    tier: str | None = Field(
        description="the best isolation tier of this host; null when no monitor can run, or with a gateway"
    )
    gateway: bool = Field(description="the kernels run on a gateway; then all other routes answer 501")
    limits: Limits | None = Field(description="null with a gateway")
    message: str | None = Field(None, description="why there is no tier")


class Console(Answer):
    """The guest's console."""

    lines: list[str] = Field(description="the last lines, oldest first, without control characters")


class Failure(Answer):
    """An error; all errors have this form."""

    message: str = Field(description="one line, fit to be displayed")
    reason: str = Field(description="the error's class, such as SnapshotExists")
    details: list[str] = Field(description="the last lines of the guest's console, if there are any")
    field: str | None = Field(None, description="dotted path of the value that was refused")
    source: str | None = Field(None, description="where that value came from: kernelspec, notebook, call, request …")
