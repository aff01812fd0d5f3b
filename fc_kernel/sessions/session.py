"""One kernel's life: a machine that may be replaced, a kernel process that may be started again, and stable endpoints."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from ..base.paths import RunDir
from ..channels.endpoints import ClientEndpoints
from ..channels.synthesized import Rollback
from ..errors import AgentError, AgentUnreachable, FcKernelError, KernelStartError, MonitorError, StateError
from ..host.engine import Engine
from ..machine.capture import Taken
from ..machine.machine import AGENT_TIMEOUT_S, Machine
from ..machine.start import KernelRequest, begin
from ..settings.resolve import Resolved
from ..supply.supply import Supply
from . import guest_requests
from .branches import Branches
from .phases import Phase
from .standing import Observer, Standing
from .watchdog import LAST_WORDS_S, Vigil, how_it_ended
from .wiring import Wiring

if TYPE_CHECKING:
    from ..settings.spec import SnapshotRef
    from ..snapshots.snapshot import Snapshot
    from .forks import ForkInfo

log = logging.getLogger(__name__)

#: What a guest may ask for before it was answered.
MAX_WISHES = 4


class KernelSession:
    """Used on the engine's loop. ``returncode``, ``death`` and ``ports`` may be read from any thread."""

    def __init__(
        self,
        engine: Engine,
        supply: Supply,
        endpoints: ClientEndpoints,
        *,
        key: bytes,
        signature_scheme: str = "hmac-sha256",
        labels: Mapping[str, str] | None = None,
        endpoint_dir: RunDir | None = None,
    ) -> None:
        """Bind the clients' sockets. ``endpoint_dir`` holds them and is removed with the session; so it is when this fails."""
        self.engine = engine
        self._config = supply.tenant.config
        self.labels = dict(labels or {})
        self._supply = supply
        self.branches = Branches(self, supply)
        self.standing = Standing()
        self._endpoint_dir = endpoint_dir
        #: The guest, if there is one.
        self.machine: Machine | None = None
        self.resolved: Resolved | None = None
        self.env: Mapping[str, str] = {}
        self._restored_from: SnapshotRef | None = None
        self.instance = 0
        self.generation = 0
        self.guest_key = b""
        self._tasks: set[asyncio.Task[None]] = set()
        self._starter: asyncio.Task[Any] | None = None
        self._closing: asyncio.Task[None] | None = None
        #: Whether it was the close that cancelled the starter, not the starter's own caller.
        self._closing_cancelled = False
        self._lock = asyncio.Lock()
        self._vigil = Vigil(self, self._lock)
        self._mourned = True
        self._ended = asyncio.Event()
        self._ended.set()
        self._loop = asyncio.get_running_loop()
        #: Exit status of the last kernel process; ``None`` while one runs or none was started.
        self.returncode: int | None = None
        #: Why it ended, for the log and for clients.
        self.death: str = ""
        try:
            self._wiring = Wiring(
                endpoints, key=key, signature_scheme=signature_scheme, on_lost=self._vigil.tunnel_lost
            )
        except BaseException:
            if endpoint_dir is not None:
                endpoint_dir.remove()
            raise
        self.ports = self._wiring.ports
        engine.adopt(self)
        engine.register(self.labels.get("kernel_id", ""), self)

    @property
    def running(self) -> bool:
        """Whether a kernel process runs."""
        return self.standing.phase is Phase.RUNNING

    @property
    def scope(self) -> str:
        """What the names of this kernel's snapshots are unique in: its notebook, or itself."""
        named = self.labels.get("scope") or self.labels.get("notebook")
        return named or f"kernel:{self.labels.get('kernel_id', '')}"

    @property
    def state(self) -> str:
        """``booting``, ``running``, ``pausing``, ``restoring``, ``dead`` or ``closed``."""
        return self.standing.state

    def observe(self, observer: Observer) -> None:
        """Call ``observer(kind, payload)`` on the loop at each change: ``state``, ``snapshot``, ``restore``, ``fork``."""
        self.standing.observe(observer)

    def running_machine(self) -> Machine:
        """The machine of a kernel that runs; raises :class:`~fc_kernel.errors.StateError`."""
        if self.machine is None or not self.running:
            raise StateError("no kernel runs here")
        return self.machine

    async def take_snapshot(
        self, name: str | None = None, description: str = "", *, notebook: bytes | None = None
    ) -> Taken:
        """Save the machine as it is; raises :class:`~fc_kernel.errors.FcKernelError`, and the kernel goes on."""
        async with self._lock:
            with self.standing.busy("pausing"):
                return await self.branches.take(name, description, notebook=notebook, going_on=self._after_capture)

    async def _after_capture(self) -> None:
        self.standing.goes_on()
        machine = self.machine
        if machine is not None and machine.vmm.pid is not None and not machine.links.outlive_a_snapshot:
            await self.attach(machine)

    async def restore(self, ref: str, *, same_seed: bool = False, asker: str | None = None) -> Snapshot:
        """Put the kernel back; ``asker`` is the request whose cell asks for it. On an error it goes on as it was."""
        async with self._lock:
            with self.standing.busy("restoring"):
                return await self.branches.restore(ref, same_seed=same_seed, asker=asker)

    async def fork(self, count: int = 1, name: str | None = None, *, ref: str | None = None) -> list[ForkInfo]:
        """Kernels of their own from this instant, or from the snapshot ``ref``."""
        return await self.branches.fork(count, name, ref=ref)

    def info(self) -> dict[str, Any]:
        """What is shown of the machine; on the loop."""
        return self.branches.info()

    async def start(self, request: KernelRequest) -> None:
        """Start a kernel process: in the machine that is there if it is healthy and as requested, else in a fresh one.

        Raises :class:`~fc_kernel.errors.FcKernelError`; then neither a kernel process nor a machine is left.
        """
        async with self._lock:
            self.standing.enter(Phase.STARTING)
            self._starter = asyncio.current_task()
            for task in self._tasks:
                if task.get_name() in ("linger", "mourn"):
                    task.cancel()
            try:
                await self._wiring.link()
                await self._mourn()
                machine = await self._machine_for(request)
                await self._start_kernel(machine, request)
                self.standing.enter(Phase.RUNNING)
            except BaseException as error:
                await self._drop_machine()
                if (
                    self.standing.phase is Phase.CLOSED
                    and isinstance(error, asyncio.CancelledError)
                    and self._closing_cancelled
                ):
                    raise StateError("the session was closed while it started") from None
                if self.standing.phase is not Phase.CLOSED:
                    self.standing.enter(Phase.IDLE)
                raise
            finally:
                self._starter = None

    async def _machine_for(self, request: KernelRequest) -> Machine:
        machine = self.machine
        if machine is not None:
            same = request.resolved == self.resolved and self._config.keep_vm_on_restart
            if same and await machine.healthy():
                return machine
            await self._drop_machine()
        self.env = request.env
        self.resolved = request.resolved
        ref = request.resolved.spec.restore_from
        if ref is not None and ref != self._restored_from:
            machine = await self._supply.from_ref(ref, request.resolved, scope=self.scope, labels=self.labels)
            # Once: whoever restarts the kernel later wants a fresh one.
            self._restored_from = ref
        else:
            machine = await self._supply.fresh(request.resolved, python=request.argv is None, labels=self.labels)
        self._adopt(machine)
        return machine

    def _adopt(self, machine: Machine) -> None:
        self.machine = machine
        machine.on_agent_lost = self._vigil.agent_lost
        self.spawn(self._vigil.watch(machine), "watch")
        vmm, started = machine.vmm, machine.origin.started
        log.info("VM %s: %s %s, tier %s, from: %s", vmm.plan.vm_id, vmm.name, vmm.version, vmm.tier, started)

    async def _start_kernel(self, machine: Machine, request: KernelRequest) -> None:
        self.generation = max(self.generation, machine.origin.generation) + 1
        self.returncode = None
        self._ended.clear()
        machine.listen(None)
        try:
            begun = await begin(machine, request, generation=self.generation, after=self.instance)
            self.instance, self.guest_key = begun.instance, begun.key
            machine.listen(functools.partial(self._notified, machine))
            for error in begun.hook_errors:
                log.warning("kernel %s: on_restore: %s", self.labels.get("kernel_id", ""), error)
            await self.attach(machine)
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

    async def replace_machine(self, machine: Machine, generation: int, rollback: Rollback) -> None:
        """Put a machine that is awake in the place of the present one, which is ended; within the session's lock."""
        kernel, old = machine.origin.kernel, self.machine
        assert kernel is not None  # noqa: S101 - the caller has looked
        if not self.running:
            await machine.aclose()
            raise StateError("the kernel ended while it was restored")
        self._adopt(machine)
        self.generation, self.instance, self.guest_key = generation, kernel.instance, kernel.key
        machine.last_instance = kernel.instance
        machine.listen(functools.partial(self._notified, machine))
        try:
            await self._wiring.attach(machine.links, guest_key=self.guest_key, generation=generation, rollback=rollback)
        except BaseException:
            # The past is gone, and what waits for it has to be told; the new machine lives, and is dialled again.
            with contextlib.suppress(FcKernelError):
                await self._wiring.detach(rollback.reason)
            self._vigil.tunnel_lost("the restored guest took no connection")
            raise
        finally:
            if old is not None:
                self.spawn(old.aclose(), "old")

    def _never_ran(self) -> None:
        if not self._ended.is_set():
            self.returncode = -signal.SIGKILL
            self._ended.set()

    async def attach(self, machine: Machine) -> None:
        """Connect the channels to the machine in the present generation."""
        await self._wiring.attach(machine.links, guest_key=self.guest_key, generation=self.generation)

    def _notified(self, machine: Machine, method: str, params: dict[str, Any]) -> None:
        if machine is not self.machine or params.get("instance") != self.instance:
            return
        if method == "kernel.request":
            # A cell waits for its answer, so there is one, and the next while the first still ends; no guest has more.
            if sum(task.get_name() == "wish" for task in self._tasks) < MAX_WISHES:
                self.spawn(guest_requests.serve(self, machine, params), "wish")
        elif method == "kernel.exited":
            returncode, how = how_it_ended(params)
            self.kernel_ended(returncode, how, linger_s=self._config.restart_linger_s)

    def kernel_ended(self, returncode: int, reason: str, *, linger_s: float) -> None:
        """The kernel process has ended; its machine is kept for ``linger_s``, in case of a restart."""
        # A dead kernel's machine waits a while for a restart, which may never come; a dead machine does not.
        self.spawn(self._drop_machine_later(linger_s), "linger")
        if self._ended.is_set():
            return
        self.returncode = returncode
        self.death = reason
        self._mourned = False
        self._ended.set()
        log.info("kernel %s: %s", self.labels.get("kernel_id", ""), reason)
        if self.standing.phase is Phase.RUNNING:
            self.standing.enter(Phase.IDLE)
            self.spawn(self._mourn(LAST_WORDS_S), "mourn")

    async def _mourn(self, after_s: float = 0.0) -> None:
        """Answer what waits for the dead kernel, once."""
        await asyncio.sleep(after_s)
        if not self._mourned:
            self._mourned = True
            await self._wiring.detach(self.death)

    async def _drop_machine_later(self, delay_s: float) -> None:
        machine = self.machine
        await asyncio.sleep(delay_s)
        async with self._lock:
            if machine is self.machine and self.standing.phase is Phase.IDLE:
                await self._drop_machine()

    async def signal(self, signum: int) -> None:
        """Send a signal to the kernel's process group; nothing happens when none runs."""
        if self.machine is not None and self.running:
            await self.machine.agent.call("kernel.signal", timeout_s=AGENT_TIMEOUT_S, signum=signum)

    async def kill(self) -> None:
        """End the kernel process at once; when the agent does not answer, the whole machine."""
        machine = self.machine
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
        machine, self.machine = self.machine, None
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
        self.standing.enter(Phase.CLOSED)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self.engine.release, self)
            stack.callback(self.engine.unregister, self.labels.get("kernel_id", ""), self)
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
            while tasks := set(self._tasks):
                for task in tasks:
                    # What the kernel said last, such as its reply to the shutdown, is still on its way.
                    if task.get_name() not in ("mourn", "old"):
                        task.cancel()
                await asyncio.wait(tasks)

    async def _say_goodbye(self) -> None:
        if not self._ended.is_set():
            self.returncode, self.death, self._mourned = -signal.SIGKILL, "the kernel was shut down", False
            self._ended.set()
        with contextlib.suppress(FcKernelError):
            await self._mourn()

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        """A supervised task, which ends with the session at the latest; nothing is done when that is closed."""
        if self.standing.phase is Phase.CLOSED and name != "old":
            coroutine.close()
            return
        task = self._loop.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, (StateError, MonitorError)) and self.standing.phase is Phase.CLOSED:
            return
        if error is not None:
            log.error("session task %s failed: %s", task.get_name(), error, exc_info=error)
