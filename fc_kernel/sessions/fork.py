"""Forks: kernels of their own that go on from a snapshot of another one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..settings.resolve import Resolved
from ..settings.spec import SnapshotRef
from ..snapshots.snapshot import Snapshot


@dataclass(frozen=True, kw_only=True)
class ForkRequest:
    """What a fork is to be."""

    snapshot: Snapshot
    #: Of the kernel that was forked, with ``restore_from`` naming the snapshot.
    resolved: Resolved
    env: Mapping[str, str] = field(default_factory=dict)
    parent_kernel_id: str = ""
    #: The snapshots that the fork takes belong where its parent's do.
    scope: str = ""


@dataclass(frozen=True, kw_only=True)
class ForkInfo:
    """A fork that runs, or the ``error`` that kept it from running."""

    kernel_id: str
    name: str
    connection_file: str = ""
    url: str | None = None
    path: str | None = None
    session_id: str | None = None
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


#: Makes a kernel from a snapshot, on the engine's loop.
Forker = Callable[[ForkRequest], Awaitable[ForkInfo]]


def request_of(
    snapshot: Snapshot, resolved: Resolved, *, env: Mapping[str, str], parent_kernel_id: str, scope: str
) -> ForkRequest:
    """A fork with the settings of the kernel that is forked, at the snapshot."""
    restore_from = SnapshotRef(vm_id=snapshot.manifest.vm_id, snapshot_id=snapshot.id)
    spec = resolved.spec.model_copy(update={"restore_from": restore_from})
    return ForkRequest(
        snapshot=snapshot,
        resolved=replace(resolved, spec=spec),
        env=env,
        parent_kernel_id=parent_kernel_id,
        scope=scope,
    )


async def make_forks(request: ForkRequest, count: int, forker: Forker) -> list[ForkInfo]:
    """``count`` forks at once; one that fails says so in its ``error``, and when all fail the first error is raised."""
    made = await asyncio.gather(*(forker(request) for _ in range(count)), return_exceptions=True)
    if all(isinstance(each, BaseException) for each in made):
        raise next(each for each in made if isinstance(each, BaseException))
    return [
        ForkInfo(kernel_id="", name=request.snapshot.name, error=str(each)) if isinstance(each, BaseException) else each
        for each in made
    ]
