"""What lies and runs on a host: snapshots with their files, those that cannot be used, and VMs; and what a sweep removes."""

from __future__ import annotations

from pydantic import Field

from ..settings.spec import VmSpec
from ..snapshots.manifest import Cpu, ImageRef
from .models import Answer, LineageItem, Snapshot


class SnapshotFile(Answer):
    """One file of a snapshot."""

    file: str
    sha256: str
    size_bytes: int
    disk_bytes: int | None = Field(description="what it takes on the disk; null when it cannot be read")
    links: int | None = Field(description="how many snapshots and templates share it; null when it cannot be read")


class SavedKernel(Answer):
    """The kernel process of a snapshot, as the guest told of it."""

    instance: int | None
    language: str | None
    execution_count: int | None
    cell: str | None = Field(description="id of the request whose cell asked for the snapshot")


class SnapshotDetails(Snapshot):
    """A snapshot with all that is known of its VM and its files."""

    format: int
    owner: str
    vm_id: str = Field(description="the VM that it was taken of")
    notebook: str | None = Field(description="path of the notebook, for people")
    monitor_version: str
    agent_protocol: int
    generation: int
    cpu: Cpu
    image_ref: ImageRef | None = Field(description="the image with its digests")
    boot_args: str
    spec: VmSpec
    kernel: SavedKernel
    template_key: str
    path: str = Field(description="its directory on the host, for people")
    disk_bytes: int = Field(description="what its files take on the disk, also those that it shares")
    own_bytes: int = Field(description="what its removal frees")
    lineage: list[LineageItem] = Field(description="it and the snapshots that it comes from, oldest first")
    files: list[SnapshotFile]


class BrokenSnapshot(Answer):
    """A snapshot that cannot be used, and can be deleted by its id."""

    id: str
    error: str = Field(description="why")


class Vm(Answer):
    """A VM as the journal has it; ``pid``, ``start_time`` and ``exe`` together name its monitor's process for good."""

    vm_id: str
    monitor: str
    pid: int
    start_time: int = Field(description="in clock ticks since the host's boot")
    exe: tuple[int, int] = Field(description="device and inode of the program")
    owner_pid: int
    created: float = Field(description="seconds since 1970")
    kernel_id: str
    labels: dict[str, str]
    lifetime: str = Field(description="bound VMs end with their owner, detached ones go on")
    owner_alive: bool


class ReapedVm(Answer):
    """A VM whose owner is dead, and what became of it."""

    vm_id: str
    outcome: str


class Swept(Answer):
    """What a sweep has removed."""

    vms: list[ReapedVm]
    snapshots: list[str] = Field(description="directories of snapshots that were left unfinished")
    templates: list[str] = Field(description="ids of templates that were broken or long unused")
