"""One booted guest: its run directory, its monitor, its agent. Made whole or not at all."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..config import FcKernelConfig
from ..errors import (
    AgentError,
    AgentUnreachable,
    FcKernelError,
    IsolationUnavailable,
    LaunchError,
    MonitorExited,
    ProtocolError,
)
from ..paths import RunDir, cache_dir, new_vm_id
from ..resolve import Resolved
from ..spec import VmSpec
from ..vmm.base import BootPlan, Vmm, VmmState
from ..vmm.console import without_controls
from ..vsock.ports import CONTROL_PORT, PROTOCOL_VERSION
from .dial import dial_until
from .rpc import AgentClient
from .select import choose_monitor

T = TypeVar("T")
log = logging.getLogger(__name__)

#: A healthy agent answers in milliseconds, also in an emulated guest; it never waits for the kernel.
AGENT_TIMEOUT_S = 10.0
#: Writing back the caches of a guest with a writable drive, before its machine is ended.
POWER_OFF_TIMEOUT_S = 10.0
#: As ``RNDADDENTROPY`` wants it: the guest kernel's pool has 256 bits.
SEED_BYTES = 32


@dataclass(frozen=True)
class GuestFacts:
    """What the agent says of its machine: claims of the guest, for display only."""

    python: str
    kernel_release: str
    vcpu_count: int
    mem_total_mib: int


class Machine:
    """A running guest whose agent has answered; :meth:`boot` makes it, :meth:`aclose` ends it."""

    def __init__(self, vmm: Vmm, agent: AgentClient, facts: GuestFacts, undo: contextlib.AsyncExitStack) -> None:
        self.vmm = vmm
        self.agent = agent
        self.facts = facts
        self._undo = undo

    @classmethod
    async def boot(
        cls,
        resolved: Resolved,
        config: FcKernelConfig,
        *,
        labels: dict[str, str],
        on_notification: Callable[[str, dict[str, Any]], None],
        on_agent_lost: Callable[[str], None],
    ) -> Machine:
        """Boot and greet the agent, within ``resolved.start_timeout_s``.

        Raises :class:`~fc_kernel.errors.ConfigError` before anything is started,
        :class:`~fc_kernel.errors.LaunchError` with the console's last lines afterwards; then all is undone.
        """
        loop = asyncio.get_running_loop()
        # Both look at files, and the first one also asks programs for their version and KVM for its speed.
        choice = await loop.run_in_executor(None, choose_monitor, resolved, config)
        spec, initrd = await loop.run_in_executor(None, _with_image, resolved)
        async with contextlib.AsyncExitStack() as undo:
            vm_id = new_vm_id()
            run_dir = RunDir.create(vm_id)
            undo.callback(run_dir.remove)
            plan = BootPlan(
                vm_id=vm_id,
                spec=spec,
                run_dir=run_dir.path,
                initrd=initrd,
                start_timeout_s=resolved.start_timeout_s,
                labels=labels,
            )
            vmm = choice.make(plan)
            undo.push_async_callback(vmm.aclose)
            try:
                async with asyncio.timeout(resolved.start_timeout_s):
                    await vmm.start()
                    _check_tier(vmm, resolved)
                    sock = await _unless_exited(vmm, dial_until(vmm.uds_path, CONTROL_PORT))
                    agent = AgentClient(sock, on_notification=on_notification, on_lost=on_agent_lost)
                    undo.push_async_callback(agent.aclose)
                    facts = await _greet(agent)
            except TimeoutError:
                raise AgentUnreachable(
                    f"the guest did not answer within {resolved.start_timeout_s:g} s (start_timeout_s)",
                    console=vmm.console_tail(),
                ) from None
            except MonitorExited as error:
                raise LaunchError(f"the guest ended while it booted: {error}", console=vmm.console_tail()) from error
            except (ProtocolError, AgentError, AgentUnreachable) as error:
                raise AgentUnreachable(
                    f"the guest booted but is of no use: {error}", console=vmm.console_tail()
                ) from error
            return cls(vmm, agent, facts, undo.pop_all())

    async def aclose(self) -> None:
        """End the guest and release everything, even if it is cancelled; may be called twice."""
        try:
            if self.vmm.state is VmmState.RUNNING and _keeps_data(self.vmm.plan.spec):
                await self._power_off()
        finally:
            await self._undo.aclose()

    async def _power_off(self) -> None:
        """Let the guest write what it has in its caches; a guest that does not is cut off."""
        try:
            async with asyncio.timeout(POWER_OFF_TIMEOUT_S):
                await self.agent.call("system.shutdown", timeout_s=POWER_OFF_TIMEOUT_S)
                await self.vmm.wait()
        except (FcKernelError, TimeoutError) as error:
            log.warning("VM %s did not power off in order: %s", self.vmm.plan.vm_id, error or "no answer")

    def environment(self) -> dict[str, str]:
        """What the kernel is told of its machine."""
        plan = self.vmm.plan
        return {
            "FC_KERNEL_TIER": str(self.vmm.tier),
            "FC_KERNEL_MONITOR": self.vmm.name,
            "FC_KERNEL_VM_ID": plan.vm_id,
            "FC_KERNEL_VCPU_COUNT": str(plan.spec.vcpu_count),
            "FC_KERNEL_MEM_SIZE_MIB": str(plan.spec.mem_size_mib),
        }

    async def healthy(self) -> bool:
        """Whether the guest answers."""
        try:
            await self.agent.call("ping", timeout_s=AGENT_TIMEOUT_S)
        except FcKernelError:
            return False
        return True


def _with_image(resolved: Resolved) -> tuple[VmSpec, Path | None]:
    """The spec with what the image brings; hashes the image's files, so it runs off the loop."""
    if resolved.monitor == "fake":
        return resolved.spec, None
    from ..images.initramfs import boot_initrd
    from ..images.store import ImageStore

    store = ImageStore()
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
    return spec, boot_initrd(image, cache_dir())


