"""Watching over a session's machine: its end is its kernel's end, and broken connections to a living guest are made again."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import FcKernelError
from ..machine.machine import Machine

if TYPE_CHECKING:
    from .session import KernelSession

log = logging.getLogger(__name__)

#: What a dying kernel printed last crosses the tunnel after the news of its death; so long we wait for it.
LAST_WORDS_S = 0.2
#: How long broken connections to a living guest are dialled again before the guest is given up.
REDIAL_TIMEOUT_S = 10.0
REDIAL_EVERY_S = 0.2

#: A guest says how its kernel ended; what is no wait status becomes 1.
RETURNCODES = range(-64, 256)


def how_it_ended(params: Mapping[str, Any]) -> tuple[int, str]:
    """What the guest's news of its kernel's end say: a status that can be one, and words."""
    returncode = params.get("returncode")
    if type(returncode) is not int or returncode not in RETURNCODES:
        returncode = 1
    how = f"was killed by signal {-returncode}" if returncode < 0 else f"ended with status {returncode}"
    why = "the guest ran out of memory and the kernel process" if params.get("oom") is True else "the kernel process"
    return returncode, f"{why} {how}"


class Vigil:
    """Works on the loop; ``lock`` is the session's."""

    def __init__(self, session: KernelSession, lock: asyncio.Lock) -> None:
        self._session = session
        self._lock = lock
        self._redialling = False

    async def watch(self, machine: Machine) -> None:
        """A machine's end is its kernel's end."""
        exit_ = await machine.vmm.wait()
        if machine is self._session.machine:
            self._session.kernel_ended(exit_.returncode or -signal.SIGKILL, f"the microVM ended: {exit_}", linger_s=0.0)

    def tunnel_lost(self, reason: str, fatal: bool = False) -> None:
        """A connection of the channels broke; after a fatal break dialling again is of no use."""
        if fatal and self._session.machine is not None:
            self._session.spawn(self._give_up(self._session.machine, reason), "give-up")
        elif self._session.running and not self._redialling:
            self._redialling = True
            self._session.spawn(self._redial(reason), "redial")

    def agent_lost(self, reason: str, fatal: bool) -> None:
        """The control connection broke."""
        self.tunnel_lost(f"the control connection broke: {reason}", fatal)

    async def _redial(self, reason: str) -> None:
        """The guest lives but its connections broke: carry on where they were, or give the guest up."""
        machine, instance = self._session.machine, self._session.instance
        end = time.monotonic() + REDIAL_TIMEOUT_S
        try:
            while machine is not None:
                async with self._lock:
                    if (
                        machine is not self._session.machine
                        or instance != self._session.instance
                        or not self._session.running
                    ):
                        return
                    try:
                        await self._session.attach(machine)
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
        if machine is self._session.machine and machine.vmm.pid is not None:
            log.warning("VM %s is ended: %s", machine.vmm.plan.vm_id, reason)
            self._session.kernel_ended(-signal.SIGKILL, f"the microVM was ended: {reason}", linger_s=0.0)
            await machine.vmm.kill()
