"""Stopping the kernel and all that it has started, by a cgroup's freezer or, without one, by job control.

Python 3.9, standard library.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Callable, Union

from . import system
from .loop import Loop

#: The cgroup of the kernel and all that it starts; an agent has one kernel at a time.
CGROUP = "kernel"
LOOK_EVERY_S = 0.002
#: Stopping takes milliseconds, except for a process in an uninterruptible wait.
FREEZE_TIMEOUT_S = 5.0


class CgroupFreezer:
    """The freezer of cgroup v2, which no process escapes. Raises :class:`OSError` where there is none."""

    def __init__(self) -> None:
        self._path = os.path.join(system.cgroup_root(), CGROUP)
        os.makedirs(self._path, exist_ok=True)
        with open(f"{self._path}/cgroup.freeze"):
            pass

    def add(self, pid: int) -> None:
        """Put the process, and all that it will start, into the group."""
        self._write("cgroup.procs", str(pid))

    def freeze(self) -> None:
        """Begin to stop."""
        self._write("cgroup.freeze", "1")

    def thaw(self) -> None:
        """Let go on."""
        self._write("cgroup.freeze", "0")

    def kill(self) -> None:
        """Kill all that is left in the group."""
        try:
            self._write("cgroup.kill", "1")
        except OSError:
            pass  # a kernel before 5.14; the process group has been killed already

    @property
    def frozen(self) -> bool:
        """Whether all processes have stopped."""
        with open(f"{self._path}/cgroup.events") as file:
            return "frozen 1" in file.read().splitlines()

    def _write(self, name: str, value: str) -> None:
        descriptor = os.open(f"{self._path}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)


class GroupFreezer:
    """Job control for the kernel's process group; processes that left the group go on running."""

    def __init__(self) -> None:
        self._pid = 0

    def add(self, pid: int) -> None:
        """Take the leader of the process group."""
        self._pid = pid

    def freeze(self) -> None:
        """Begin to stop."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Do nothing: the agent kills the process group when its leader has ended."""

    @property
    def frozen(self) -> bool:
        """Whether the leader has stopped, with all its threads."""
        try:
            threads = os.listdir(f"/proc/{self._pid}/task")
            return all(_state(f"/proc/{self._pid}/task/{thread}/stat") in "TtZX" for thread in threads)
        except FileNotFoundError:
            return True

    def _signal(self, signum: int) -> None:
        if self._pid:
            try:
                os.killpg(self._pid, signum)
            except ProcessLookupError:
                pass


Freezer = Union[CgroupFreezer, GroupFreezer]


def _state(path: str) -> str:
    with open(path, "rb") as file:
        return chr(file.read().rpartition(b") ")[2][0])


def make_freezer(*, is_init: bool) -> Freezer:
    """The best freezer of this machine."""
    if is_init:
        try:
            return CgroupFreezer()
        except OSError as error:
            print(f"agent: no cgroup for the kernel: {error}", flush=True)
    return GroupFreezer()


def when_frozen(loop: Loop, freezer: Freezer, done: Callable[[bool], None]) -> None:
    """Call ``done(True)`` when all processes have stopped, or ``done(False)`` if they have not in time."""
    end = time.monotonic() + FREEZE_TIMEOUT_S

    def look() -> None:
        if freezer.frozen:
            done(True)
        elif time.monotonic() > end:
            done(False)
        else:
            loop.call_later(LOOK_EVERY_S, look)

    look()
