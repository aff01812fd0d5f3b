"""Makes the models that cross the boundary from sessions and the store. All but :func:`facts_of` block for a moment."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, get_args

from .. import __version__
from ..api.calls import Settings
from ..api.failures import without_host_paths
from ..api.from_store import snapshot_model
from ..api.models import MAX_FORKS, Kernel, Limits, LineageItem, Snapshot, State, Status
from ..base.files import read_regular
from ..errors import FcKernelError, SnapshotCorrupt
from ..sessions.session import KernelSession
from ..settings.config import FcKernelConfig
from ..settings.resolve import Resolved
from ..settings.schema import defaults_of
from ..snapshots.snapshot import Snapshot as StoredSnapshot
from ..snapshots.store import SnapshotStore
from ..vmm.monitors import choose_monitor

#: A notebook with its outputs; the contents API accepts as much.
MAX_NOTEBOOK_BYTES = 128 << 20


def state_of(word: object) -> State:
    """The API's word for a session's state; a closed session is ``dead``."""
    return word if word in get_args(State) else "dead"  # type: ignore[return-value]


def facts_of(session: KernelSession) -> tuple[dict[str, Any], int | None, str | None]:
    """What a session knows, read on the engine's loop: facts of its machine, the monitor's process, the network."""
    machine, resolved = session.machine, session.resolved
    return (
        session.info(),
        None if machine is None else machine.vmm.pid,
        None if resolved is None else resolved.network,
    )


def kernel_view(store: SnapshotStore, kernel_id: str, facts: tuple[dict[str, Any], int | None, str | None]) -> Kernel:
    """The model of one kernel."""
    info, pid, network = facts
    current = info.get("current")
    return Kernel(
        **{
            **{name: info.get(name) for name in Kernel.model_fields},
            "kernel_id": kernel_id,
            "state": state_of(info.get("state")),
            "generation": info.get("generation") or 0,
            "scope": info.get("scope") or f"kernel:{kernel_id}",
            "disk_bytes": info.get("disk_bytes") or 0,
            "network": network,
            "mem_used_mib": None if pid is None else used_mib(pid),
            "lineage": [] if current is None else lineage_view(store, current),
        }
    )


def lineage_view(store: SnapshotStore, snapshot_id: str) -> list[LineageItem]:
    """A snapshot and its ancestors, oldest first; empty when the snapshot is gone."""
    snapshot = next((each for each in store.list() if each.id == snapshot_id), None)
    ancestors = [] if snapshot is None else store.lineage(snapshot)
    return [LineageItem(id=each.id, name=each.name) for each in ancestors]


def used_mib(pid: int) -> int | None:
    """Memory of a monitor's process in MiB; pages shared by n processes count 1/n each (PSS)."""
    with contextlib.suppress(OSError):
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        return int(found[1]) >> 10 if found else None
    return None


def snapshot_view(store: SnapshotStore, snapshot: StoredSnapshot, current: Collection[str]) -> Snapshot:
    """The model of one snapshot; ``current`` are the IDs of the kernels' current snapshots."""
    return snapshot_model(snapshot, in_use=store.in_use(snapshot), current=snapshot.id in current)


def notebook_of(snapshot: StoredSnapshot) -> bytes | None:
    """The notebook that was saved with a snapshot; a symbolic link in its place is not followed."""
    if snapshot.notebook is None:
        return None
    try:
        return read_regular(snapshot.notebook, MAX_NOTEBOOK_BYTES, follow=False)
    except OSError as error:
        raise SnapshotCorrupt("notebook.ipynb", error.strerror or "it cannot be read") from error


def settings_view(resolved: Resolved) -> Settings:
    """The model of settings, as a start would use them."""
    return Settings(
        image=resolved.image,
        monitor=resolved.monitor,
        minimum_tier=str(resolved.minimum_tier),
        network=resolved.network,
        vcpu_count=resolved.spec.vcpu_count,
        mem_size_mib=resolved.spec.mem_size_mib,
        start_timeout_s=resolved.start_timeout_s,
        argv=None if resolved.argv is None else list(resolved.argv),
    )


def status_view(config: FcKernelConfig, data_dir: Path) -> Status:
    """The tier that a kernel with default settings gets, or why it cannot run, and the limits."""
    tier: str | None = None
    message: str | None = None
    try:
        tier = str(choose_monitor(defaults_of(config), config, data_dir).tier)
    except FcKernelError as error:
        message = without_host_paths(str(error).partition("\n")[0])
    return Status(version=__version__, tier=tier, gateway=False, limits=limits_view(config), message=message)


def limits_view(config: FcKernelConfig) -> Limits:
    """The administrator's limits."""
    limits = config.limits()
    return Limits(
        max_vcpu_count=limits.max_vcpu_count,
        max_mem_size_mib=limits.max_mem_size_mib,
        max_start_timeout_s=limits.max_start_timeout_s,
        minimum_tier=str(limits.minimum_tier),
        allowed_images=None if limits.allowed_images is None else sorted(limits.allowed_images),
        networks=sorted(limits.networks),
        max_snapshots=config.max_snapshots,
        max_snapshot_bytes=config.max_snapshot_bytes,
        max_forks=min(MAX_FORKS, config.max_forks),
    )
