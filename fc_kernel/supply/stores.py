"""The stores of snapshots and templates that a configuration speaks of."""

from __future__ import annotations

from ..settings.config import FcKernelConfig
from ..snapshots.limits import StoreLimits
from ..snapshots.store import SnapshotStore
from ..snapshots.templates import TemplateStore


def snapshot_store(config: FcKernelConfig) -> SnapshotStore:
    """The user's snapshots, within the administrator's limits."""
    return SnapshotStore(
        limits=StoreLimits(
            max_snapshots=config.max_snapshots,
            max_bytes=config.max_snapshot_bytes,
            min_free_bytes=config.min_free_bytes,
        )
    )


def template_store() -> TemplateStore:
    """What kernels are started from."""
    return TemplateStore()
