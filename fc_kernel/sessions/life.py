"""The life of a kernel: its process and its VM may be replaced, while the endpoints of its clients stay."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

from ..api.events import Event, StateChanged
from ..api.models import State
from ..base.paths import RunDir
from ..base.tasks import TaskSet
from ..channels.endpoints import ClientEndpoints
from ..channels.synthesized import Rollback
from ..errors import AgentError, AgentUnreachable, FcKernelError, KernelStartError, MonitorError, StateError
from ..machine.agent_client import AGENT_TIMEOUT_S
from ..machine.machine import Machine
from ..machine.start import KernelRequest, start_kernel
from ..settings.spec import SnapshotRef
from ..supply.supply import Supply
from ..wire.methods import KERNEL_EXITED, KERNEL_REQUEST
from .exit import KernelExit
from .incarnation import Incarnation
from .phases import ALIVE, OVER, WORDS, Cause, Phase, following
from .watchdog import LAST_WORDS_S, Watchdog, how_it_ended
from .wiring import Wiring

log = logging.getLogger(__name__)


@dataclass
class _Start:
    """A start that is under way."""

    task: asyncio.Task[Any]
    #: Whether the close cancelled it, and not its own caller.
    cancelled_by_close: bool = False


class KernelLife(ABC):
    """Starts, watches and ends a kernel. Only ``returncode``, ``death`` and ``ports`` may be used off the engine's loop."""

    def __init__(
        self,
        supply: Supply,
        endpoints: ClientEndpoints,
        *,
        key: bytes,
        signature_scheme: str = "hmac-sha256",
        labels: Mapping[str, str] | None = None,
        endpoint_dir: RunDir | None = None,
        emit: Callable[[Event], None],
        on_closed: Callable[[], None],
    ) -> None:
        """Bind the clients' sockets. ``endpoint_dir`` holds them; it is removed when the session closes or when this fails.

        ``emit`` is called with each event, and ``on_closed`` when everything is released; both on the loop.
        Raises :class:`~fc_kernel.errors.ConfigError` when a socket cannot be bound.
        """
        self._config = supply.tenant.config
        self._supply = supply
        self.labels = dict(labels or {})
        self.kernel_id = self.labels.get("kernel_id", "")
        self._endpoint_dir = endpoint_dir
        self._emit = emit
        self._on_closed = on_closed
        self.phase = Phase.EMPTY
        #: The machine, and the kernel process in it.
        self.incarnation: Incarnation | None = None
        #: The highest generation that any incarnation had.
        self._generation = 0
        #: The request of the last start.
        self._request: KernelRequest | None = None
        self._restored_from: SnapshotRef | None = None
        #: Held while the kernel is started, saved, restored or connected again.
        self._lock = asyncio.Lock()
        self._start: _Start | None = None
        self._closing: asyncio.Task[None] | None = None
        #: Cancelled by the close.
        self._background = TaskSet(self._task_failed)
        self._guest_requests = TaskSet(self._task_failed)
        #: Awaited by the close: the kernel's last messages, such as its reply to the shutdown, are still on their way.
        self._finishing = TaskSet(self._task_failed)
        self._linger: asyncio.Task[None] | None = None
        self._last_words: asyncio.Task[None] | None = None
        self._watchdog = Watchdog(self, self._lock, self._background)
        self._exit = KernelExit()
        #: Whether the kernel's owner told it to end.
        self._told_to_end = False
        try:
            self._wiring = Wiring(
                endpoints, key=key, signature_scheme=signature_scheme, on_lost=self._watchdog.tunnel_lost
            )
        except BaseException:
            if endpoint_dir is not None:
                endpoint_dir.remove()
            raise
        self.ports = self._wiring.ports

    @property
    def running(self) -> bool:
        """Whether a kernel process runs."""
        return self.phase in ALIVE

    @property
    def state(self) -> str:
        """``booting``, ``running``, ``pausing``, ``restoring``, ``dead`` or ``closed``."""
        return WORDS[self.phase]

    @property
    def scope(self) -> str:
        """Where the names of this kernel's snapshots are unique: its notebook, or the kernel itself."""
        named = self.labels.get("scope") or self.labels.get("notebook")
        return named or f"kernel:{self.kernel_id}"

    @property
    def machine(self) -> Machine | None:
        """The VM, if there is one."""
        return None if self.incarnation is None else self.incarnation.machine

    @property
    def returncode(self) -> int | None:
        """Exit status of the last kernel process; ``None`` while one runs or none was started."""
        return self._exit.returncode

    @property
    def death(self) -> str:
        """Why the last kernel process ended, for the log and for clients."""
        return self._exit.reason

    def _enter(self, cause: Cause, *, message: str = "", vm_ended: bool = False) -> None:
        """Enter the phase that follows, and emit an event if users see it as another state."""
        before, self.phase = self.phase, following(self.phase, cause)
        word = WORDS[self.phase]
        if word == WORDS[before]:
            return
        dead = word not in get_args(State) or word == "dead"
        machine = self.machine
        self._tell(
            StateChanged(
                kernel_id=self.kernel_id,
                state="dead" if dead else cast("State", word),
                message=message,
                returncode=self.returncode if dead else None,
                console=list(machine.vmm.console_tail()) if message and machine is not None else [],
                vm_ended=vm_ended,
            )
        )

    def _tell(self, event: Event) -> None:
        """Emit an event; a listener that fails must not keep a kernel from starting or ending."""
        try:
            self._emit(event)
        except Exception:
            log.exception("kernel %s: an event was lost", self.kernel_id)

    def _running_incarnation(self) -> Incarnation:
        """The incarnation of a running kernel; raises :class:`~fc_kernel.errors.StateError` when none runs."""
        if self.incarnation is None or not self.running:
            raise StateError("no kernel is running")
        return self.incarnation

    async def start(self, request: KernelRequest) -> None:
        """Start a kernel process: in the present VM if that is healthy and as requested, else in a new one.

        Raises :class:`~fc_kernel.errors.FcKernelError`; then neither a kernel process nor a VM is left.
        """
        async with self._lock:
            self._enter(Cause.START)
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - this is a coroutine
            start = self._start = _Start(task)
            for waiting in (self._linger, self._last_words):
                if waiting is not None:
                    waiting.cancel()
            try:
                await self._wiring.link()
                await self._fail_pending()
                incarnation = await self._incarnation_for(request)
                await self._start_kernel(incarnation, request)
                self._enter(Cause.STARTED)
            except BaseException as error:
                try:
                    await self._drop_machine()
                finally:
                    self._enter(Cause.START_FAILED, message=str(error) if isinstance(error, FcKernelError) else "")
                if start.cancelled_by_close and isinstance(error, asyncio.CancelledError):
                    raise StateError("the kernel was closed while it started") from None
                raise
            finally:
                self._start = None

    async def _incarnation_for(self, request: KernelRequest) -> Incarnation:
        """A new incarnation, in the VM that is to run the kernel."""
        present, last = self.incarnation, self._request
        if present is not None:
            same = last is not None and request.resolved == last.resolved and self._config.keep_vm_on_restart
            if same and await present.machine.healthy():
                self._request = request
                self.incarnation = self._next_incarnation(present.machine)
                return self.incarnation
            await self._drop_machine()
        self._request = request
        ref = request.resolved.spec.restore_from
        if ref is not None and ref != self._restored_from:
            machine = await self._supply.from_ref(ref, request.resolved, scope=self.scope, labels=self.labels)
            # Only once: a later restart is meant to give a fresh kernel.
            self._restored_from = ref
        else:
            machine = await self._supply.fresh(request.resolved, python=request.argv is None, labels=self.labels)
        self.incarnation = self._next_incarnation(machine)
        self._watchdog.watch(machine)
        return self.incarnation

    def _next_incarnation(self, machine: Machine) -> Incarnation:
        """The next incarnation, in a VM where no kernel process runs yet."""
        self._generation = max(self._generation, machine.origin.generation) + 1
        return Incarnation(machine=machine, generation=self._generation)

    def _inhabit(self, incarnation: Incarnation) -> None:
        """Make this incarnation the present one, and listen to its guest."""
        self.incarnation = incarnation
        self._generation = max(self._generation, incarnation.generation)
        incarnation.machine.listen(functools.partial(self._notified, incarnation))

    async def _start_kernel(self, incarnation: Incarnation, request: KernelRequest) -> None:
        machine = incarnation.machine
        self._told_to_end = False
        self._exit.begin()
        machine.listen(None)
        try:
            started = await start_kernel(machine, request, generation=incarnation.generation)
            incarnation = replace(incarnation, instance=started.instance, key=started.key)
            self._inhabit(incarnation)
            for error in started.hook_errors:
                log.warning("kernel %s: on_restore: %s", self.kernel_id, error)
            await self.attach(incarnation)
        except AgentError as error:
            self._exit.never_ran()
            raise KernelStartError(f"the kernel did not start in the guest: {error}") from error
        except AgentUnreachable as error:
            self._exit.never_ran()
            why = self.death if machine.vmm.pid is None and self.death else str(error)
            raise KernelStartError(why, console=machine.vmm.console_tail()) from error
        except BaseException:
            self._exit.never_ran()
            raise
        if self._exit.over:
            raise KernelStartError(f"{self.death} as soon as it had started", console=machine.vmm.console_tail())

    async def attach(self, incarnation: Incarnation, rollback: Rollback | None = None) -> None:
        """Connect the channels to the guest; raises :class:`~fc_kernel.errors.FcKernelError`."""
        await self._wiring.attach(
            incarnation.machine.links,
            guest_key=incarnation.key,
            generation=incarnation.generation,
            rollback=rollback,
        )

    def _notified(self, incarnation: Incarnation, method: str, params: dict[str, Any]) -> None:
        if incarnation is not self.incarnation or params.get("instance") != incarnation.instance:
            return
        if method == KERNEL_REQUEST:
            self._asked(incarnation, params)
        elif method == KERNEL_EXITED and not self._exit.over:
            # A dead kernel's VM waits a while for a restart, which may never come.
            self._drop_machine_after(self._config.restart_linger_s)
            self._kernel_ended(*how_it_ended(params))

    @abstractmethod
    def _asked(self, incarnation: Incarnation, params: dict[str, Any]) -> None:
        """Serve a cell's request; called on the loop."""

    def machine_ended(self, returncode: int, reason: str) -> None:
        """The VM has ended or is useless, and its kernel has ended with it."""
        self._drop_machine_after(0.0)
        if not self._exit.over:
            self._kernel_ended(returncode, reason, vm_ended=not self._told_to_end)

    def _kernel_ended(self, returncode: int, reason: str, *, vm_ended: bool = False) -> None:
        self._exit.end(returncode, reason)
        log.info("kernel %s: %s", self.kernel_id, reason)
        if self.running:
            self._last_words = self._finishing.start(self._fail_pending(LAST_WORDS_S), "fail-pending")
        self._enter(Cause.KERNEL_ENDED, message=reason, vm_ended=vm_ended)

    async def _fail_pending(self, after_s: float = 0.0) -> None:
        """Answer the requests that wait for an ended kernel with an error, once."""
        await asyncio.sleep(after_s)
        if reason := self._exit.take_unanswered():
            await self._wiring.detach(reason)

    def _drop_machine_after(self, delay_s: float) -> None:
        if self._linger is not None:
            self._linger.cancel()
        self._linger = self._background.start(self._drop_machine_later(self.machine, delay_s), "linger")

    async def _drop_machine_later(self, machine: Machine | None, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        async with self._lock:
            if machine is self.machine and self.phase is Phase.LINGERING:
                await self._drop_machine()

    async def _drop_machine(self) -> None:
        machine, self.incarnation = self.machine, None
        if machine is None:
            return
        self._enter(Cause.MACHINE_GONE)
        try:
            with contextlib.suppress(FcKernelError):
                await self._wiring.detach()
        finally:
            await machine.aclose()

    async def signal(self, signum: int) -> None:
        """Send a signal to the kernel's process group; nothing happens when none runs."""
        if self.incarnation is not None and self.running:
            await self.incarnation.machine.agent.signal_kernel(signum)

    async def kill(self) -> None:
        """Kill the kernel process; when the agent does not do it in time, kill the VM."""
        if self.incarnation is None or not self.running:
            return
        machine, self._told_to_end = self.incarnation.machine, True
        try:
            await machine.agent.kill_kernel()
            async with asyncio.timeout(AGENT_TIMEOUT_S):
                await self._exit.wait()
        except (FcKernelError, TimeoutError) as error:
            log.warning("VM %s is killed: its agent did not end the kernel: %s", machine.vmm.plan.vm_id, error)
            with contextlib.suppress(StateError):  # it was closed meanwhile
                await machine.vmm.kill()

    async def wait(self) -> int:
        """Wait until the kernel process has ended and return its exit status; 0, at once, when none was started."""
        return await self._exit.wait()

    def abandon(self) -> None:
        """Begin to close, on the loop, when nobody is left who could wait for it."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close(), name="close")

    async def aclose(self) -> None:
        """End the kernel, its VM and the endpoints. May be called twice; releases everything even when cancelled."""
        self.abandon()
        assert self._closing is not None  # noqa: S101 - abandon has made it
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._enter(Cause.CLOSE)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._on_closed)
            stack.callback(self._enter, Cause.RELEASED)
            if self._endpoint_dir is not None:
                stack.callback(self._endpoint_dir.remove)
            stack.push_async_callback(self._wiring.aclose)
            stack.push_async_callback(self._end_in_order)
            stack.push_async_callback(self._drop_machine)
            if (start := self._start) is not None:
                if not start.task.cancelling():
                    start.cancelled_by_close = True
                    start.task.cancel()
                await asyncio.wait({start.task})
            for tasks in (self._background, self._guest_requests):
                tasks.close()
                await tasks.wait()
            await self._finishing.wait()

    async def _end_in_order(self) -> None:
        """Note the kernel's end, and answer whatever waits for it."""
        if not self._exit.over:
            self._exit.end(-signal.SIGKILL, "the kernel was shut down")
        with contextlib.suppress(FcKernelError):
            await self._fail_pending()

    def _task_failed(self, name: str, error: BaseException) -> None:
        if isinstance(error, (StateError, MonitorError)) and self.phase in OVER:
            return
        log.error("session task %s failed: %s", name, error, exc_info=error)
