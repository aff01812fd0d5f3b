"""One kernel's life: a machine that may be replaced, a kernel process that may be started again, and stable endpoints."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..channels.endpoints import ClientEndpoints
from ..config import FcKernelConfig
from ..errors import AgentError, AgentUnreachable, FcKernelError, KernelStartError, MonitorError, StateError
from ..paths import RunDir
from ..resolve import Resolved
from .engine import Engine
from .lifecycle import Phase, following
from .machine import AGENT_TIMEOUT_S, Machine
from .wiring import Wiring

log = logging.getLogger(__name__)

#: What a dying kernel printed last crosses the tunnel after the news of its death; so long we wait for it.
LAST_WORDS_S = 0.2
#: How long broken connections to a living guest are dialled again before the guest is given up.
REDIAL_TIMEOUT_S = 10.0
REDIAL_EVERY_S = 0.2
#: A guest says how its kernel ended; what is no wait status becomes 1.
RETURNCODES = range(-64, 256)


@dataclass(frozen=True, kw_only=True)
class KernelRequest:
    """The kernel process to start in the guest; ``argv`` ``None`` is the guest's own ipykernel."""

    resolved: Resolved
    argv: Sequence[str] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None


class KernelSession:
    """Used on the engine's loop. ``returncode``, ``death`` and ``ports`` may be read from any thread."""

    def __init__(
        self,
        engine: Engine,
        config: FcKernelConfig,
        endpoints: ClientEndpoints,
        *,
        key: bytes,
        signature_scheme: str = "hmac-sha256",
        labels: Mapping[str, str] | None = None,
        endpoint_dir: RunDir | None = None,
    ) -> None:
        """Bind the clients' sockets. ``endpoint_dir`` holds them and is removed with the session; so it is when this fails."""
        self._engine = engine
        self._config = config
        self._labels = dict(labels or {})
        self._endpoint_dir = endpoint_dir
        self._phase = Phase.IDLE
        self._machine: Machine | None = None
        self._resolved: Resolved | None = None
        self._instance = 0
        self._generation = 0
        self._guest_key = b""
        self._tasks: set[asyncio.Task[None]] = set()
        self._starter: asyncio.Task[Any] | None = None
        self._closing: asyncio.Task[None] | None = None
        #: Whether it was the close that cancelled the starter, not the starter's own caller.
        self._closing_cancelled = False
        self._redialling = False
        self._mourned = True
        self._ended = asyncio.Event()
        self._ended.set()
        self._lock = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        #: Exit status of the last kernel process; ``None`` while one runs or none was started.
        self.returncode: int | None = None
        #: Why it ended, for the log and for clients.
        self.death: str = ""
        try:
            self._wiring = Wiring(endpoints, key=key, signature_scheme=signature_scheme, on_lost=self._tunnel_lost)
        except BaseException:
            if endpoint_dir is not None:
                endpoint_dir.remove()
            raise
        self.ports = self._wiring.ports
        engine.adopt(self)

    @property
    def running(self) -> bool:
        """Whether a kernel process runs."""
        return self._phase is Phase.RUNNING

    @property
    def machine(self) -> Machine | None:
        """The guest, if there is one."""
        return self._machine

    def _enter(self, phase: Phase) -> None:
        self._phase = following(self._phase, phase)

    async def start(self, request: KernelRequest) -> None:
        """Start a kernel process: in the machine that is there if it is healthy and as requested, else in a fresh one.

        Raises :class:`~fc_kernel.errors.FcKernelError`; then neither a kernel process nor a machine is left.
        """
        async with self._lock:
            self._enter(Phase.STARTING)
            self._starter = asyncio.current_task()
            self._cancel("linger", "mourn")
            try:
                await self._wiring.link()
                await self._mourn()
                machine = await self._machine_for(request)
                await self._start_kernel(machine, request)
                self._enter(Phase.RUNNING)
            except BaseException as error:
                await self._drop_machine()
                if (
                    self._phase is Phase.CLOSED
                    and isinstance(error, asyncio.CancelledError)
                    and self._closing_cancelled
                ):
                    raise StateError("the session was closed while it started") from None
                if self._phase is not Phase.CLOSED:
                    self._enter(Phase.IDLE)
                raise
            finally:
                self._starter = None

    async def _machine_for(self, request: KernelRequest) -> Machine:
        machine = self._machine
        if machine is not None:
            same = request.resolved == self._resolved and self._config.keep_vm_on_restart
            if same and await machine.healthy():
                return machine
            await self._drop_machine()
        machine = await Machine.boot(
            request.resolved,
            self._config,
            labels=self._labels,
            on_notification=self._notified,
            on_agent_lost=self._agent_lost,
        )
        self._machine = machine
        self._resolved = request.resolved
        self._spawn(self._watch(machine), "watch")
        vmm = machine.vmm
        release = machine.facts.kernel_release
        log.info("VM %s: %s %s, tier %s, guest kernel %s", vmm.plan.vm_id, vmm.name, vmm.version, vmm.tier, release)
        return machine

    async def _start_kernel(self, machine: Machine, request: KernelRequest) -> None:
        self._instance += 1
        self._generation += 1
        self._guest_key = secrets.token_hex(16).encode()
        self.returncode = None
        self._ended.clear()
        try:
            await machine.agent.call(
                "kernel.start",
                timeout_s=request.resolved.start_timeout_s,
                argv=list(request.argv) if request.argv else None,
                env={**request.env, **machine.environment()},
                cwd=request.cwd,
                key=self._guest_key.decode(),
                instance=self._instance,
            )
            await self._attach(machine)
        except AgentError as error:
            self._never_ran()
            raise KernelStartError(f"the kernel did not start in the guest: {error}") from error
        except AgentUnreachable as error:
            self._never_ran()
            why = self.death if machine.vmm.pid is None and self.death else str(error)
            raise KernelStartError(why, console=machine.vmm.console_tail()) from error
        except BaseException:
            self._never_ran()
            raise
        if self._ended.is_set():
            raise KernelStartError(f"{self.death} as soon as it had started", console=machine.vmm.console_tail())

    def _never_ran(self) -> None:
        if not self._ended.is_set():
            self.returncode = -signal.SIGKILL
            self._ended.set()

    async def _attach(self, machine: Machine) -> None:
        await self._wiring.attach(machine.vmm.uds_path, guest_key=self._guest_key, generation=self._generation)

    async def _watch(self, machine: Machine) -> None:
        """A machine's end is its kernel's end."""
        exit_ = await machine.vmm.wait()
        if machine is self._machine:
            self._kernel_ended(exit_.returncode or -signal.SIGKILL, f"the microVM ended: {exit_}", linger_s=0.0)

    def _notified(self, method: str, params: dict[str, Any]) -> None:
        if method != "kernel.exited" or params.get("instance") != self._instance:
            return
        returncode = params.get("returncode")
        if type(returncode) is not int or returncode not in RETURNCODES:
            returncode = 1
        how = f"was killed by signal {-returncode}" if returncode < 0 else f"ended with status {returncode}"
        why = (
            "the guest ran out of memory and the kernel process" if params.get("oom") is True else "the kernel process"
        )
        self._kernel_ended(returncode, f"{why} {how}", linger_s=self._config.restart_linger_s)

    def _kernel_ended(self, returncode: int, reason: str, *, linger_s: float) -> None:
        # A dead kernel's machine waits a while for a restart, which may never come; a dead machine does not.
        self._spawn(self._drop_machine_later(linger_s), "linger")
        if self._ended.is_set():
            return
        self.returncode = returncode
        self.death = reason
        self._mourned = False
        self._ended.set()
        log.info("kernel %s: %s", self._labels.get("kernel_id", ""), reason)
        if self._phase is Phase.RUNNING:
            self._enter(Phase.IDLE)
            self._spawn(self._mourn_later(), "mourn")

    async def _mourn_later(self) -> None:
        await asyncio.sleep(LAST_WORDS_S)
        await self._mourn()

    async def _mourn(self) -> None:
        """Answer what waits for the dead kernel, once."""
        if not self._mourned:
            self._mourned = True
            await self._wiring.detach(self.death)

    async def _drop_machine_later(self, delay_s: float) -> None:
        machine = self._machine
        await asyncio.sleep(delay_s)
        async with self._lock:
            if machine is self._machine and self._phase is Phase.IDLE:
                await self._drop_machine()

    def _tunnel_lost(self, reason: str, fatal: bool = False) -> None:
        if fatal and self._machine is not None:
            self._spawn(self._give_up(self._machine, reason), "give-up")
        elif self.running and not self._redialling:
            self._redialling = True
            self._spawn(self._redial(reason), "redial")

    def _agent_lost(self, reason: str) -> None:
        if self._machine is not None:
            self._spawn(self._give_up(self._machine, f"the control connection broke: {reason}"), "give-up")

    async def _redial(self, reason: str) -> None:
        """The guest lives but its connections broke: carry on where they were, or give the guest up."""
        machine, instance = self._machine, self._instance
        end = time.monotonic() + REDIAL_TIMEOUT_S
        try:
            while machine is not None:
                async with self._lock:
                    if machine is not self._machine or instance != self._instance or not self.running:
                        return
                    try:
                        await self._attach(machine)
                    except FcKernelError as error:
                        reason = f"{reason}; {error}" if time.monotonic() > end else reason
                    else:
                        return
                if time.monotonic() > end:
                    await self._give_up(machine, reason)
                    return
                await asyncio.sleep(REDIAL_EVERY_S)
        finally:
            self._redialling = False

    async def _give_up(self, machine: Machine, reason: str) -> None:
        # The monitor's own end breaks the connections, too, and is the better explanation.
        await asyncio.sleep(LAST_WORDS_S)
        if machine is self._machine and machine.vmm.pid is not None:
            log.warning("VM %s is ended: %s", machine.vmm.plan.vm_id, reason)
            self._kernel_ended(-signal.SIGKILL, f"the microVM was ended: {reason}", linger_s=0.0)
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
        except (FcKernelError, TimeoutError) as error:
            log.warning("VM %s is ended: its agent does not end the kernel: %s", machine.vmm.plan.vm_id, error)
            with contextlib.suppress(StateError):  # it was closed in the meantime
                await machine.vmm.kill()

    async def wait(self) -> int:
        """Return when the kernel process has ended; at once when there is none."""
        await self._ended.wait()
        return self.returncode if self.returncode is not None else 0

    async def _drop_machine(self) -> None:
        machine, self._machine = self._machine, None
        if machine is None:
            return
        try:
            with contextlib.suppress(FcKernelError):
                await self._wiring.detach()
        finally:
            await machine.aclose()

    def abandon(self) -> None:
        """Close without waiting, on the loop, when nobody is left who could."""
        if self._closing is None:
            self._closing = self._loop.create_task(self._close(), name="close")

    async def aclose(self) -> None:
        """End the kernel, its machine and the endpoints; may be called twice, and also cancelled releases everything."""
        self.abandon()
        assert self._closing is not None  # noqa: S101 - abandon has made it
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._enter(Phase.CLOSED)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._engine.release, self)
            if self._endpoint_dir is not None:
                stack.callback(self._endpoint_dir.remove)
            stack.push_async_callback(self._wiring.aclose)
            stack.push_async_callback(self._say_goodbye)
            stack.push_async_callback(self._drop_machine)
            starter = self._starter
            if starter is not None:
                if not starter.cancelling():
                    self._closing_cancelled = True
                    starter.cancel()
                await asyncio.wait({starter})
            tasks = list(self._tasks)
            for task in tasks:
                # What the kernel said last, such as its reply to the shutdown, is still on its way.
                if task.get_name() != "mourn":
                    task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _say_goodbye(self) -> None:
        if not self._ended.is_set():
            self.returncode, self.death, self._mourned = -signal.SIGKILL, "the kernel was shut down", False
            self._ended.set()
        with contextlib.suppress(FcKernelError):
            await self._mourn()

    def _cancel(self, *names: str) -> None:
        for task in self._tasks:
            if task.get_name() in names:
                task.cancel()

    def _spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        if self._phase is Phase.CLOSED:
            coroutine.close()
            return
        task = self._loop.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, (StateError, MonitorError)) and self._phase is Phase.CLOSED:
            return
        if error is not None:
            log.error("session task %s failed: %s", task.get_name(), error, exc_info=error)
