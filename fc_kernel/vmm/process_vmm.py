"""The base of drivers whose VM is one process on the host."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import ClassVar

from ..errors import StateError
from ..settings.tier import Tier
from .base import BootPlan, Vmm, VmmExit, VmmState
from .console import ConsoleRing
from .executor import DirectExecutor, Executor, Place
from .isolation import isolation_of
from .launch import Launch
from .process import MonitorProcess


class ProcessVmm(Vmm):
    """A driver enters its place, spawns there, sets ``_state`` at each step, and registers in ``_undo`` what to release."""

    #: The monitor's tier when KVM does not run its guest.
    tier_without_kvm: ClassVar[Tier] = Tier.NONE

    def __init__(self, plan: BootPlan, executor: Executor | None = None) -> None:
        super().__init__(plan)
        self._executor = executor or DirectExecutor()
        self._place: Place | None = None
        self._tier: Tier | None = None
        self._state = VmmState.CREATED
        self._console = ConsoleRing()
        self._process: MonitorProcess | None = None
        self._undo = contextlib.AsyncExitStack()

    @property
    def state(self) -> VmmState:
        """The current state; the process may have ended by itself."""
        if self._state is not VmmState.CLOSED and self._process is not None and self._process.exited is not None:
            return VmmState.EXITED
        return self._state

    @property
    def pid(self) -> int | None:
        """The process id, while the process runs."""
        return self._process.pid if self._process is not None and self._process.exited is None else None

    @property
    def tier(self) -> Tier:
        """The tier of the running process; after its end the one that was found last."""
        process = self._running()
        # The pid of a reaped process may be another's now.
        if process.exited is None:
            self._tier = isolation_of(process.pid, without_kvm=self.tier_without_kvm).tier
        return self._tier or self.tier_without_kvm

    @property
    def _directory(self) -> Path:
        """The monitor's working directory; before it has a place, the run directory."""
        return self.plan.run_dir if self._place is None else self._place.directory

    async def _enter(self) -> Place:
        """The VM's place, which the first call makes."""
        if self._place is None:
            self._place = await self._executor.place(self.plan)
            self._undo.push_async_callback(self._place.aclose)
        return self._place

    async def _spawn_in(self, place: Place, launch: Launch) -> MonitorProcess:
        """Start the monitor; :meth:`aclose` ends it."""
        self._process = await place.spawn(launch, self._console)
        self._undo.push_async_callback(self._process.aclose)
        return self._process

    def _record(self, process: MonitorProcess) -> None:
        """Write the journal entry."""
        plan = self.plan
        process.record(plan.run_dir, vm_id=plan.vm_id, monitor=self.name, labels=plan.labels, lifetime=plan.lifetime)

    async def wait(self) -> VmmExit:
        """Return when the process has ended."""
        return await self._running().wait()

    async def kill(self) -> VmmExit:
        """End the process by SIGKILL."""
        return await self._running().kill()

    def console_tail(self, lines: int = 20) -> list[str]:
        """The last lines of the guest's console and of the monitor's own output."""
        return self._console.tail(lines)

    async def aclose(self) -> None:
        """Kill the process and release everything."""
        if self._state is not VmmState.CLOSED:
            self._state = VmmState.CLOSED
            await self._undo.aclose()

    def _only_in(self, wanted: VmmState, what: str) -> None:
        if self.state is not wanted:
            raise StateError(f"{what} in state {self.state}")

    def _running(self) -> MonitorProcess:
        if self._process is None or self._state in (VmmState.CREATED, VmmState.CLOSED):
            raise StateError(f"the VM is {self._state}")
        return self._process
