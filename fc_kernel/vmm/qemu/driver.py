"""``QemuVmm``: one VM under QEMU."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ClassVar, TypeVar

from ...base.tasks import finish
from ...errors import (
    LaunchError,
    MonitorApiError,
    MonitorError,
    SnapshotCorrupt,
    StateError,
    UnsupportedByMonitor,
)
from ...settings.tier import Tier
from ..base import BootPlan, Capability, SnapshotCreate, SnapshotLoad, VmmState
from ..executor import Executor, Place
from ..launch import Launch, ResourceLimits
from ..process import LAST_WORDS_S, MonitorProcess
from ..process_vmm import ProcessVmm
from .bridge import MuxBridge
from .capture import Capture, Interrupted, Reference
from .command import MUX_DEVICE, MUX_SOCKET, QMP_SOCKET, check_supported, command_line
from .loading import Loading
from .memory import GuestMemory
from .monitor import QemuMonitor
from .program import QemuProgram
from .saving import GIVEN_UP, Saving
from .tsc import tsc_khz
from .vmstate import Machine

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Where QEMU writes its devices' state, in its working directory.
DEVICES_FILE = "devices"
#: A VM that is paused for longer than this is not paused for a snapshot, and releases the buffer for one.
PREPARED_S = 2.0


class QemuVmm(ProcessVmm):
    """A ``microvm`` machine, on KVM when ``accelerated``, else emulated by TCG."""

    name: ClassVar[str] = "qemu"

    #: TCG separates guest and host, but QEMU promises no isolation for it.
    tier_without_kvm: ClassVar[Tier] = Tier.EMULATED

    def __init__(
        self, plan: BootPlan, program: QemuProgram, *, accelerated: bool = False, executor: Executor | None = None
    ) -> None:
        super().__init__(plan, executor)
        self._program = program
        self._accelerated = accelerated
        self._monitor: QemuMonitor | None = None
        self._bridge: MuxBridge | None = None
        self._memory: GuestMemory | None = None
        self._machine: Machine | None = None
        self._reference: Reference | None = None
        #: Prepared by a pause, used by the first snapshot in it.
        self._capture: Capture | None = None
        #: The last snapshot, until :meth:`written` has said how it went.
        self._saving: Saving | None = None

    @property
    def version(self) -> str:
        """QEMU's version."""
        return self._program.version

    @property
    def capabilities(self) -> frozenset[Capability]:
        """All except those of a chosen vsock address and of rate limiters on network interfaces."""
        return frozenset(
            set(Capability) - {Capability.VSOCK_ADDRESS, Capability.VSOCK_OVERRIDE, Capability.NETWORK_RATE_LIMITERS}
        )

    @property
    def uds_path(self) -> Path:
        """The bridge's socket."""
        return self._directory / "v.sock"

    async def start(self) -> None:
        """Spawn QEMU with stopped vCPUs, connect QMP and the multiplexer, and let it run."""
        self._only_in(VmmState.CREATED, "start")
        check_supported(self.plan, self._program)

        async def boot() -> None:
            khz = None if self._accelerated else await _blocking(tsc_khz)
            spec = self.plan.spec
            self._machine = Machine.of(spec, accelerated=self._accelerated)
            self._reference = Reference((spec.mem_size_mib or 1) << 20, None)
            await self._spawn(self.plan, khz=khz)
            await self._let_run()

        await self._launch(boot)

    async def load(self, snapshot: SnapshotLoad) -> None:
        """Spawn QEMU on the snapshot's memory and load the devices' state.

        Kernel and initrd are not needed; the drives are those of the plan. On KVM the guest's clock is part of the devices'
        state.
        """
        self._only_in(VmmState.CREATED, "load")
        check_supported(self.plan, self._program)
        if snapshot.vsock_override is not None:
            raise UnsupportedByMonitor("vsock_override", needs="Firecracker 1.16.0", found=f"QEMU {self.version}")

        async def load() -> None:
            loading = await _blocking(lambda: Loading(snapshot, self.plan, accelerated=self._accelerated))
            with contextlib.closing(loading):
                self._machine, self._reference = loading.machine, loading.reference
                self._undo.callback(os.close, loading.keep_base())
                check_supported(loading.plan, self._program)
                learning = asyncio.ensure_future(_blocking(loading.learn))
                try:
                    await self._spawn(loading.plan, mem=loading.mem, devices=loading.devices)
                    if snapshot.layers:
                        memory = await self._guest_memory()
                        await _blocking(lambda: loading.write_layers(memory))
                    assert self._monitor is not None  # noqa: S101 - spawned
                    await self._monitor.load_devices(loading.devices)
                finally:
                    # Its thread reads files that are closed after us.
                    await asyncio.wait({learning})
                learning.result()
            if snapshot.resume:
                await self._let_run()
            else:
                self._state = VmmState.PAUSED

        await self._launch(load)

    async def _launch(self, work: Callable[[], Awaitable[None]]) -> None:
        self._state = VmmState.STARTING
        try:
            async with asyncio.timeout(self.plan.start_timeout_s):
                await work()
        except TimeoutError:
            await self.aclose()
            raise LaunchError(
                f"QEMU was not ready within {self.plan.start_timeout_s:g} s", console=self._console.tail()
            ) from None
        except (MonitorError, SnapshotCorrupt, OSError) as error:
            await self.aclose()
            raise LaunchError(f"QEMU could not start the VM: {error}", console=self._console.tail()) from error
        except BaseException:
            await self.aclose()
            raise

    async def _spawn(
        self, plan: BootPlan, *, khz: int | None = None, mem: int | None = None, devices: int | None = None
    ) -> None:
        """Start QEMU, stopped, with QMP and the bridge; ``mem`` and ``devices`` are what it loads."""
        place = await self._enter()
        seen = place.admitted(plan)
        launch = Launch(
            argv=command_line(seen, self._program, accelerated=self._accelerated, tsc_khz=khz, mem=mem),
            limits=ResourceLimits.for_guest(plan.spec),
            lifetime=plan.lifetime,
            # By descriptors, so that what is loaded is what was checked, even if the files are renamed.
            pass_fds=[fd for fd in (mem, devices) if fd is not None],
            # With huge pages an emulator's translated code would take several of 2 MiB before a loaded guest first answers.
            huge_pages=mem is None or self._accelerated,
        )
        process = await self._spawn_in(place, launch)
        self._monitor = await self._connected(process, await self._socket(process, place, QMP_SOCKET))
        self._undo.push_async_callback(self._monitor.aclose)
        self._record(process)
        port = await self._socket(process, place, MUX_SOCKET)
        try:
            # The guest does not run yet, so we listen from its first byte on.
            await self._monitor.connected(MUX_DEVICE)
            self._bridge = MuxBridge(port, self.uds_path, self._port_lost, loaded=mem is not None)
        except BaseException:
            port.close()
            raise
        self._undo.callback(self._bridge.close)

    async def _socket(self, process: MonitorProcess, place: Place, name: str) -> socket.socket:
        """Connect to a socket that QEMU makes soon after its start, unless QEMU ends first."""
        connecting = asyncio.ensure_future(place.connect(name))
        try:
            await process.guard("QEMU", connecting)
        except BaseException:
            # Connected in the very moment in which the caller was cancelled: nobody gets the socket any more.
            if connecting.done() and not connecting.cancelled() and connecting.exception() is None:
                connecting.result().close()
            raise
        return connecting.result()

    async def _connected(self, process: MonitorProcess, sock: socket.socket) -> QemuMonitor:
        try:
            return await QemuMonitor.connect(self.plan.vm_id, sock)
        except MonitorError as error:
            # The error of an ended process says more than that of its closed socket.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS_S):
                    raise MonitorError(str(await process.wait())) from error
            raise

    async def _let_run(self) -> None:
        await self._execute("cont")
        self._state = VmmState.RUNNING
        assert self._bridge is not None  # noqa: S101 - spawned
        self._bridge.release()

    def _port_lost(self, reason: str) -> None:
        if self.state in (VmmState.RUNNING, VmmState.PAUSED):
            log.warning("VM %s: %s", self.plan.vm_id, reason)

    async def _execute(self, command: str, **arguments: object) -> None:
        if self._monitor is None:
            raise StateError(f"{command} in state {self.state}")
        await self._monitor.execute(command, **arguments)

    async def prepare(self) -> None:
        """Allocate the buffer for a snapshot; it is released when no pause follows soon."""
        self._only_in(VmmState.RUNNING, "prepare")
        await self._prepare()

    async def pause(self) -> None:
        """Bring the guest's connections to rest, and stop the vCPUs.

        Meanwhile the buffer for a snapshot is prepared. A guest that does not come to rest is paused all the same, but no
        snapshot can be taken of it.
        """
        self._only_in(VmmState.RUNNING, "pause")
        await finish(self._pause())

    async def _pause(self) -> None:
        assert self._bridge is not None  # noqa: S101 - it runs
        if self._capture is None:
            await asyncio.gather(self._bridge.rest(), self._prepare())
        else:
            await self._bridge.rest()
        try:
            await self._execute("stop")
        except BaseException:
            self._bridge.release()
            self._capture = None
            raise
        self._state = VmmState.PAUSED

    async def _prepare(self) -> None:
        # The snapshot that needs the memory will report the error.
        with contextlib.suppress(MonitorError, StateError, OSError):
            memory = await self._guest_memory()
            self._capture = capture = await _blocking(lambda: Capture(memory))
            asyncio.get_running_loop().call_later(PREPARED_S, self._drop_unused, capture)

    def _drop_unused(self, capture: Capture) -> None:
        if self._capture is capture:
            self._capture = None

    async def resume(self) -> None:
        """Let the vCPUs (QMP ``cont``) and the connections run."""
        self._only_in(VmmState.PAUSED, "resume")
        self._capture = None
        await finish(self._let_run())

    async def _guest_memory(self) -> GuestMemory:
        if self._memory is None:
            assert self._monitor is not None  # noqa: S101 - spawned
            assert self._machine is not None  # noqa: S101
            address = await self._monitor.memory_address()
            self._memory = GuestMemory(self._running().pid, address, self._machine.mem_size_mib << 20)
            self._undo.callback(self._memory.close)
        return self._memory

    async def snapshot(self, request: SnapshotCreate) -> None:
        """Copy the pages and the devices' state of the paused VM; :meth:`written` returns when the files are complete."""
        self._only_in(VmmState.PAUSED, "a snapshot")
        if self._saving is not None:
            raise StateError("a snapshot while the one before is not written: await written() first")
        for path in (request.files.vmstate, request.files.mem):
            if path.exists() or path.is_symlink():
                raise StateError(f"{path} exists; a snapshot needs new files")
        if self._bridge is None or not self._bridge.at_rest:
            raise MonitorError(
                "the guest did not bring its connections to rest: it hangs, or has not started its agent"
            )
        assert self._machine is not None  # noqa: S101 - it runs
        assert self._reference is not None  # noqa: S101
        saving = Saving(request, self._machine, self._reference)
        try:
            self._saving = saving
            await finish(self._save(saving))
        except BaseException:
            self._saving = None
            await saving.abandon()
            raise

    async def _save(self, saving: Saving) -> None:
        memory = await self._guest_memory()
        capture, self._capture = self._capture, None
        if capture is None:
            capture = await _blocking(lambda: Capture(memory))
        devices = self._directory / DEVICES_FILE
        # Both run to their ends, even if the other fails: a copying thread is not left alone. ("live" is for a VM that
        # moves elsewhere: it would give up its drives.)
        done = await asyncio.gather(
            saving.take(capture),
            self._execute("xen-save-devices-state", filename=DEVICES_FILE, live=False),
            return_exceptions=True,
        )
        try:
            for outcome in done:
                if isinstance(outcome, Interrupted):
                    raise MonitorError(GIVEN_UP)
                if isinstance(outcome, BaseException):
                    raise outcome
            state = devices.read_bytes()
        except OSError as error:
            raise MonitorApiError(f"QEMU has not written its devices' state: {error}") from error
        finally:
            devices.unlink(missing_ok=True)
        saving.begin(state)

    async def written(self) -> None:
        """Wait for the files of the last snapshot."""
        saving = self._saving
        if saving is None:
            return
        try:
            await saving.written()
        except asyncio.CancelledError:
            raise  # it is still being written
        except BaseException:
            self._saving = None
            raise
        self._saving = None

    async def aclose(self) -> None:
        """Kill the process and release everything; a snapshot that is still being written is given up."""
        saving, self._saving = self._saving, None
        try:
            if saving is not None:
                await saving.abandon()
        finally:
            await super().aclose()


async def _blocking(work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(None, work)
