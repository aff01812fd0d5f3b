"""What all drivers share whose VM is one process on the host."""

from __future__ import annotations

import contextlib

from ..errors import StateError
from .base import BootPlan, Vmm, VmmExit, VmmState
from .console import ConsoleRing
from .process import MonitorProcess


class ProcessVmm(Vmm):
    """A driver sets ``_process`` when it has spawned, ``_state`` at each step, and leaves in ``_undo`` how to release all."""

    def __init__(self, plan: BootPlan) -> None:
        super().__init__(plan)
        self._state = VmmState.CREATED
        self._console = ConsoleRing()
        self._process: MonitorProcess | None = None
        self._undo = contextlib.AsyncExitStack()

    @property
    def state(self) -> VmmState:
        """The present state; the process may have ended by itself."""
        if self._state is not VmmState.CLOSED and self._process is not None and self._process.exited is not None:
            return VmmState.EXITED
        return self._state

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return self._process.pid if self._process is not None and self._process.exited is None else None

    async def wait(self) -> VmmExit:
        """Until the process ends."""
        return await self._running().wait()

    async def kill(self) -> VmmExit:
        """SIGKILL."""
        return await self._running().kill()

    def console_tail(self, lines: int = 20) -> list[str]:
        """What the guest wrote to its console, and the monitor to its own output."""
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
