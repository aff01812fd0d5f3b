"""Makes the models of the snapshots and VMs on a host, from the store and the journal. All of it blocks for a moment."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from ..api.inventory import ReapedVm, SavedKernel, SnapshotDetails, SnapshotFile, Swept, Vm
from ..api.models import LineageItem
from ..snapshots.manifest import Part
from ..snapshots.root import lineage
from ..snapshots.snapshot import Snapshot
from ..snapshots.store import SnapshotStore
from ..snapshots.templates import TemplateStore
from ..vmm.journal import list_entries
from ..vmm.reaper import reap
from .views import snapshot_view


def details_view(
    store: SnapshotStore, snapshot: Snapshot, *, among: Sequence[Snapshot], current: Collection[str]
) -> SnapshotDetails:
    """All of one snapshot; its ancestors are looked for ``among`` these, and ``current`` are the ids where kernels stand."""
    manifest = snapshot.manifest
    return SnapshotDetails(
        **dict(snapshot_view(store, snapshot, current)),
        format=manifest.format,
        owner=manifest.owner,
        vm_id=manifest.vm_id,
        notebook=manifest.notebook,
        monitor_version=manifest.monitor_version,
        agent_protocol=manifest.agent_protocol,
        generation=manifest.generation,
        cpu=manifest.cpu,
        image_ref=manifest.image,
        boot_args=manifest.boot_args,
        spec=manifest.spec,
        # Its key is secret: it signs the guest's messages.
        kernel=SavedKernel(**manifest.kernel.model_dump(exclude={"key"})),
        template_key=manifest.template_key,
        path=str(snapshot.directory),
        disk_bytes=snapshot.size_bytes,
        own_bytes=store.disk_bytes(snapshot),
        lineage=[LineageItem(id=each.id, name=each.name) for each in lineage(among, snapshot)],
        files=[_file_view(snapshot, part) for part in manifest.parts],
    )


def _file_view(snapshot: Snapshot, part: Part) -> SnapshotFile:
    disk_bytes = links = None
    try:
        found = (snapshot.directory / part.file).lstat()
    except OSError:
        pass
    else:
        disk_bytes, links = found.st_blocks * 512, found.st_nlink
    return SnapshotFile(**dict(part), disk_bytes=disk_bytes, links=links)


def vms_view(run_dir: Path) -> list[Vm]:
    """The VMs below a run directory, oldest first; raises :class:`~fc_kernel.errors.RunDirError`."""
    return [Vm(**entry.to_dict()) for entry in list_entries(run_dir)]


def swept_view(run_dir: Path, snapshots: SnapshotStore, templates: TemplateStore) -> Swept:
    """Reap and sweep, and say what is gone; raises :class:`~fc_kernel.errors.RunDirError` before anything is touched."""
    return Swept(
        vms=[ReapedVm(vm_id=each.vm_id, outcome=each.outcome) for each in reap(run_dir)],
        snapshots=list(snapshots.sweep()),
        templates=list(templates.sweep()),
    )
