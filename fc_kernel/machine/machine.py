"""One guest that runs: its run directory, its monitor, its agent. Made whole or not at all."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..base.paths import RunDir, new_vm_id
from ..base.tasks import off_loop
from ..base.text import without_controls
from ..errors import (
    AgentError,
    AgentUnreachable,
    FcKernelError,
    IsolationUnavailable,
    LaunchError,
    MonitorExited,
    ProtocolError,
)
from ..settings.monitors import FOR_TESTS
from ..settings.resolve import Resolved
from ..settings.spec import VmSpec
from ..settings.tenant import Tenant
from ..vmm.base import BootPlan, Vmm, VmmState
from ..vmm.monitors import Choice, choose_monitor
from ..wire.ports import PROTOCOL_VERSION
from .agent_client import AgentClient
from .identity import host_for
from .links import Links

if TYPE_CHECKING:
    from ..images.store import Image
    from ..snapshots.compat import Host
    from ..snapshots.disk import Hold
    from ..snapshots.snapshot import Snapshot

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


#: A kernel that ends, or a cell that asks, before it is known whose the machine is.
MAX_UNHEARD = 16


@dataclass(frozen=True)
class GuestKernel:
    """The kernel process that a snapshot brought with it, under the number that the guest's agent has for it."""

    instance: int
    key: bytes
    execution_count: int = 0
    #: The id of the request whose cell took the snapshot.
    cell: str | None = None


@dataclass
class Origin:
    """How a machine came to be, and which snapshot its state stands on."""

    started: Literal["cold", "template", "pool", "snapshot"]
    #: What was loaded, or saved, last: what changes since then is what a diff holds.
    base: Snapshot | None = None
    #: The user's snapshot that the state stands on; a template is none.
    current: Snapshot | None = None
    #: The generation of the snapshot that was loaded.
    generation: int = 0
    kernel: GuestKernel | None = None
    #: Lets go of ``base``.
    release: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


class Machine:
    """A running guest whose agent has answered; :meth:`boot` makes it, :meth:`aclose` ends it.

    What the guest tells is kept until :meth:`listen`. ``on_agent_lost(reason, fatal)`` is whoever's the machine is, and runs
    on the loop.
    """

    def __init__(self, vmm: Vmm, undo: contextlib.AsyncExitStack, origin: Origin, host: Host) -> None:
        self.vmm = vmm
        self.origin = origin
        #: What a snapshot of this machine has to fit.
        self.host = host
        self.facts: GuestFacts | None = None
        self.started_at = time.monotonic()
        self.on_notification: Callable[[str, dict[str, Any]], None] | None = None
        self._unheard: list[tuple[str, dict[str, Any]]] = []
        self.on_agent_lost: Callable[[str, bool], None] = lambda _reason, _fatal: None
        #: Loaded, its kernel frozen, until somebody tells it who it is now.
        self.asleep = False
        #: The highest number that a kernel process in it has had.
        self.last_instance = 0
        self.links = Links(vmm, on_notification=self._notified, on_lost=self._lost)
        self._undo = contextlib.AsyncExitStack()
        undo.callback(self._let_go)
        undo.push_async_callback(self.links.drop)

    @classmethod
    async def boot(
        cls,
        resolved: Resolved,
        tenant: Tenant,
        *,
        labels: dict[str, str],
        choice: Choice | None = None,
    ) -> Machine:
        """Boot and greet the agent, within ``resolved.start_timeout_s``.

        Raises :class:`~fc_kernel.errors.ConfigError` before anything is started,
        :class:`~fc_kernel.errors.LaunchError` with the console's last lines afterwards; then all is undone.
        """
        loop = asyncio.get_running_loop()
        # Both look at files, and the first one also asks programs for their version and KVM for its speed.
        if choice is None:
            choice = await loop.run_in_executor(None, choose_monitor, resolved, tenant.config)
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
            machine = cls(vmm, undo, Origin("cold"), host_for(choice, image))
            async with up_within(vmm, resolved.start_timeout_s):
                await vmm.start()
                check_tier(vmm, resolved)
                await machine.links.attach()
                machine.facts = await _greet(machine.agent)
            machine.own(undo.pop_all())
            return machine

    def own(self, undo: contextlib.AsyncExitStack) -> None:
        """What :meth:`aclose` releases, from whoever has made the machine."""
        self._undo = undo

    def _let_go(self) -> None:
        self.origin.release.close()

    def stands_on(self, snapshot: Snapshot | None, hold: Hold | None = None) -> None:
        """The state is that of a snapshot that was just taken: diffs are on that from now on, or with ``None`` on nothing."""
        self._let_go()
        origin = self.origin
        origin.release = contextlib.ExitStack()
        if hold is not None:
            origin.release.callback(hold.close)
        origin.base = snapshot
        if snapshot is not None and snapshot.kind == "snapshot":
            origin.current = snapshot

    @property
    def agent(self) -> AgentClient:
        """The guest's agent; raises :class:`~fc_kernel.errors.StateError` while there is no control connection."""
        return self.links.agent

    def listen(self, heard: Callable[[str, dict[str, Any]], None] | None) -> None:
        """Call ``heard(method, params)`` on the loop for what the guest tells, and told before; ``None`` keeps it again."""
        self.on_notification = heard
        if heard is not None:
            unheard, self._unheard = self._unheard, []
            for method, params in unheard:
                heard(method, params)

    def _notified(self, method: str, params: dict[str, Any]) -> None:
        if self.on_notification is not None:
            self.on_notification(method, params)
        elif len(self._unheard) < MAX_UNHEARD:
            self._unheard.append((method, params))

    def _lost(self, reason: str, fatal: bool) -> None:
        self.on_agent_lost(reason, fatal)

    async def aclose(self) -> None:
        """End the guest and release everything, even if it is cancelled; may be called twice."""
        try:
            if self.vmm.state is VmmState.RUNNING and self.keeps_data and self.links.connected:
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

    @property
    def keeps_data(self) -> bool:
        """Whether the guest may write to something that outlives it; its overlay does not."""
        spec = self.vmm.plan.spec
        return spec.rootfs_read_only is False or any(not drive.is_read_only for drive in spec.extra_drives or ())

    async def healthy(self) -> bool:
        """Whether the guest answers."""
        try:
            await self.agent.call("ping", timeout_s=AGENT_TIMEOUT_S)
        except FcKernelError:
            return False
        return True


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
    """A monitor that is not started, in a fresh directory below ``run_dir``; ``undo`` releases both."""
    vm_id = new_vm_id()
    own_dir = await off_loop(functools.partial(RunDir.create, run_dir, vm_id), undo=RunDir.remove)
    # It may hold a memory.
    undo.push_async_callback(off_loop, own_dir.remove)
    plan = BootPlan(
        vm_id=vm_id, spec=spec, run_dir=own_dir.path, initrd=initrd, start_timeout_s=timeout_s, labels=labels
    )
    vmm = choice.make(plan)
    undo.push_async_callback(vmm.aclose)
    return vmm


@contextlib.asynccontextmanager
async def up_within(vmm: Vmm, timeout_s: float) -> AsyncIterator[None]:
    """A start's deadline; whatever goes wrong becomes a :class:`~fc_kernel.errors.LaunchError` with the console's end."""
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
    """The spec with what the image brings; hashes the image's files, so it runs off the loop."""
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
    """What counts is the running process, not what was expected of the host."""
    if vmm.tier.rank < resolved.minimum_tier.rank:
        raise IsolationUnavailable(
            f"the running monitor gives the tier {vmm.tier}, and at least {resolved.minimum_tier} is required"
        )


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
