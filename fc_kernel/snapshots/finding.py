"""Finding one snapshot among those that there are."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import SnapshotNotFound
from .naming import MIN_ID_PREFIX
from .snapshot import Snapshot

#: An error's message names no more than these.
MAX_NAMED = 12


def of(snapshots: Sequence[Snapshot], scope: str | None) -> list[Snapshot]:
    """Those of a scope; ``None`` is any."""
    return [snapshot for snapshot in snapshots if scope is None or snapshot.scope == scope]


def find(snapshots: Sequence[Snapshot], ref: str) -> Snapshot:
    """The one that a name, an id or an id's beginning means; raises :class:`~fc_kernel.errors.SnapshotNotFound`."""
    found = [snapshot for snapshot in snapshots if snapshot.id == ref]
    found = found or [snapshot for snapshot in snapshots if snapshot.name == ref]
    if not found and len(ref) >= MIN_ID_PREFIX:
        found = [snapshot for snapshot in snapshots if snapshot.id.startswith(ref)]
    if len(found) == 1:
        return found[0]
    shown = repr(ref[:80])
    if found:
        raise SnapshotNotFound(f"{shown} could be any of: {_named(found, ids=True)}; say which by its id")
    if not snapshots:
        raise SnapshotNotFound(f"there is no snapshot {shown}, and no other")
    raise SnapshotNotFound(f"there is no snapshot {shown}; there are: {_named(snapshots)}")


def _named(snapshots: Sequence[Snapshot], *, ids: bool = False) -> str:
    names = [f"{each.id} ({each.name} of {each.scope[:80]})" if ids else each.name for each in snapshots]
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    # The newest are what is looked for.
    return ", ".join(names[-MAX_NAMED:]) + more


def lineage(snapshots: Sequence[Snapshot], snapshot: Snapshot) -> list[Snapshot]:
    """It and its forebears, oldest first."""
    by_id = {each.id: each for each in snapshots}
    line = [snapshot]
    while (parent := line[0].parent) in by_id and all(each.id != parent for each in line):
        line.insert(0, by_id[parent])
    return line
