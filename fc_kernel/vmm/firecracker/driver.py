"""``FirecrackerVmm``: one VM under Firecracker."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from ...base.tasks import finish
from ...errors import (
    LaunchError,
    MonitorApiError,
    MonitorExited,
    OutcomeUnknown,
    StateError,
    UnsupportedByMonitor,
)
from ..base import BootPlan, Capability, SnapshotCreate, SnapshotFiles, SnapshotLoad, VmmState
from ..console import ConsoleRing
from ..executor import Executor, Place
from ..launch import Launch, ResourceLimits
from ..process import MonitorProcess
from ..process_vmm import ProcessVmm
from .api import FirecrackerApi
from .program import FirecrackerProgram, find_firecracker
from .requests import VSOCK_PATH, boot_requests, snapshot_create, snapshot_load, vm_state

__all__ = ["FirecrackerProgram", "FirecrackerVmm", "find_firecracker"]

API_SOCKET = "api.sock"
LOG_FILE, METRICS_FILE = "log", "metrics"
#: The state to ask for, and the instance's name for it.
INSTANCE_STATES = {"Paused": "Paused", "Resumed": "Running"}
#: How many lines of Firecracker's log go into an error message.
LOG_LINES = 5
LOG_TAIL_BYTES = 16 << 10


class FirecrackerVmm(ProcessVmm):
    """Runs in ``plan.run_dir`` with socket names relative to it, because snapshots hold these names."""

    name: ClassVar[str] = "firecracker"

    def __init__(self, plan: BootPlan, program: FirecrackerProgram, executor: Executor | None = None) -> None:
        super().__init__(plan, executor)
        self._program = program
        self._features = program.features
        self._api: FirecrackerApi | None = None
        self._vsock = plan.spec.vsock.uds_path if plan.spec.vsock else Path(VSOCK_PATH)
        self._snapshot_since_pause = False
        self._diff_base_lost = False

    @property
    def version(self) -> str:
        """Firecracker's version."""
        return self._program.version

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this version can do."""
        lacks = {Capability.SNAPSHOT_KEEPS_CONNECTIONS, Capability.LAYERS}
        if not self._features.vsock_override:
            lacks.add(Capability.VSOCK_OVERRIDE)
        if self._features.bare_resume_hangs:
            # resume() takes a snapshot, which resets the guest's vsock device.
            lacks.add(Capability.PAUSE_KEEPS_CONNECTIONS)
        return frozenset(set(Capability) - lacks)

    @property
    def uds_path(self) -> Path:
        """The vsock device's socket."""
        return self._directory / self._vsock

    async def start(self) -> None:
        """Spawn Firecracker, configure the VM, and start it."""
        if self.plan.spec.restore_from is not None:
            raise UnsupportedByMonitor("restore_from in a boot", needs="a snapshot store", found="none")

        async def boot(place: Place, api: FirecrackerApi) -> None:
            for request in boot_requests(place.admitted(self.plan)):
                await api.send(request)

        await self._spawn(boot, ResourceLimits.for_guest(self.plan.spec))
        self._state = VmmState.RUNNING

    async def load(self, snapshot: SnapshotLoad) -> None:
        """Spawn Firecracker and load. After a failed load the process is useless, so it is ended."""
        self._only_in(VmmState.CREATED, "load")
        snapshot_load(snapshot, self._features)
        if snapshot.vsock_override is not None:
            self._vsock = snapshot.vsock_override

        async def load(place: Place, api: FirecrackerApi) -> None:
            files = SnapshotFiles(vmstate=place.admit(snapshot.files.vmstate), mem=place.admit(snapshot.files.mem))
            await api.send(snapshot_load(replace(snapshot, files=files), self._features))

        await self._spawn(load, ResourceLimits.for_guest(self.plan.spec, snapshot.files.mem))
        self._state = VmmState.RUNNING if snapshot.resume else VmmState.PAUSED
        # The resume after a load is not one after a bare pause.
        self._snapshot_since_pause = True

    async def _spawn(self, then: Callable[[Place, FirecrackerApi], Awaitable[None]], limits: ResourceLimits) -> None:
        self._only_in(VmmState.CREATED, "start")
        self._state = VmmState.STARTING
        timeout_s = self.plan.start_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                place = await self._enter()
                process, api = await self._spawn_process(place, limits)
                await process.guard("Firecracker", asyncio.ensure_future(then(place, api)))
        except TimeoutError:
            raise await self._failed(f"Firecracker was not ready within {timeout_s:g} s") from None
        except (MonitorApiError, OutcomeUnknown, MonitorExited) as error:
            raise await self._failed(f"Firecracker could not start the VM: {error}") from error
        except BaseException:
            await self.aclose()
            raise

    async def _spawn_process(self, place: Place, limits: ResourceLimits) -> tuple[MonitorProcess, FirecrackerApi]:
        for name in (LOG_FILE, METRICS_FILE):
            (place.directory / name).touch(mode=0o600)
        words = [
            str(self._program.path), "--id", self.plan.vm_id, "--api-sock", API_SOCKET,
            "--log-path", LOG_FILE, "--level", "Warn", "--metrics-path", METRICS_FILE,
        ]  # fmt: skip
        process = await self._spawn_in(place, Launch(argv=words, limits=limits, lifetime=self.plan.lifetime))
        await process.guard("Firecracker", asyncio.ensure_future(self._api_listens(place)))
        self._record(process)
        api = FirecrackerApi(place.directory / API_SOCKET)
        self._api = api
        self._undo.push_async_callback(api.aclose)
        return process, api

    async def _failed(self, message: str) -> LaunchError:
        log = self._log_tail()
        console = self._console.tail()
        await self.aclose()
        return LaunchError(message, console=[*console, *log])

    def _log_tail(self) -> list[str]:
        ring = ConsoleRing()
        with contextlib.suppress(OSError), (self._directory / LOG_FILE).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            ring.write(file.read())
        return ring.tail(LOG_LINES)

    async def _api_listens(self, place: Place) -> None:
        """Return when Firecracker listens. The socket exists a moment earlier, so only a connection proves it."""
        (await place.connect(API_SOCKET)).close()

    async def pause(self) -> None:
        """Stop the vCPUs."""
        self._only_in(VmmState.RUNNING, "pause")
        await finish(self._pause())

    async def _pause(self) -> None:
        await self._change("Paused")
        self._state = VmmState.PAUSED
        self._snapshot_since_pause = False

    async def resume(self) -> None:
        """Let the vCPUs run.

        Versions 1.16.0 and 1.16.1 hang every connection after a pause without a snapshot; there a diff is taken first and
        thrown away, which also means that the next diff snapshot has no base.
        """
        self._only_in(VmmState.PAUSED, "resume")
        await finish(self._resume())

    async def _resume(self) -> None:
        if self._features.bare_resume_hangs and not self._snapshot_since_pause:
            run_dir = self.plan.run_dir
            files = SnapshotFiles(vmstate=run_dir / "heal.vmstate", mem=run_dir / "heal.mem")
            try:
                await self._write(SnapshotCreate(files=files, kind="diff"))
                self._diff_base_lost = True
            finally:
                _remove(files)
        await self._change("Resumed")
        self._state = VmmState.RUNNING

    async def _change(self, wanted: str) -> None:
        """Change the instance's state; when the answer is lost, ask for the state."""
        try:
            await self._request_api().send(vm_state(wanted))
        except OutcomeUnknown:
            if await self._instance_state() != INSTANCE_STATES[wanted]:
                raise

    async def _instance_state(self) -> str | None:
        """The state that Firecracker reports. It answers in order, so earlier requests are done or refused by then."""
        with contextlib.suppress(MonitorApiError, OutcomeUnknown):
            return str((await self._request_api().get("/")).get("state"))
        return None

    async def snapshot(self, request: SnapshotCreate) -> None:
        """Write a snapshot of the paused VM into new files."""
        self._only_in(VmmState.PAUSED, "a snapshot")
        if request.kind == "diff" and self._diff_base_lost:
            raise UnsupportedByMonitor(
                "a diff snapshot after a pause without one", needs="a full snapshot first", found=str(self._features)
            )
        for path in (request.files.vmstate, request.files.mem):
            if path.exists():
                # Firecracker would overwrite it in place, although a VM may have mapped it.
                raise StateError(f"{path} exists; a snapshot needs new files")
        try:
            await finish(self._write(request))
        except BaseException as error:
            _remove(request.files)
            if isinstance(error, asyncio.CancelledError):
                # The files were written and removed, and with them the pages that the next diff would hold.
                self._diff_base_lost = True
            raise
        if request.kind == "full":
            self._diff_base_lost = False

    async def _write(self, request: SnapshotCreate) -> None:
        api, place = self._request_api(), await self._enter()
        try:
            with place.receiving([request.files.vmstate, request.files.mem]) as (vmstate, mem):
                files = SnapshotFiles(vmstate=vmstate, mem=mem)
                await api.send(snapshot_create(replace(request, files=files)))
        except OutcomeUnknown:
            # Nobody knows whether the files are complete, or whether they hold the pages of the next diff.
            self._diff_base_lost = True
            await self._instance_state()
            raise
        self._snapshot_since_pause = True

    def _request_api(self) -> FirecrackerApi:
        self._running()
        if self._api is None:
            raise StateError(f"the VM is {self._state}")
        return self._api


def _remove(files: SnapshotFiles) -> None:
    for path in (files.vmstate, files.mem):
        path.unlink(missing_ok=True)
