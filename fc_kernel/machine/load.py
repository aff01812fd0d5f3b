"""Loading a machine from a snapshot. Its kernel is frozen until :func:`~fc_kernel.machine.wake.wake`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Literal

from ..errors import SnapshotCorrupt
from ..images.store import Image
from ..memory.pages import merge
from ..settings.resolve import Resolved
from ..settings.spec import NetworkInterface, VmSpec
from ..settings.tenant import Tenant
from ..snapshots.disk import Hold
from ..snapshots.snapshot import Snapshot
from ..vmm.base import Capability, SnapshotFiles, SnapshotLoad
from ..vmm.monitors import Choice
from .boot import check_tier, prepare, up_within
from .identity import host_for
from .machine import GuestKernel, Machine, Origin
from .wake import rehearse

MERGED_MEM = "merged.mem"


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
    """Load a snapshot into a fresh monitor; the kernel in it is frozen until :func:`~fc_kernel.machine.wake.wake`.

    The caller has checked the snapshot. Its hold is taken over, also when this fails. With ``paused`` the whole VM stays
    paused, for a pool. Raises :class:`~fc_kernel.errors.LaunchError`; everything is then undone.
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
        machine.needs_wake = True
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


def spec_for_load(snapshot: Snapshot, image: Image | None, instead: VmSpec | None = None) -> VmSpec:
    """The spec of the snapshot's machine with the files of this host: those of the image, or of ``instead``."""
    spec = snapshot.spec
    if spec.mem_size_mib is None or spec.vcpu_count is None:
        raise SnapshotCorrupt("manifest.json", "a machine without vCPUs or memory")
    if image is not None:
        return spec.model_copy(update={"kernel": image.kernel, "rootfs": image.rootfs})
    if instead is not None:
        return spec.model_copy(update={"kernel": instead.kernel, "rootfs": instead.rootfs})
    return spec
