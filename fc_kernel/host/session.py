"""One kernel's life: a machine that may be replaced, a kernel process that may be started again, and stable endpoints."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ..channels.endpoints import ClientEndpoints
from ..channels.switchboard import Switchboard
from ..config import FcKernelConfig
from ..errors import AgentError, AgentUnreachable, FcKernelError, KernelStartError, LaunchError, StateError
from ..resolve import Resolved
from ..vsock.ports import CHANNEL_PORTS
from .dial import dial_all
from .engine import Engine
from .machine import AGENT_TIMEOUT_S, Machine

log = logging.getLogger(__name__)

#: What a dying kernel printed last crosses the tunnel after the news of its death; so long we wait for it.
LAST_WORDS_S = 0.2
#: How long broken connections to a living guest are dialled again before the guest is given up.
REDIAL_TIMEOUT_S = 10.0
REDIAL_EVERY_S = 0.2


class Phase(Enum):
    """Where a session is in its life."""

    IDLE = "no kernel process"
    STARTING = "starting"
    RUNNING = "running"
    CLOSED = "closed"


@dataclass(frozen=True, kw_only=True)
class KernelRequest:
    """The kernel process to start in the guest; ``argv`` ``None`` is the guest's own ipykernel."""

    resolved: Resolved
    argv: Sequence[str] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None


