"""One running guest: its monitor, its connections, and the snapshot that it comes from. It is made whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..errors import FcKernelError
from ..vmm.base import Vmm, VmmState
from ..wire import operations
from .agent_client import AgentClient
from .links import Links

if TYPE_CHECKING:
    from ..snapshots.compat import Host
    from ..snapshots.disk import Hold
    from ..snapshots.snapshot import Snapshot

log = logging.getLogger(__name__)

#: For a guest with a writable drive to flush its caches before its machine is ended.
POWER_OFF_TIMEOUT_S = 10.0

#: Notifications (a kernel ends, a cell asks) that are kept until the machine has an owner.
MAX_UNHEARD = 16


@dataclass(frozen=True)
class GuestKernel:
    """The kernel process in a loaded snapshot; ``instance`` is its number in the guest's agent."""

    instance: int
    key: bytes
    execution_count: int = 0
    #: The id of the request whose cell took the snapshot.
    cell: str | None = None


@dataclass
class Origin:
    """How a machine was started, and the snapshot that its state came from."""

    started: Literal["cold", "template", "pool", "snapshot"]
    #: The snapshot that was loaded or saved last: a diff holds what has changed since.
    base: Snapshot | None = None
    #: The user's snapshot that was loaded or saved last; never a template.
    current: Snapshot | None = None
    #: The generation of the snapshot that was loaded.
    generation: int = 0
    kernel: GuestKernel | None = None
    #: Releases ``base``.
    release: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


class Machine:
    """A running guest whose agent has answered; :meth:`boot` makes it, :meth:`aclose` ends it.

    Notifications are kept until :meth:`listen`. ``on_agent_lost(reason, fatal)`` is set by the machine's owner, and runs on
    the loop.
    """

    def __init__(self, vmm: Vmm, undo: contextlib.AsyncExitStack, origin: Origin, host: Host) -> None:
        self.vmm = vmm
        self.origin = origin
        #: What a snapshot of this machine requires of a host.
        self.host = host
        self.started_at = time.monotonic()
        self.on_notification: Callable[[str, dict[str, Any]], None] | None = None
        self._unheard: list[tuple[str, dict[str, Any]]] = []
        self.on_agent_lost: Callable[[str, bool], None] = lambda _reason, _fatal: None
        #: Whether it was loaded and its kernel is frozen until :func:`~fc_kernel.machine.wake.wake`.
        self.needs_wake = False
        #: The highest number of a kernel process in it so far.
        self.last_instance = 0
        self.links = Links(vmm, on_notification=self._notified, on_lost=self._lost)
        self._undo = contextlib.AsyncExitStack()
        undo.callback(self._release_base)
        undo.push_async_callback(self.links.drop)

    def own(self, undo: contextlib.AsyncExitStack) -> None:
        """Take over, from whoever made the machine, what :meth:`aclose` releases."""
        self._undo = undo

    def _release_base(self) -> None:
        self.origin.release.close()

    def rebase(self, snapshot: Snapshot | None, hold: Hold | None = None) -> None:
        """Base the next diff on this snapshot, which was just taken; with ``None`` no diff is possible."""
        self._release_base()
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
        """Call ``heard(method, params)`` on the loop for each notification, kept ones first; ``None`` keeps them again."""
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
        """Let the guest flush its caches; a guest that does not is killed."""
        try:
            async with asyncio.timeout(POWER_OFF_TIMEOUT_S):
                await self.agent.shut_down()
                await self.vmm.wait()
        except (FcKernelError, TimeoutError) as error:
            log.warning("VM %s did not power off in order: %s", self.vmm.plan.vm_id, error or "no answer")

    def environment(self) -> dict[str, str]:
        """The environment variables that tell the kernel about its machine."""
        plan = self.vmm.plan
        return {
            operations.TIER_VARIABLE: str(self.vmm.tier),
            operations.MONITOR_VARIABLE: self.vmm.name,
            operations.VM_ID_VARIABLE: plan.vm_id,
            operations.VCPU_COUNT_VARIABLE: str(plan.spec.vcpu_count),
            operations.MEM_SIZE_MIB_VARIABLE: str(plan.spec.mem_size_mib),
        }

    @property
    def keeps_data(self) -> bool:
        """Whether the guest can write to a drive that outlives it; its overlay does not."""
        spec = self.vmm.plan.spec
        return spec.rootfs_read_only is False or any(not drive.is_read_only for drive in spec.extra_drives or ())

    async def healthy(self) -> bool:
        """Whether the guest answers."""
        try:
            await self.agent.ping()
        except FcKernelError:
            return False
        return True
