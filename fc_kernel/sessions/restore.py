"""Restoring a kernel: another VM is loaded from the snapshot and woken while the old one goes on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack

from ..channels.synthesized import Rollback
from ..errors import SnapshotError
from ..machine.wake import WakeRequest, wake
from ..settings.resolve import Resolved
from ..snapshots.snapshot import Snapshot
from ..supply.supply import Supply
from ..wire.methods import ROLE_RESTORED
from .incarnation import Incarnation


async def load_and_wake(
    snapshot: Snapshot,
    now: Incarnation,
    supply: Supply,
    *,
    resolved: Resolved,
    labels: Mapping[str, str],
    env: Mapping[str, str],
    same_seed: bool,
    asker: str | None,
) -> tuple[Incarnation, Rollback]:
    """Load a snapshot into another VM and wake its kernel.

    Returns the incarnation that is to replace ``now``, and how to answer the kernel's clients. ``asker`` is the message id
    of the request whose cell asks. The caller holds the session's lock. Raises :class:`~fc_kernel.errors.FcKernelError`; then
    no other VM is left.
    """
    async with AsyncExitStack() as undo:
        machine = await supply.from_snapshot(snapshot, resolved, labels=dict(labels))
        undo.push_async_callback(machine.aclose)
        saved = machine.origin.kernel
        if saved is None:
            raise SnapshotError(f"the snapshot {snapshot.name!r} holds no running kernel")
        generation = max(now.generation, machine.origin.generation) + 1
        wake_request = WakeRequest(
            role=ROLE_RESTORED, generation=generation, name=snapshot.name, reseed=not same_seed, env=dict(env)
        )
        hook_errors = await wake(machine, wake_request)
        kernel = machine.origin.kernel or saved
        machine.last_instance = kernel.instance
        rollback = Rollback(
            reason=f"the kernel was restored from the snapshot {snapshot.name!r}",
            text=f"restored {snapshot.name}\n" + "".join(f"on_restore: {error}\n" for error in hook_errors),
            asker=asker,
            execution_count=saved.execution_count,
            silenced=saved.cell,
            rekeyed=kernel != saved,
        )
        undo.pop_all()
    return Incarnation(machine=machine, generation=generation, instance=kernel.instance, key=kernel.key), rollback
