"""``FakeVmm``: a guest as host processes, behind a hybrid-vsock socket.

The guest is the real agent with a real kernel, or a *scripted* one (:mod:`.scripted_guest`): one small process with a kernel
of its own, which can be snapshotted and loaded. It isolates nothing and says so (tier ``none``); it is never chosen
automatically. It is for fast tests, for faults, and to measure the tunnel by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import psutil

from .. import guest as real_guest
from ..base.tasks import finish
from ..errors import (
    LaunchError,
    MonitorApiError,
    MonitorExited,
    OutcomeUnknown,
    SpecError,
    StateError,
    UnsupportedByMonitor,
)
from ..settings.tier import Tier
from ..vmm.base import BootPlan, Capability, SnapshotCreate, SnapshotFiles, SnapshotLoad, VmmExit, VmmState
from ..vmm.launch import Launch, ResourceLimits
from ..vmm.process import MonitorProcess
from ..vmm.process_vmm import ProcessVmm
from . import guest_services
from .scripted_guest.faults import Faults
from .scripted_guest.remote import Remote

#: A limit on files must be given; the guest's processes may write any files, so it is high (1 TiB).
MAX_FILE_BYTES = 1 << 40
LOOK_EVERY_S = 0.005
STOPPED = (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
MAIN = Path(real_guest.__file__).parent / "main.py"
GUESTS = ("agent", "scripted")
#: What a guest may serve instead of its agent.
SERVICES = {"conformance": guest_services.SERVICE}
#: Environment variables: which guest, and its faults (:mod:`.scripted_guest.faults`), where the caller does not say.
GUEST_VARIABLE, FAULTS_VARIABLE = "FC_KERNEL_FAKE_GUEST", "FC_KERNEL_FAKE_FAULTS"
#: The memory of a machine whose spec does not say how much it has.
DEFAULT_MEM_MIB = 64
NEEDS_VMS = "a monitor of real VMs"
NEEDS_SCRIPTED = f"{NEEDS_VMS}, or a scripted guest"

PAUSES = frozenset({Capability.PAUSE, Capability.PAUSE_KEEPS_CONNECTIONS})
SAVES = frozenset(
    {
        Capability.SNAPSHOT,
        Capability.SNAPSHOT_KEEPS_CONNECTIONS,
        Capability.DIFF_SNAPSHOT,
        Capability.LAYERS,
        Capability.NETWORK,
        Capability.NETWORK_OVERRIDES,
    }
)
KEEPS_CONNECTIONS = frozenset({Capability.PAUSE_KEEPS_CONNECTIONS, Capability.SNAPSHOT_KEEPS_CONNECTIONS})


class FakeVmm(ProcessVmm):
    """No VM at all; ``service`` runs instead of the agent on the agent's transport.

    ``guest`` is ``agent`` or ``scripted``; ``faults`` are those of a scripted guest. What is not given comes from the
    environment.
    """

    name: ClassVar[str] = "fake"

    def __init__(
        self,
        plan: BootPlan,
        *,
        service: str | None = None,
        guest: Literal["agent", "scripted"] | None = None,
        faults: str | None = None,
    ) -> None:
        super().__init__(plan)
        chosen = guest or os.environ.get(GUEST_VARIABLE) or "agent"
        if chosen not in GUESTS:
            raise SpecError(GUEST_VARIABLE, chosen, " or ".join(GUESTS))
        self._service = service
        self._scripted = chosen == "scripted"
        self._faults = Faults(os.environ.get(FAULTS_VARIABLE, "") if faults is None else faults)
        self._remote: Remote | None = None
        #: What the last snapshot wrote, until :meth:`written` has been asked whether it is whole.
        self._unwritten: SnapshotFiles | None = None
        self._writing = False

    @property
    def version(self) -> str:
        """The interpreter's version; there is no monitor."""
        return ".".join(map(str, sys.version_info[:3]))

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Pausing, and with a scripted guest also snapshots."""
        if not self._scripted:
            return PAUSES
        return (PAUSES | SAVES) - (KEEPS_CONNECTIONS if self._faults.resets else frozenset())

    @property
    def tier(self) -> Tier:
        """Always ``none``: host processes are no VM."""
        self._running()
        return Tier.NONE

    @property
    def uds_path(self) -> Path:
        """The agent's own socket."""
        return self.plan.run_dir / "v.sock"

    async def start(self) -> None:
        """Start the guest and wait for its socket."""
        self._only_in(VmmState.CREATED, "start")
        self._refuse_devices()
        if not self._scripted:
            run_dir = self.plan.run_dir
            argv = [str(MAIN), "--transport", "hybrid", "--uds", str(self.uds_path), "--run-dir", str(run_dir / "g")]
            await self._spawn([*argv, *(["--service", SERVICES[self._service]] if self._service else [])])
            return
        spec = self.plan.spec
        shape = {
            "mem_size_mib": spec.mem_size_mib or DEFAULT_MEM_MIB,
            "vcpu_count": spec.vcpu_count or 1,
            "interfaces": {each.iface_id: each.host_dev_name for each in spec.network_interfaces},
        }
        await self._spawn_scripted("start", {"shape": shape})

    async def load(self, snapshot: SnapshotLoad) -> None:
        """Start a scripted guest from a snapshot of another one; ordinary host processes have no snapshot."""
        self._needs_scripted("a snapshot")
        self._only_in(VmmState.CREATED, "load")
        if snapshot.vsock_override is not None:
            raise UnsupportedByMonitor("vsock_override", needs=NEEDS_VMS, found=f"FakeVmm {self.version}")
        files = snapshot.files
        params = {
            "vmstate": str(files.vmstate.absolute()),
            "mem": str(files.mem.absolute()),
            "layers": [str(layer.absolute()) for layer in snapshot.layers],
            "overrides": {each.iface_id: each.host_dev_name for each in snapshot.network_overrides},
            "resume": snapshot.resume,
        }
        await self._spawn_scripted("load", params)
        if not snapshot.resume:
            self._state = VmmState.PAUSED

    async def _spawn_scripted(self, do: str, params: dict[str, Any]) -> None:
        remote = self._remote = Remote()
        self._undo.callback(remote.close)
        argv = [
            "-P",
            "-m",
            "fc_kernel.testing.scripted_guest",
            "--uds",
            str(self.uds_path),
            *remote.options(self._faults),
        ]
        argv += ["--service", self._service or "agent"]
        await self._spawn(argv, env=remote.environment(), pass_fds=[remote.theirs.fileno()], first=(do, params))

    async def _spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        first: tuple[str, dict[str, Any]] | None = None,
    ) -> None:
        """Run a Python program until it serves; a scripted guest is told what to do ``first``."""
        self._state = VmmState.STARTING
        async with contextlib.AsyncExitStack() as on_failure:
            on_failure.push_async_callback(self.aclose)
            launch = Launch(
                argv=[sys.executable, "-B", *argv],
                limits=ResourceLimits(MAX_FILE_BYTES),
                lifetime=self.plan.lifetime,
                env={
                    "PATH": os.environ.get("PATH", os.defpath),
                    "HOME": os.environ.get("HOME", "/"),
                    "LANG": "C.UTF-8",
                    **(env or {}),
                },
                pass_fds=pass_fds,
            )
            process = await self._spawn_in(await self._enter(), launch)
            try:
                async with asyncio.timeout(self.plan.start_timeout_s):
                    serving = self._listening() if first is None else self._ask(first[0], **first[1])
                    await process.guard("the agent", asyncio.ensure_future(serving))
            except TimeoutError:
                raise LaunchError(
                    f"the agent did not listen within {self.plan.start_timeout_s:g} s", console=self._console.tail()
                ) from None
            except (MonitorExited, MonitorApiError) as error:
                raise LaunchError(f"the agent could not start: {error}", console=self._console.tail()) from error
            self._record(process)
            self._state = VmmState.RUNNING
            on_failure.pop_all()

    async def _listening(self) -> None:
        while not self.uds_path.exists():
            await asyncio.sleep(LOOK_EVERY_S)

    async def _ask(self, do: str, **params: Any) -> None:
        """Send a scripted guest's process a command; raises at once if the process ends instead of answering."""
        process, remote = self._running(), self._remote
        assert remote is not None  # noqa: S101 - made before the process
        remote.theirs.close()
        try:
            await process.guard(do, asyncio.ensure_future(remote.ask(do, **params)))
        except OutcomeUnknown:
            # The process closes its end only when it ends.
            ended = await process.wait()
            raise MonitorExited(f"{do}: {ended}", returncode=ended.returncode) from None

    async def inject(self, faults: str) -> None:
        """Give a running scripted guest more faults. From now on the steps are counted anew."""
        self._needs_scripted("a fault")
        self._faults.add(faults)
        await self._ask("inject", faults=faults)

    async def snapshot(self, request: SnapshotCreate) -> None:
        """Write a scripted guest's state into new files."""
        self._needs_scripted("a snapshot")
        self._only_in(VmmState.PAUSED, "a snapshot")
        if self._writing:
            raise StateError("a snapshot while the last one is not written")
        files = request.files
        for path in (files.vmstate, files.mem):
            if path.exists():
                raise StateError(f"{path} exists; a snapshot needs new files")
        try:
            await finish(self._snapshot(request))
        except asyncio.CancelledError:
            _remove(files)
            with contextlib.suppress(MonitorExited, MonitorApiError):
                await finish(self._ask("discard"))
            raise
        except BaseException:
            _remove(files)
            raise
        self._unwritten = files

    async def _snapshot(self, request: SnapshotCreate) -> None:
        vmstate, mem = request.files.vmstate.absolute(), request.files.mem.absolute()
        await self._ask("snapshot", vmstate=str(vmstate), mem=str(mem), kind=request.kind)

    async def written(self) -> None:
        """Return at once, unless a fault was asked for: :meth:`snapshot` has written everything."""
        files = self._unwritten
        if files is None:
            return
        self._writing = True
        try:
            fault = self._faults.at("written")
            if fault is not None and fault.what == "late":
                await asyncio.sleep(fault.value)
            elif fault is not None and fault.what == "die":
                await self.kill()
                raise MonitorExited("written: the monitor was killed", returncode=-signal.SIGKILL)
            elif fault is not None and fault.what == "hang":
                await self.wait()
            elif fault is not None:
                raise MonitorApiError(f"written: {fault.error or 'refused'}")
        except BaseException:
            _remove(files)
            raise
        finally:
            self._unwritten, self._writing = None, False

    async def pause(self) -> None:
        """Stop the guest and all that it started."""
        self._only_in(VmmState.RUNNING, "pause")
        await finish(self._pause())

    async def _pause(self) -> None:
        process = self._running()
        if self._scripted:
            await self._ask("pause")
        else:
            self._signal_all(process, signal.SIGSTOP)
            while process.exited is None and not _stands_still(process.pid):
                await asyncio.sleep(LOOK_EVERY_S)
        self._state = VmmState.PAUSED

    async def resume(self) -> None:
        """Let the guest and all that it started run again."""
        self._only_in(VmmState.PAUSED, "resume")
        await finish(self._resume())

    async def _resume(self) -> None:
        if self._scripted:
            await self._ask("resume")
        else:
            self._signal_all(self._running(), signal.SIGCONT)
        self._state = VmmState.RUNNING

    async def kill(self) -> VmmExit:
        """End the guest and all that it started, as pulling the plug of a machine would."""
        process = self._running()
        self._signal_all(process, signal.SIGKILL)
        return await process.kill()

    async def aclose(self) -> None:
        """End everything."""
        if self._process is not None:
            self._signal_all(self._process, signal.SIGKILL)
        await super().aclose()

    def _needs_scripted(self, what: str) -> None:
        if not self._scripted:
            raise UnsupportedByMonitor(what, needs=NEEDS_SCRIPTED, found="FakeVmm")

    def _refuse_devices(self) -> None:
        """Refuse devices, which host processes do not have. They need no kernel, memory or vCPUs, so those are ignored."""
        spec = self.plan.spec
        asked = {
            "a drive": spec.extra_drives or spec.rootfs_rate_limit,
            "a network interface": spec.network_interfaces and not self._scripted,
            "a rate limiter": any(each.rx_rate_limiter or each.tx_rate_limiter for each in spec.network_interfaces),
            "a vsock device": spec.vsock,
            "restore_from": spec.restore_from,
        }
        for what, value in asked.items():
            if value:
                raise UnsupportedByMonitor(what, needs=NEEDS_VMS, found="FakeVmm")

    def _signal_all(self, process: MonitorProcess, signum: signal.Signals) -> None:
        """The kernel has a session of its own, so the tree is walked; a dead agent's kernel died with its parent."""
        if process.exited is not None:
            return  # the number may be another process's by now
        children: list[psutil.Process] = []
        if not self._scripted:
            with contextlib.suppress(psutil.NoSuchProcess):
                children = psutil.Process(process.pid).children(recursive=True)
        # The agent first: it would report its kernel's death.
        process.send_signal(signum)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(signum)


def _remove(files: SnapshotFiles) -> None:
    for path in (files.vmstate, files.mem):
        with contextlib.suppress(OSError):
            path.unlink()


def _stands_still(pid: int) -> bool:
    """Whether a process and all that it started are stopped; the signal alone only asks for it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return all(each.status() in STOPPED for each in (process, *process.children(recursive=True)))
    return False
