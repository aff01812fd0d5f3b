"""A tenant's stores of snapshots and templates."""

from __future__ import annotations

from ..base.verified import VerifiedFiles
from ..settings.tenant import Tenant
from ..snapshots.store import SnapshotStore, StoreLimits
from ..snapshots.templates import TemplateStore

RECORDS_NAME = "snapshot-digests.json"


def snapshot_store(tenant: Tenant) -> SnapshotStore:
    """The tenant's snapshots, within the administrator's limits."""
    config = tenant.config
    return SnapshotStore(
        tenant.data_dir / "snapshots",
        StoreLimits(
            max_snapshots=config.max_snapshots,
            max_bytes=config.max_snapshot_bytes,
            min_free_bytes=config.min_free_bytes,
        ),
        owner=tenant.owner,
        records=_records(tenant),
    )


def template_store(tenant: Tenant) -> TemplateStore:
    """The templates from which the tenant's kernels start."""
    return TemplateStore(tenant.data_dir / "templates", owner=tenant.owner, records=_records(tenant))


def _records(tenant: Tenant) -> VerifiedFiles:
    # One file for both stores: a template's memory is a file of the snapshots that were made from it, too.
    return VerifiedFiles(tenant.cache_dir, RECORDS_NAME)