class KernelSession:
    """Used on the engine's loop. ``returncode`` may be read from any thread."""

    def __init__(
        self,
        engine: Engine,
        config: FcKernelConfig,
        endpoints: ClientEndpoints,
        *,
        key: bytes,
        signature_scheme: str = "hmac-sha256",
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self._engine = engine
        self._config = config
        self._labels = dict(labels or {})
        self._phase = Phase.IDLE
        self._machine: Machine | None = None
        self._resolved: Resolved | None = None
        self._instance = 0
        self._generation = 0
        self._guest_key = b""
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: asyncio.Event = asyncio.Event()
        self._lock = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        #: Exit status of the last kernel process; ``None`` while one runs or none was started.
        self.returncode: int | None = None
        #: Why it ended, for the log and for clients.
        self.death: str = ""
        self.switchboard = Switchboard(
            endpoints, key=key, signature_scheme=signature_scheme, on_tunnel_lost=self._tunnel_lost_threadsafe
        )
        self.ports = self.switchboard.start()
        engine.adopt(self)

    @property
    def running(self) -> bool:
        """Whether a kernel process runs."""
        return self._phase is Phase.RUNNING

    @property
    def machine(self) -> Machine | None:
        """The guest, if there is one."""
        return self._machine

    async def start(self, request: KernelRequest) -> None:
        """Start a kernel process: in the machine that is there if it is healthy and as requested, else in a fresh one.

        Raises :class:`~fc_kernel.errors.FcKernelError`; then nothing of it is left.
        """
        async with self._lock:
            if self._phase is not Phase.IDLE:
                raise StateError(f"a start while the session is {self._phase.value}")
            self._phase = Phase.STARTING
            self._cancel_linger()
            try:
                await self._machine_for(request)
                await self._start_kernel(request)
            except BaseException:
                await self._drop_machine()
                if self._phase is not Phase.CLOSED:
                    self._phase = Phase.IDLE
                raise
            self._phase = Phase.RUNNING

    async def _machine_for(self, request: KernelRequest) -> None:
        machine = self._machine
        if machine is not None:
            same = request.resolved == self._resolved and self._config.keep_vm_on_restart
            if same and await machine.healthy():
                return
            await self._drop_machine()
        self._machine = await Machine.boot(
            request.resolved,
            self._config,
            labels=self._labels,
            on_notification=self._notified,
            on_agent_lost=self._agent_lost,
        )
        self._resolved = request.resolved
        self._spawn(self._watch(self._machine), "watch")
        facts, vmm = self._machine.facts, self._machine.vmm
        log.info("VM %s: %s %s, tier %s, guest kernel %s", vmm.plan.vm_id, vmm.name, vmm.version, vmm.tier, facts.kernel_release)

    async def _start_kernel(self, request: KernelRequest) -> None:
        machine = self._machine
        assert machine is not None  # noqa: S101 - _machine_for has made it
        vmm = machine.vmm
        self._instance += 1
        self._generation += 1
        self._guest_key = secrets.token_hex(16).encode()
        self.returncode = None
        self._ended = asyncio.Event()
        env = {
            **request.env,
            "FC_KERNEL_TIER": str(vmm.tier),
            "FC_KERNEL_MONITOR": vmm.name,
            "FC_KERNEL_VM_ID": vmm.plan.vm_id,
            "FC_KERNEL_VCPU_COUNT": str(request.resolved.spec.vcpu_count),
            "FC_KERNEL_MEM_SIZE_MIB": str(request.resolved.spec.mem_size_mib),
        }
        try:
            await machine.agent.call(
                "kernel.start",
                timeout_s=request.resolved.start_timeout_s,
                argv=list(request.argv) if request.argv else None,
                env=env,
                cwd=request.cwd,
                key=self._guest_key.decode(),
                instance=self._instance,
            )
        except AgentError as error:
            raise KernelStartError(f"the kernel did not start in the guest: {error}") from error
        except AgentUnreachable as error:
            if vmm.plan is not None and not error.console:
                raise KernelStartError(str(error), console=vmm.console_tail()) from error
            raise
        await self._attach()

    async def _attach(self) -> None:
        machine = self._machine
        assert machine is not None  # noqa: S101 - callers have one
        sockets = await dial_all(machine.vmm.uds_path, CHANNEL_PORTS)
        attached = self.switchboard.attach(sockets, guest_key=self._guest_key, generation=self._generation)
        async with asyncio.timeout(AGENT_TIMEOUT_S):
            await asyncio.wrap_future(attached)

    async def _watch(self, machine: Machine) -> None:
        """A machine's end is its kernel's end."""
        exit_ = await machine.vmm.wait()
        if machine is self._machine:
            self._kernel_ended(exit_.returncode or -signal.SIGKILL, f"the microVM ended: {exit_}", linger=False)

    def _notified(self, method: str, params: dict[str, Any]) -> None:
        if method != "kernel.exited" or params.get("instance") != self._instance:
            return
        returncode = params.get("returncode")
        if not isinstance(returncode, int):
            returncode = 1
        how = f"was killed by signal {-returncode}" if returncode < 0 else f"ended with status {returncode}"
        why = "the guest ran out of memory and the kernel process " if params.get("oom") is True else "the kernel process "
        self._kernel_ended(returncode, why + how, linger=True)

    def _kernel_ended(self, returncode: int, reason: str, *, linger: bool) -> None:
        if self._ended.is_set() and self.returncode is not None:
            if not linger:
                self._spawn(self._drop_machine_later(0.0), "drop")
            return
        self.returncode = returncode
        self.death = reason
        self._ended.set()
        if self._phase is Phase.RUNNING:
            self._phase = Phase.IDLE
        log.info("%s", reason)
        self._spawn(self._mourn(reason), "mourn")
        self._spawn(self._drop_machine_later(self._config.restart_linger_s if linger else 0.0), "linger")

    async def _mourn(self, reason: str) -> None:
        instance = self._instance
        await asyncio.sleep(LAST_WORDS_S)
        if instance == self._instance:
            await asyncio.wrap_future(self.switchboard.detach(reason=reason))

    async def _drop_machine_later(self, delay_s: float) -> None:
        """A dead kernel's machine waits a while for a restart, which may never come."""
        machine = self._machine
        await asyncio.sleep(delay_s)
        async with self._lock:
            if machine is self._machine and self._phase is Phase.IDLE:
                await self._drop_machine()

    def _cancel_linger(self) -> None:
        for task in self._tasks:
            if task.get_name() == "linger":
                task.cancel()

    def _tunnel_lost_threadsafe(self, reason: str) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(lambda: self._spawn(self._redial(reason), "redial"))

    def _agent_lost(self, reason: str) -> None:
        if self._machine is not None and self._phase is not Phase.CLOSED:
            self._spawn(self._give_up(self._machine, f"the control connection broke: {reason}"), "give-up")

    async def _redial(self, reason: str) -> None:
        """The guest lives but its connections broke: carry on where they were, or give the guest up."""
        machine, instance = self._machine, self._instance
        end = time.monotonic() + REDIAL_TIMEOUT_S
        while machine is not None and machine is self._machine and instance == self._instance and self.running:
            try:
                await self._attach()
            except (FcKernelError, OSError, TimeoutError) as error:
                if time.monotonic() > end:
                    await self._give_up(machine, f"{reason}; {error}")
                    return
                await asyncio.sleep(REDIAL_EVERY_S)
            else:
                return

    async def _give_up(self, machine: Machine, reason: str) -> None:
        if machine is not self._machine:
            return
        exited = machine.vmm.state
        await asyncio.sleep(LAST_WORDS_S)
        if machine is self._machine and not self._ended.is_set():
            log.warning("VM %s (%s) is ended: %s", machine.vmm.plan.vm_id, exited, reason)
            await machine.vmm.kill()

    async def signal(self, signum: int) -> None:
        """Send a signal to the kernel's process group; nothing happens when none runs."""
        if self._machine is not None and self.running:
            await self._machine.agent.call("kernel.signal", timeout_s=AGENT_TIMEOUT_S, signum=signum)

    async def kill(self) -> None:
        """End the kernel process at once; when the agent does not answer, the whole machine."""
        machine = self._machine
        if machine is None or not self.running:
            return
        try:
            await machine.agent.call("kernel.kill", timeout_s=AGENT_TIMEOUT_S)
            async with asyncio.timeout(AGENT_TIMEOUT_S):
                await self._ended.wait()
        except (FcKernelError, TimeoutError):
            await machine.vmm.kill()

    async def wait(self) -> int:
        """Return when the kernel process has ended."""
        await self._ended.wait()
        return self.returncode if self.returncode is not None else 0

    async def _drop_machine(self) -> None:
        machine, self._machine = self._machine, None
        if machine is not None:
            await asyncio.wrap_future(self.switchboard.detach())
            await machine.aclose()

    async def aclose(self) -> None:
        """End the kernel, its machine and the endpoints; may be called twice, and always releases everything."""
        if self._phase is Phase.CLOSED:
            return
        self._phase = Phase.CLOSED
        self._engine.release(self)
        try:
            tasks = [task for task in self._tasks if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._drop_machine()
        finally:
            if self.returncode is None and self._instance:
                self.returncode = -signal.SIGKILL
            self._ended.set()
            await self._loop.run_in_executor(None, self.switchboard.close)

    def _spawn(self, coroutine: Any, name: str) -> None:
        if self._phase is Phase.CLOSED:
            coroutine.close()
            return
        task: asyncio.Task[None] = self._loop.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("session task %s failed: %s", task.get_name(), error, exc_info=error)


__all__ = ["KernelRequest", "KernelSession", "LaunchError", "Phase"]
