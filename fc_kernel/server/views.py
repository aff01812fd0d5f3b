"""From what the engine and the store say to the models of the answers."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, get_args

from ..api.models import Kernel, LineageItem, Snapshot, State
from .hosting import Host, Session
from .hosting import Snapshot as StoredSnapshot


def state_of(word: object) -> State:
    """The API's word for a session's state; one that is closed is as dead as any."""
    return word if word in get_args(State) else "dead"  # type: ignore[return-value]


async def snapshot_answer(host: Host, snapshot: StoredSnapshot, current: Collection[str]) -> Snapshot:
    """One snapshot."""
    return await asyncio.to_thread(_snapshot, host, snapshot, current)


async def snapshot_answers(host: Host, scope: str | None, current: Collection[str]) -> list[Snapshot]:
    """The snapshots of a scope, or all, oldest first."""
    return await asyncio.to_thread(
        lambda: [_snapshot(host, snapshot, current) for snapshot in host.store.list(scope=scope)]
    )


def _snapshot(host: Host, snapshot: Any, current: Collection[str]) -> Snapshot:
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
        in_use=host.store.in_use(snapshot),
        current=snapshot.id in current,
    )


async def kernel_answer(host: Host, kernel_id: str, session: Session) -> Kernel:
    """One kernel, as its session describes it now."""

    async def ask() -> tuple[dict[str, Any], int | None, str | None]:
        machine, resolved = session.machine, session.resolved
        return (
            session.info(),
            None if machine is None else machine.vmm.pid,
            None if resolved is None else resolved.network,
        )

    info, pid, network = await host.run(ask())
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
            "mem_used_mib": None if pid is None else await asyncio.to_thread(used_mib, pid),
            "lineage": [] if current is None else await asyncio.to_thread(_lineage, host, current),
        }
    )


def _lineage(host: Host, current: str) -> list[LineageItem]:
    snapshot = next((each for each in host.store.list() if each.id == current), None)
    ancestors = [] if snapshot is None else host.store.lineage(snapshot)
    return [LineageItem(id=each.id, name=each.name) for each in ancestors]


def used_mib(pid: int) -> int | None:
    """Memory of a monitor's process, each page that it shares counted in parts (PSS)."""
    with contextlib.suppress(OSError):
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        return int(found[1]) >> 10 if found else None
    return None
