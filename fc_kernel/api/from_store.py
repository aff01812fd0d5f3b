"""The model of a snapshot, made from the snapshot in the store."""

from __future__ import annotations

from ..snapshots.snapshot import Snapshot as StoredSnapshot
from .models import Snapshot


def snapshot_model(snapshot: StoredSnapshot, *, in_use: bool, current: bool) -> Snapshot:
    """The model of one snapshot. The caller knows whether a VM uses it, and whether it is the current one of a kernel."""
    manifest, spec = snapshot.manifest, snapshot.spec
    return Snapshot(
        id=snapshot.id,
        name=snapshot.name,
        description=snapshot.description,
        created=str(snapshot.created),
        size_bytes=snapshot.added_bytes,
        parent=snapshot.parent,
        scope=snapshot.scope,
        kernel_id=manifest.kernel_id or None,
        has_notebook=snapshot.notebook is not None,
        mem_size_mib=spec.mem_size_mib or 0,
        vcpu_count=spec.vcpu_count or 0,
        image=manifest.image.name if manifest.image is not None else "",
        monitor=manifest.monitor,
        in_use=in_use,
        current=current,
    )
