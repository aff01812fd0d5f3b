"""Taking a snapshot of a running machine: freeze, pause, save, resume and thaw; only then write and publish."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil

from ..base.tasks import finish, off_loop
from ..errors import AgentError, FcKernelError, StateError
from ..snapshots.disk import Hold
from ..snapshots.draft import Draft
from ..snapshots.manifest import KernelState, ManifestDraft
from ..snapshots.snapshot import Base, Snapshot
from ..vmm.base import SnapshotCreate, VmmState
from ..wire.methods import KERNEL_BUSY
from .agent_client import AGENT_TIMEOUT_S, Frozen
from .machine import Machine

T = TypeVar("T")
log = logging.getLogger(__name__)

#: For the user's hooks, flushing and freezing; the agent gives up before we do.
FREEZE_TIMEOUT_S = 30.0
HOOKS_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class TakenSnapshot:
    """A published snapshot, and for how many seconds the kernel was paused."""

    snapshot: Snapshot
    paused_s: float
    hook_errors: tuple[str, ...]


def expected_bytes(machine: Machine) -> int:
    """An estimate of a snapshot's size: the monitor's private memory."""
    pid = machine.vmm.pid
    whole = (machine.vmm.plan.spec.mem_size_mib or 0) << 20
    if pid is None or machine.origin.base is None:
        return whole
    with contextlib.suppress(psutil.Error):
        memory = psutil.Process(pid).memory_info()
        return int(min(whole, max(0, memory.rss - memory.shared)))
    return whole


async def take(
    machine: Machine,
    draft: Draft,
    describe: Callable[[Frozen], ManifestDraft],
    *,
    notebook: bytes | None = None,
    hooks: bool = True,
    on_resumed: Callable[[], Awaitable[None]] | None = None,
) -> TakenSnapshot:
    """Save the machine into a draft, let it run again, and publish the draft; the next diff is based on the new snapshot.

    ``describe`` makes the manifest from what the agent said. When this fails the machine runs as before, and the caller
    discards the draft. Once begun, the capture is completed even if the caller is cancelled.
    """
    taken: list[tuple[Frozen, float]] = []
    base = machine.origin.base
    if base is not None and not await off_loop(base.vmstate.exists):
        # Somebody removed the base by force: this snapshot must be a full one.
        machine.rebase(None)
        base = None

    async def capture() -> None:
        taken.append(await _capture(machine, draft, "full" if base is None else "diff", hooks=hooks))

    try:
        await finish(capture())
    finally:
        if on_resumed is not None:
            await on_resumed()
    frozen, paused_s = taken[0]
    try:
        await machine.vmm.written()
        publish = functools.partial(
            draft.publish,
            describe(frozen),
            base=Base.full() if base is None else Base.diff_on(base),
            notebook=notebook,
        )
        snapshot, hold = await _to_the_end(functools.partial(_published, draft, publish))
    except BaseException:
        # The base of the next diff is lost with this snapshot.
        machine.rebase(None)
        raise
    machine.rebase(snapshot, hold)
    return TakenSnapshot(snapshot, paused_s, frozen.hook_errors)


def _published(draft: Draft, publish: Callable[[], Snapshot]) -> tuple[Snapshot, Hold]:
    """The snapshot, held from the start, so that nobody removes the base of the next diff."""
    return publish(), draft.keep()


async def _to_the_end(call: Callable[[], T]) -> T:
    """Run a blocking call; a cancelled caller waits for it to end, because it cannot be stopped."""
    future = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait({future})
        raise


async def _capture(machine: Machine, draft: Draft, kind: Any, *, hooks: bool) -> tuple[Frozen, float]:
    """From freeze to thaw. Whatever happens, the machine runs afterwards or is ended: it never stays frozen."""
    vmm = machine.vmm
    await vmm.prepare()
    since = time.monotonic()
    try:
        frozen = await _freeze(machine, hooks=hooks)
        await machine.links.rest()
        await vmm.pause()
        try:
            await vmm.snapshot(SnapshotCreate(files=draft.files, kind=kind))
        finally:
            await _resume(machine)
    finally:
        await _thaw(machine)
    return frozen, time.monotonic() - since


async def _freeze(machine: Machine, *, hooks: bool) -> Frozen:
    try:
        return await machine.agent.freeze(hooks=hooks, hooks_timeout_s=HOOKS_TIMEOUT_S, timeout_s=FREEZE_TIMEOUT_S)
    except AgentError as error:
        if error.code == KERNEL_BUSY:
            raise StateError(f"no snapshot was taken: {error}; try again when its cell has ended") from error
        raise


async def _resume(machine: Machine) -> None:
    if machine.vmm.state is not VmmState.PAUSED:
        return
    try:
        await machine.vmm.resume()
    except (FcKernelError, asyncio.CancelledError):
        log.error("VM %s does not go on after its snapshot and is ended", machine.vmm.plan.vm_id)
        with contextlib.suppress(StateError):
            await machine.vmm.kill()
        raise


async def _thaw(machine: Machine) -> None:
    if machine.vmm.state is not VmmState.RUNNING:
        return
    try:
        async with asyncio.timeout(AGENT_TIMEOUT_S):
            await machine.links.attach()
        await machine.agent.thaw(timeout_s=AGENT_TIMEOUT_S)
    except (FcKernelError, TimeoutError) as error:
        log.error("VM %s stays frozen and is ended: %s", machine.vmm.plan.vm_id, error or "no answer")
        with contextlib.suppress(StateError):
            await machine.vmm.kill()
        raise


def kernel_state(frozen: Frozen, key: bytes) -> KernelState:
    """The state of the kernel that the manifest records."""
    return KernelState(
        instance=frozen.instance,
        language=frozen.language,
        execution_count=frozen.execution_count,
        cell=frozen.cell,
        key=key.decode(),
    )
