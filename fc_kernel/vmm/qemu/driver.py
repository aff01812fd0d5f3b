"""``QemuVmm``: one VM under QEMU."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from pathlib import Path
from typing import Any, ClassVar

from qemu.qmp import ConnectError, ExecInterruptedError, QMPClient, QMPError

from ...errors import LaunchError, MonitorApiError, MonitorError, OutcomeUnknown, StateError, UnsupportedByMonitor
from ...tier import Tier
from ..base import BootPlan, Capability, SnapshotCreate, SnapshotLoad, VmmState
from ..finish import finish
from ..process import MonitorProcess, ResourceLimits
from ..process_vmm import ProcessVmm
from .bridge import MuxBridge
from .command import MUX_SOCKET, QMP_SOCKET, command_line
from .program import QemuProgram
from .tsc import tsc_khz

log = logging.getLogger(__name__)

#: How often the sockets of a starting QEMU are looked for.
LOOK_EVERY_S = 0.005
#: QMP answers in milliseconds, also when the guest hangs.
QMP_TIMEOUT_S = 10.0


class QemuVmm(ProcessVmm):
    """A ``microvm`` machine, on KVM when ``accelerated``, else emulated by TCG."""

    name: ClassVar[str] = "qemu"

    def __init__(self, plan: BootPlan, program: QemuProgram, *, accelerated: bool = False) -> None:
        super().__init__(plan)
        self._program = program
        self._accelerated = accelerated
        self._qmp: QMPClient | None = None

    @property
    def version(self) -> str:
        """QEMU's version."""
        return self._program.version

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What does not need a snapshot, a chosen vsock address or a limit on the network."""
        return frozenset(
            {
                Capability.PAUSE,
                Capability.PAUSE_KEEPS_CONNECTIONS,
                Capability.DRIVES,
                Capability.NETWORK,
                Capability.RATE_LIMITERS,
            }
        )

    @property
    def tier(self) -> Tier:
        """``kvm`` when the running process holds ``/dev/kvm``, else ``emulated``."""
        pid = self._running().pid
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if self._accelerated and descriptor.readlink() == Path("/dev/kvm"):
                        return Tier.KVM
        return Tier.EMULATED

    @property
    def uds_path(self) -> Path:
        """The bridge's socket."""
        return self.plan.run_dir / "v.sock"

    async def start(self) -> None:
        """Spawn QEMU with stopped vCPUs, connect QMP and the multiplexer, and let it run."""
        if self._state is not VmmState.CREATED:
            raise StateError(f"start in state {self.state}")
        khz = None if self._accelerated else await asyncio.get_running_loop().run_in_executor(None, tsc_khz)
        words = command_line(self.plan, self._program, accelerated=self._accelerated, tsc_khz=khz)
        argv = [*words, "-S"]
        self._state = VmmState.STARTING
        try:
            async with asyncio.timeout(self.plan.start_timeout_s):
                await self._start(argv)
        except TimeoutError:
            await self.aclose()
            raise LaunchError(
                f"QEMU was not ready within {self.plan.start_timeout_s:g} s", console=self._console.tail()
            ) from None
        except (MonitorError, OSError) as error:
            await self.aclose()
            raise LaunchError(f"QEMU could not start the VM: {error}", console=self._console.tail()) from error
        except BaseException:
            await self.aclose()
            raise
        self._state = VmmState.RUNNING

    async def _start(self, argv: list[str]) -> None:
        plan = self.plan
        process = MonitorProcess.spawn(
            argv,
            cwd=plan.run_dir,
            limits=ResourceLimits.for_guest(plan.spec),
            console=self._console,
        )
        self._process = process
        self._undo.push_async_callback(process.aclose)
        await process.guard("QEMU", asyncio.ensure_future(self._sockets_exist()))
        process.record(plan.run_dir, vm_id=plan.vm_id, monitor=self.name, labels=plan.labels)
        qmp = QMPClient(plan.vm_id)
        # Its log tells of every event; ours tells what matters.
        qmp.logger.setLevel(logging.CRITICAL)
        run_dir = plan.run_dir
        try:
            await qmp.connect(f"{run_dir}/{QMP_SOCKET}")
        except ConnectError as error:
            raise LaunchError(f"cannot talk to QEMU: {error}", console=self._console.tail()) from error
        self._qmp = qmp
        self._undo.push_async_callback(self._disconnect)
        port = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            await asyncio.get_running_loop().sock_connect(port, f"{run_dir}/{MUX_SOCKET}")
            bridge = MuxBridge(port, self.uds_path, self._port_lost)
        except BaseException:
            port.close()
            raise
        self._undo.callback(bridge.close)
        await self._execute("cont")

    async def _sockets_exist(self) -> None:
        while not all((self.plan.run_dir / name).exists() for name in (QMP_SOCKET, MUX_SOCKET)):
            await asyncio.sleep(LOOK_EVERY_S)

    def _port_lost(self, reason: str) -> None:
        if self.state in (VmmState.RUNNING, VmmState.PAUSED):
            log.warning("VM %s: %s", self.plan.vm_id, reason)

    async def _disconnect(self) -> None:
        if self._qmp is not None:
            # Its disconnect re-raises why the connection had ended; the process's end says that better.
            with contextlib.suppress(QMPError, OSError, EOFError):
                await self._qmp.disconnect()

    async def _execute(self, command: str, **arguments: Any) -> Any:
        qmp = self._qmp
        if qmp is None:
            raise StateError(f"{command} in state {self.state}")
        try:
            async with asyncio.timeout(QMP_TIMEOUT_S):
                return await qmp.execute(command, arguments or None)
        except ExecInterruptedError as error:
            raise OutcomeUnknown(f"QEMU did not answer {command}: {error}") from error
        except QMPError as error:
            raise MonitorApiError(f"QEMU refused {command}: {error}") from error
        except TimeoutError:
            raise OutcomeUnknown(f"QEMU did not answer {command} within {QMP_TIMEOUT_S:g} s") from None

    async def load(self, snapshot: SnapshotLoad) -> None:
        """Not in this version."""
        raise UnsupportedByMonitor("loading a snapshot", needs="Firecracker 1.12", found=f"QEMU {self.version}")

    async def snapshot(self, request: SnapshotCreate) -> None:
        """Not in this version."""
        raise UnsupportedByMonitor("a snapshot", needs="Firecracker 1.12", found=f"QEMU {self.version}")

    async def pause(self) -> None:
        """QMP ``stop``."""
        self._only_in(VmmState.RUNNING, "pause")
        await finish(self._change("stop", VmmState.PAUSED))

    async def resume(self) -> None:
        """QMP ``cont``."""
        self._only_in(VmmState.PAUSED, "resume")
        await finish(self._change("cont", VmmState.RUNNING))

    async def _change(self, command: str, state: VmmState) -> None:
        await self._execute(command)
        self._state = state
