"""What a kernel's session shows of its machine and its snapshots."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..base.tasks import off_loop
from ..snapshots.snapshot import Snapshot
from ..snapshots.store import SnapshotStore
from .incarnation import Incarnation


async def snapshot_shown(snapshot: Snapshot, store: SnapshotStore, incarnation: Incarnation | None) -> dict[str, Any]:
    """The row for a snapshot in a table of snapshots, JSON-safe."""
    current = _current(incarnation)

    def show() -> dict[str, Any]:
        return _row(snapshot, {each.id: each.name for each in store.lineage(snapshot)}, current)

    return await off_loop(show)


async def snapshots_shown(scope: str, store: SnapshotStore, incarnation: Incarnation | None) -> list[dict[str, Any]]:
    """The rows for all snapshots of a scope, oldest first."""
    current = _current(incarnation)

    def show() -> list[dict[str, Any]]:
        snapshots = store.list(scope=scope)
        names = {snapshot.id: snapshot.name for snapshot in snapshots}
        return [_row(snapshot, names, current) for snapshot in snapshots]

    return await off_loop(show)


def _row(snapshot: Snapshot, names: Mapping[str, str], current: str | None) -> dict[str, Any]:
    """``names`` has its ancestors' names by id; ``current`` is the id of the snapshot where the kernel stands."""
    parent = snapshot.parent
    return {
        "id": snapshot.id,
        "name": snapshot.name,
        "description": snapshot.description,
        "created": snapshot.created,
        "size_bytes": snapshot.added_bytes,
        "parent": None if parent is None else names.get(parent, parent),
        "current": snapshot.id == current,
    }


def _current(incarnation: Incarnation | None) -> str | None:
    """The id of the snapshot that the kernel's state came from, or was last saved as."""
    current = None if incarnation is None else incarnation.machine.origin.current
    return None if current is None else current.id


def machine_info(incarnation: Incarnation, store: SnapshotStore) -> dict[str, Any]:
    """What users see of a VM, JSON-safe. Reads no file: the snapshots are as the store saw them last."""
    machine = incarnation.machine
    plan, origin = machine.vmm.plan, machine.origin
    lineage = () if origin.current is None else store.known_lineage(origin.current)
    return {
        "tier": str(machine.vmm.tier) if machine.vmm.pid is not None else None,
        "monitor": machine.vmm.name,
        "monitor_version": machine.vmm.version,
        "vcpu_count": plan.spec.vcpu_count,
        "mem_size_mib": plan.spec.mem_size_mib,
        "uptime_s": round(time.monotonic() - machine.started_at, 1),
        "generation": incarnation.generation,
        "lineage": [snapshot.name for snapshot in lineage],
        "current": None if origin.current is None else origin.current.id,
        "disk_bytes": sum(snapshot.added_bytes for snapshot in lineage),
        "image": None if machine.host.image is None else machine.host.image.name,
        "vm_id": plan.vm_id,
        "started": origin.started,
    }
