"""Watching a session's VM: when it ends, its kernel has ended, and broken connections to a living guest are made again."""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
import time
from collections.abc import Mapping
from typing import Any, Protocol

from ..base.tasks import TaskSet
from ..errors import FcKernelError
from ..machine.machine import Machine
from .incarnation import Incarnation

log = logging.getLogger(__name__)

#: How long to wait for a dying kernel's last output: it crosses the tunnel after the news of its death.
LAST_WORDS_S = 0.2
#: How long broken connections to a living guest are dialled again before the guest is given up.
REDIAL_TIMEOUT_S = 10.0
REDIAL_EVERY_S = 0.2

#: The exit statuses that a guest may report for its kernel; anything else becomes 1.
RETURNCODES = range(-64, 256)


def how_it_ended(params: Mapping[str, Any]) -> tuple[int, str]:
    """Read the guest's report of its kernel's end: a checked exit status, and a text for users."""
    returncode = params.get("returncode")
    if type(returncode) is not int or returncode not in RETURNCODES:
        returncode = 1
    how = f"was killed by signal {-returncode}" if returncode < 0 else f"ended with status {returncode}"
    why = "the guest ran out of memory and the kernel process" if params.get("oom") is True else "the kernel process"
    return returncode, f"{why} {how}"


class Watched(Protocol):
    """What the watchdog has to know of a session, and do to it."""

    @property
    def incarnation(self) -> Incarnation | None:
        """The present incarnation, if there is one."""

    @property
    def running(self) -> bool:
        """Whether a kernel process runs in it."""

    async def attach(self, incarnation: Incarnation) -> None:
        """Connect the channels; raises :class:`~fc_kernel.errors.FcKernelError`."""

    def machine_ended(self, returncode: int, reason: str) -> None:
        """The present VM has ended or is useless, and its kernel has ended with it."""


class Watchdog:
    """Works on the loop. ``lock`` is the session's; its tasks are the session's to cancel."""

    def __init__(self, session: Watched, lock: asyncio.Lock, tasks: TaskSet) -> None:
        self._session = session
        self._lock = lock
        self._tasks = tasks
        self._redialling: asyncio.Task[None] | None = None
        #: The incarnation whose connections are dialled again.
        self._redialled: Incarnation | None = None

    def watch(self, machine: Machine) -> None:
        """Watch the session's new VM; the one before is watched no longer."""
        machine.on_agent_lost = functools.partial(self._agent_lost, machine)
        self._tasks.start(self._watch(machine), "watch")

    async def _watch(self, machine: Machine) -> None:
        exit_ = await machine.vmm.wait()
        if self._is_present(machine):
            self._session.machine_ended(exit_.returncode or -signal.SIGKILL, f"the microVM ended: {exit_}")

    def _is_present(self, machine: Machine) -> bool:
        incarnation = self._session.incarnation
        return incarnation is not None and incarnation.machine is machine

    def tunnel_lost(self, reason: str, fatal: bool = False) -> None:
        """The connection of a channel broke; after a fatal break it is not dialled again."""
        incarnation = self._session.incarnation
        if incarnation is None:
            return
        if fatal:
            self._tasks.start(self._give_up(incarnation.machine, reason), "give-up")
        elif self._session.running and not self._redials(incarnation):
            # The first reason is the one that is reported.
            self._redialled = incarnation
            self._redialling = self._tasks.start(self._redial(incarnation, reason), "redial")

    def _redials(self, incarnation: Incarnation) -> bool:
        """Whether this incarnation is being dialled already; a task that dials a replaced one ends by itself."""
        return self._redialling is not None and not self._redialling.done() and self._redialled is incarnation

    def _agent_lost(self, machine: Machine, reason: str, fatal: bool) -> None:
        """The control connection broke; that of a VM which was replaced does not matter."""
        if self._is_present(machine):
            self.tunnel_lost(f"the control connection broke: {reason}", fatal)

    async def _redial(self, incarnation: Incarnation, reason: str) -> None:
        """Connect a living guest again and carry on where it was, or give the guest up."""
        end = time.monotonic() + REDIAL_TIMEOUT_S
        machine = incarnation.machine
        while True:
            async with self._lock:
                if incarnation is not self._session.incarnation or not self._session.running:
                    return
                try:
                    await self._session.attach(incarnation)
                except FcKernelError as error:
                    reason = f"{reason}; {error}" if time.monotonic() > end else reason
                else:
                    return
            if time.monotonic() > end:
                await self._give_up(machine, reason)
                return
            await asyncio.sleep(REDIAL_EVERY_S)

    async def _give_up(self, machine: Machine, reason: str) -> None:
        # The monitor's own end breaks the connections, too, and is the better explanation.
        await asyncio.sleep(LAST_WORDS_S)
        if self._is_present(machine) and machine.vmm.pid is not None:
            log.warning("VM %s is ended: %s", machine.vmm.plan.vm_id, reason)
            self._session.machine_ended(-signal.SIGKILL, f"the microVM was ended: {reason}")
            await machine.vmm.kill()