def _keeps_data(spec: VmSpec) -> bool:
    """Whether the guest may write to something that outlives it; its overlay does not."""
    return spec.rootfs_read_only is False or any(not drive.is_read_only for drive in spec.extra_drives or ())


def _check_tier(vmm: Vmm, resolved: Resolved) -> None:
    """What counts is the running process, not what was expected of the host."""
    if vmm.tier.rank < resolved.minimum_tier.rank:
        raise IsolationUnavailable(
            f"the running monitor gives the tier {vmm.tier}, and at least {resolved.minimum_tier} is required"
        )


async def _unless_exited(vmm: Vmm, waiting_for: Coroutine[Any, Any, T]) -> T:
    """Await, but raise :class:`~fc_kernel.errors.MonitorExited` as soon as the monitor ends."""
    task = asyncio.ensure_future(waiting_for)
    exited = asyncio.ensure_future(vmm.wait())
    try:
        await asyncio.wait({task, exited}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise MonitorExited(str(exited.result()), returncode=exited.result().returncode)
    finally:
        for each in (task, exited):
            if not each.done():
                each.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await each


async def _greet(agent: AgentClient) -> GuestFacts:
    seed = base64.b64encode(os.urandom(SEED_BYTES)).decode()
    said = await agent.call(
        "hello", timeout_s=AGENT_TIMEOUT_S, protocol=PROTOCOL_VERSION, time=time.time(), entropy_b64=seed
    )
    try:
        protocol = int(said["protocol"])
        facts = GuestFacts(
            python=without_controls(str(said["python"])[:32]),
            kernel_release=without_controls(str(said["kernel_release"])[:64]),
            vcpu_count=int(said["vcpu_count"]),
            mem_total_mib=int(said["mem_total_mib"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise AgentUnreachable(f"the guest agent's greeting is malformed: {error!r}") from error
    if protocol != PROTOCOL_VERSION:
        raise AgentUnreachable(f"the guest agent speaks protocol {protocol}; this host speaks {PROTOCOL_VERSION}")
    return facts
