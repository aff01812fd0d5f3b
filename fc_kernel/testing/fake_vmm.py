"""``FakeVmm``: the real guest agent and a real kernel as host processes, behind a hybrid-vsock socket.

It isolates nothing and says so (tier ``none``); it is never chosen automatically. It is for fast tests, for faults, and
to measure the tunnel by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import ClassVar

import psutil

from .. import guest
from ..errors import LaunchError, MonitorExited, UnsupportedByMonitor
from ..tier import Tier
from ..vmm.base import BootPlan, Capability, SnapshotCreate, SnapshotLoad, VmmExit, VmmState
from ..vmm.finish import finish
from ..vmm.process import MonitorProcess, ResourceLimits
from ..vmm.process_vmm import ProcessVmm

#: Files of a host process are its own business; the limit only has to be one.
MAX_FILE_BYTES = 1 << 40
LOOK_EVERY_S = 0.005
STOPPED = (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
MAIN = Path(guest.__file__).parent / "main.py"


class FakeVmm(ProcessVmm):
    """No VM at all; ``service`` runs something else than the agent on the agent's transport."""

    name: ClassVar[str] = "fake"

    def __init__(self, plan: BootPlan, *, service: str | None = None) -> None:
        super().__init__(plan)
        self._service = service

    @property
    def version(self) -> str:
        """The interpreter's version; there is no monitor."""
        return ".".join(map(str, sys.version_info[:3]))

    @property
    def capabilities(self) -> frozenset[Capability]:
        """It can stand still."""
        return frozenset({Capability.PAUSE, Capability.PAUSE_KEEPS_CONNECTIONS})

    @property
    def tier(self) -> Tier:
        """None, and nothing else."""
        self._running()
        return Tier.NONE

    @property
    def uds_path(self) -> Path:
        """The agent's own socket."""
        return self.plan.run_dir / "v.sock"

    async def start(self) -> None:
        """Start the agent and wait for its socket."""
        self._only_in(VmmState.CREATED, "start")
        self._refuse_devices()
        self._state = VmmState.STARTING
        argv = [sys.executable, "-B", str(MAIN), "--transport", "hybrid", "--uds", str(self.uds_path)]
        argv += ["--run-dir", str(self.plan.run_dir / "g"), *(["--service", self._service] if self._service else [])]
        async with contextlib.AsyncExitStack() as on_failure:
            on_failure.push_async_callback(self.aclose)
            self._process = MonitorProcess.spawn(
                argv,
                cwd=self.plan.run_dir,
                limits=ResourceLimits(MAX_FILE_BYTES),
                console=self._console,
                env={
                    "PATH": os.environ.get("PATH", os.defpath),
                    "HOME": os.environ.get("HOME", "/"),
                    "LANG": "C.UTF-8",
                },
            )
            self._undo.push_async_callback(self._process.aclose)
            try:
                async with asyncio.timeout(self.plan.start_timeout_s):
                    await self._process.guard("the agent", asyncio.ensure_future(self._listening()))
            except TimeoutError:
                raise LaunchError(
                    f"the agent did not listen within {self.plan.start_timeout_s:g} s", console=self._console.tail()
                ) from None
            except MonitorExited as error:
                raise LaunchError(f"the agent could not start: {error}", console=self._console.tail()) from error
            self._process.record(self.plan.run_dir, vm_id=self.plan.vm_id, monitor=self.name, labels=self.plan.labels)
            self._state = VmmState.RUNNING
            on_failure.pop_all()

    async def _listening(self) -> None:
        while not self.uds_path.exists():
            await asyncio.sleep(LOOK_EVERY_S)

    async def load(self, snapshot: SnapshotLoad) -> None:
        """Host processes have no snapshot."""
        raise UnsupportedByMonitor("a snapshot", needs="a monitor of real VMs", found="FakeVmm")

    async def snapshot(self, request: SnapshotCreate) -> None:
        """Host processes have no snapshot."""
        raise UnsupportedByMonitor("a snapshot", needs="a monitor of real VMs", found="FakeVmm")

    async def pause(self) -> None:
        """Stop the agent and all that it started."""
        self._only_in(VmmState.RUNNING, "pause")
        await finish(self._pause())

    async def _pause(self) -> None:
        process = self._running()
        self._signal_all(process, signal.SIGSTOP)
        while process.exited is None and not _stands_still(process.pid):
            await asyncio.sleep(LOOK_EVERY_S)
        self._state = VmmState.PAUSED

    async def resume(self) -> None:
        """Let them go on."""
        self._only_in(VmmState.PAUSED, "resume")
        self._signal_all(self._running(), signal.SIGCONT)
        self._state = VmmState.RUNNING

    async def kill(self) -> VmmExit:
        """End the agent and all that it started, as pulling the plug of a machine would."""
        process = self._running()
        self._signal_all(process, signal.SIGKILL)
        return await process.kill()

    async def aclose(self) -> None:
        """End everything."""
        if self._process is not None:
            self._signal_all(self._process, signal.SIGKILL)
        await super().aclose()

    def _refuse_devices(self) -> None:
        """Host processes have no devices; a kernel, memory and vCPUs they do not need, so those are ignored."""
        spec = self.plan.spec
        asked = {
            "a drive": spec.extra_drives or spec.rootfs_rate_limit,
            "a network interface": spec.network_interfaces,
            "a vsock device": spec.vsock,
            "restore_from": spec.restore_from,
        }
        for what, value in asked.items():
            if value:
                raise UnsupportedByMonitor(what, needs="a monitor of real VMs", found="FakeVmm")

    def _signal_all(self, process: MonitorProcess, signum: signal.Signals) -> None:
        """The kernel has a session of its own, so the tree is walked; a dead agent's kernel died with its parent."""
        if process.exited is not None:
            return  # the number may be another process's by now
        with contextlib.suppress(psutil.NoSuchProcess):
            agent = psutil.Process(process.pid)
            for child in agent.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.send_signal(signum)
        process.send_signal(signum)


def _stands_still(pid: int) -> bool:
    """Whether a process and all that it started are stopped; the signal alone only asks for it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return all(each.status() in STOPPED for each in (process, *process.children(recursive=True)))
    return False
