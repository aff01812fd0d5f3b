"""Booting a machine, and what booting and loading share: a run directory, a deadline, the check of the tier."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..base.paths import RunDir, new_vm_id
from ..base.tasks import off_loop
from ..errors import AgentError, AgentUnreachable, IsolationUnavailable, LaunchError, MonitorExited, ProtocolError
from ..settings.monitors import FOR_TESTS
from ..settings.resolve import Resolved
from ..settings.spec import VmSpec
from ..settings.tenant import Tenant
from ..vmm.base import BootPlan, Vmm
from ..vmm.monitors import Choice, choose_monitor
from .identity import host_for
from .machine import Machine, Origin

if TYPE_CHECKING:
    from ..images.store import Image


async def boot(
    resolved: Resolved,
    tenant: Tenant,
    *,
    labels: dict[str, str],
    choice: Choice | None = None,
) -> Machine:
    """Boot a machine and greet its agent, within ``resolved.start_timeout_s``.

    Raises :class:`~fc_kernel.errors.ConfigError` before anything is started, and afterwards
    :class:`~fc_kernel.errors.LaunchError` with the console's last lines; everything is then undone.
    """
    loop = asyncio.get_running_loop()
    # Both read files; the first also runs programs for their versions and measures the speed of KVM.
    if choice is None:
        choice = await loop.run_in_executor(None, choose_monitor, resolved, tenant.config, tenant.data_dir)
    spec, initrd, image = await loop.run_in_executor(None, with_image, resolved, tenant)
    async with contextlib.AsyncExitStack() as undo:
        vmm = await prepare(
            undo,
            choice,
            spec,
            run_dir=tenant.run_dir,
            initrd=initrd,
            timeout_s=resolved.start_timeout_s,
            labels=labels,
        )
        machine = Machine(vmm, undo, Origin("cold"), host_for(choice, image))
        async with up_within(vmm, resolved.start_timeout_s):
            await vmm.start()
            check_tier(vmm, resolved)
            await machine.links.attach()
            await machine.agent.hello()
        machine.own(undo.pop_all())
        return machine


async def prepare(
    undo: contextlib.AsyncExitStack,
    choice: Choice,
    spec: VmSpec,
    *,
    run_dir: Path,
    initrd: Path | None,
    timeout_s: float,
    labels: dict[str, str],
) -> Vmm:
    """Make a monitor, not started yet, in a fresh directory below ``run_dir``; ``undo`` releases both."""
    vm_id = new_vm_id()
    own_dir = await off_loop(functools.partial(RunDir.create, run_dir, vm_id), undo=RunDir.remove)
    # The directory may hold a guest's memory, so removing it takes time.
    undo.push_async_callback(off_loop, own_dir.remove)
    plan = BootPlan(
        vm_id=vm_id, spec=spec, run_dir=own_dir.path, initrd=initrd, start_timeout_s=timeout_s, labels=labels
    )
    vmm = choice.make(plan)
    undo.push_async_callback(vmm.aclose)
    return vmm


@contextlib.asynccontextmanager
async def up_within(vmm: Vmm, timeout_s: float) -> AsyncIterator[None]:
    """A start's deadline; every error becomes a :class:`~fc_kernel.errors.LaunchError` with the console's last lines."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise AgentUnreachable(
            f"the guest did not answer within {timeout_s:g} s (start_timeout_s)", console=vmm.console_tail()
        ) from None
    except MonitorExited as error:
        raise LaunchError(f"the guest ended while it booted: {error}", console=vmm.console_tail()) from error
    except (ProtocolError, AgentError, AgentUnreachable) as error:
        raise AgentUnreachable(f"the guest booted but is of no use: {error}", console=vmm.console_tail()) from error


def with_image(resolved: Resolved, tenant: Tenant) -> tuple[VmSpec, Path | None, Image | None]:
    """Complete the spec from the image. Hashes the image's files: call it off the loop."""
    if resolved.monitor in FOR_TESTS:
        return resolved.spec, None, None
    from ..images.initramfs import boot_initrd
    from ..images.store import ImageStore

    store = ImageStore.of(tenant)
    image = store.get(resolved.image)
    store.verify(image, unless_unchanged=True)
    given = resolved.spec
    spec = given.model_copy(
        update={
            "kernel": given.kernel or image.kernel,
            "rootfs": given.rootfs or image.rootfs,
            "rootfs_read_only": True if given.rootfs_read_only is None else given.rootfs_read_only,
            "boot_args": given.boot_args if given.boot_args is not None else image.boot_args,
            "track_dirty_pages": True if given.track_dirty_pages is None else given.track_dirty_pages,
        }
    )
    return spec, boot_initrd(image, tenant.cache_dir), image


def check_tier(vmm: Vmm, resolved: Resolved) -> None:
    """Check the tier of the running process, not the one that was expected of the host."""
    if vmm.tier.rank < resolved.minimum_tier.rank:
        raise IsolationUnavailable(
            f"the running monitor gives the tier {vmm.tier}, and at least {resolved.minimum_tier} is required"
        )
