"""A machine from a snapshot: loaded with its kernel frozen, then woken as what it is to be now."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import AgentError, AgentUnreachable, NotReseeded, SnapshotCorrupt
from ..images.store import Image
from ..memory.pages import merge
from ..settings.resolve import Resolved
from ..settings.spec import NetworkInterface, VmSpec
from ..settings.tenant import Tenant
from ..snapshots.disk import Hold
from ..snapshots.snapshot import Snapshot
from ..vmm.base import Capability, SnapshotFiles, SnapshotLoad, VmmState
from ..vmm.monitors import Choice
from .identity import host_for
from .machine import SEED_BYTES, GuestKernel, Machine, Origin, check_tier, prepare, up_within

log = logging.getLogger(__name__)

Role = Literal["started", "restored", "fork"]

#: The agent's code for a guest kernel that does not take the host's randomness.
ENTROPY_REFUSED = -32001
#: Reseeding and the user's hooks; a hook that takes longer is the user's own business, but not for ever.
WAKE_TIMEOUT_S = 60.0
REHEARSAL_TIMEOUT_S = 30.0
MERGED_MEM = "merged.mem"


@dataclass(frozen=True, kw_only=True)
class Waking:
    """What a restored guest is told before the first byte of user code runs."""

    role: Role
    generation: int
    name: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    reseed: bool = True


async def load(
    snapshot: Snapshot,
    hold: Hold,
    choice: Choice,
    resolved: Resolved,
    tenant: Tenant,
    *,
    spec: VmSpec,
    started: Literal["template", "pool", "snapshot"],
    labels: dict[str, str],
    overrides: Sequence[NetworkInterface] = (),
    paused: bool = False,
) -> Machine:
    """Load a snapshot into a fresh monitor; the kernel in it stands still until :func:`wake`.

    The snapshot was checked by the caller; its hold is taken over, also when this fails. ``paused`` leaves the whole VM
    standing, for a pool. Raises :class:`~fc_kernel.errors.LaunchError`; then all is undone.
    """
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as undo:
        release = contextlib.ExitStack()
        release.callback(hold.close)
        undo.callback(release.close)
        vmm = await prepare(
            undo,
            choice,
            spec,
            run_dir=tenant.run_dir,
            initrd=None,
            timeout_s=resolved.start_timeout_s,
            labels=labels,
        )
        origin = Origin(
            started,
            base=snapshot,
            current=snapshot if snapshot.kind == "snapshot" else None,
            generation=snapshot.manifest.generation,
            kernel=_kernel_of(snapshot),
            release=release,
        )
        host = host_for(choice, None).model_copy(update={"image": snapshot.manifest.image})
        machine = Machine(vmm, undo, origin, host)
        machine.asleep = True
        async with up_within(vmm, resolved.start_timeout_s):
            files, layers = snapshot.files, snapshot.layers
            if layers and Capability.LAYERS not in vmm.capabilities:
                merged = vmm.plan.run_dir / MERGED_MEM
                await loop.run_in_executor(None, merge, files.mem, layers, merged)
                files, layers = SnapshotFiles(vmstate=files.vmstate, mem=merged), ()
            keeps = Capability.PAUSE_KEEPS_CONNECTIONS in vmm.capabilities
            await vmm.load(
                SnapshotLoad(files=files, layers=layers, resume=keeps or not paused, network_overrides=overrides)
            )
            check_tier(vmm, resolved)
            if keeps or not paused:
                await machine.links.attach()
            if keeps and paused:
                if origin.kernel is not None:
                    await rehearse(machine)
                await vmm.pause()
        machine.own(undo.pop_all())
    return machine


def _kernel_of(snapshot: Snapshot) -> GuestKernel | None:
    told = snapshot.manifest.kernel
    if told.instance is None:
        return None
    return GuestKernel(told.instance, told.key.encode(), told.execution_count or 0, told.cell)


async def wake(machine: Machine, waking: Waking, *, timeout_s: float = WAKE_TIMEOUT_S) -> list[str]:
    """Tell a loaded guest who it is now; its kernel runs afterwards. Returns what the user's hooks raised.

    Raises :class:`~fc_kernel.errors.NotReseeded` when the guest does not take fresh randomness: the caller must end it.
    """
    vmm = machine.vmm
    async with up_within(vmm, timeout_s):
        if vmm.state is VmmState.PAUSED:
            await vmm.resume()
        await machine.links.attach()
        key = secrets.token_hex(16)
        parameters: dict[str, Any] = {
            "generation": waking.generation,
            "role": waking.role,
            "name": waking.name,
            "hostname": f"vm-{vmm.plan.vm_id}",
            "machine_id": secrets.token_hex(16),
            "key": key,
            "env": {**waking.env, **machine.environment()},
            "cwd": waking.cwd,
            "reseed": waking.reseed,
        }
        try:
            said = await _restored(machine, parameters, timeout_s)
        except AgentUnreachable:
            # A connection that was made as the guest noticed its restore falls with those of its past. Once more is enough.
            await machine.links.drop()
            await machine.links.attach()
            said = await _restored(machine, parameters, timeout_s)
    machine.asleep = False
    # The key of a kernel that is not ours stays what it was: nothing waits in it that could run with it.
    if machine.origin.kernel is not None and not (isinstance(said, dict) and said.get("rekeyed") is False):
        old = machine.origin.kernel
        machine.origin.kernel = GuestKernel(old.instance, key.encode(), old.execution_count, old.cell)
    return hook_errors(said)


async def _restored(machine: Machine, parameters: dict[str, Any], timeout_s: float) -> Any:
    seed = base64.b64encode(os.urandom(SEED_BYTES)).decode()
    try:
        return await machine.agent.call(
            "restored", timeout_s=timeout_s, time=time.time(), entropy_b64=seed, **parameters
        )
    except AgentError as error:
        if error.code == ENTROPY_REFUSED:
            raise NotReseeded(
                f"the restored guest did not take fresh randomness and was ended: {error}",
                console=machine.vmm.console_tail(),
            ) from error
        raise


async def rehearse(machine: Machine) -> None:
    """Let a loaded machine do once, without a trace, what its first user will ask of it, and have it sleep again.

    An emulator translates code as it is first run, which takes several times as long as running it. A guest that cannot
    rehearse stays as it is.
    """
    generation = machine.origin.generation + 1
    await wake(machine, Waking(role="started", generation=generation))
    machine.origin.generation = generation
    try:
        await machine.agent.call("rehearse", timeout_s=WAKE_TIMEOUT_S, within_s=REHEARSAL_TIMEOUT_S)
    except AgentError as error:
        log.debug("VM %s does not rehearse: %s", machine.vmm.plan.vm_id, error)
    await machine.agent.call("freeze", timeout_s=WAKE_TIMEOUT_S, within_s=REHEARSAL_TIMEOUT_S, hooks=False)
    machine.asleep = True


#: What a guest may say of its hooks.
MAX_HOOK_ERRORS, MAX_HOOK_ERROR = 20, 500


def hook_errors(said: object) -> list[str]:
    """The errors of hooks, from an answer that may be anything."""
    errors = said.get("hook_errors") if isinstance(said, dict) else None
    if not isinstance(errors, list):
        return []
    return [str(each)[:MAX_HOOK_ERROR] for each in errors[:MAX_HOOK_ERRORS]]


def spec_for_load(snapshot: Snapshot, image: Image | None, instead: VmSpec | None = None) -> VmSpec:
    """The snapshot's machine, with the files that this host has for it: the image's, or those of ``instead``."""
    spec = snapshot.spec
    if spec.mem_size_mib is None or spec.vcpu_count is None:
        raise SnapshotCorrupt("manifest.json", "a machine without vCPUs or memory")
    if image is not None:
        return spec.model_copy(update={"kernel": image.kernel, "rootfs": image.rootfs})
    if instead is not None:
        return spec.model_copy(update={"kernel": instead.kernel, "rootfs": instead.rootfs})
    return spec
