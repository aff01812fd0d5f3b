"""Faults that a test asks for: what goes wrong, at which step, and on which of its occurrences.

``step:what[=value][@time]``, several with commas between: ``freeze:die``, ``snapshot:ENOSPC@1``, ``renew:late=0.5``.
Without a time it goes wrong every time.

Steps are the calls of the agent's protocol (``freeze``, ``renew``, ``kernel.start`` …), and those of the monitor:
``start``, ``load``, ``pause``, ``resume``, ``snapshot`` (in the middle of ``mem``), ``vmstate`` (when it is written),
``written``. A machine with ``resume:reset`` loses its connections at every resume, as Firecracker's do, and its driver says so.
"""

from __future__ import annotations

import errno
import os
import re
import signal
from dataclasses import dataclass

from ...errors import SpecError

PATTERN = re.compile(r"(?P<step>[a-z.]+):(?P<what>[a-zA-Z]+)(?:=(?P<value>[0-9.]+))?(?:@(?P<time>[0-9]+))?")
#: ``die``: the whole machine ends at once. ``hang``: no answer, ever. ``late=S``: after so many seconds. ``refuse``: an error.
KINDS = ("die", "hang", "late", "refuse", "reset")
FORM = f"step:what[=value][@time], what being {', '.join(KINDS)} or an errno such as ENOSPC"


@dataclass(frozen=True)
class Fault:
    """What goes wrong at a step."""

    step: str
    what: str
    value: float = 0.0
    #: Counted from 1; 0 is every time.
    time: int = 0

    def __str__(self) -> str:
        value, time = f"={self.value:g}" if self.value else "", f"@{self.time}" if self.time else ""
        return f"{self.step}:{self.what}{value}{time}"

    @property
    def error(self) -> OSError | None:
        """The fault as an :class:`OSError` of the host's files, if it is one."""
        if self.what in KINDS:
            return None
        number: int = getattr(errno, self.what)
        return OSError(number, os.strerror(number))


class Faults:
    """All faults of one machine, and how often each step was taken."""

    def __init__(self, text: str = "") -> None:
        """Parse faults; raises :class:`~fc_kernel.errors.SpecError` for a malformed one."""
        self._faults: list[Fault] = []
        self._taken: dict[str, int] = {}
        self.add(text)

    def __str__(self) -> str:
        return ",".join(map(str, self._faults))

    def add(self, text: str) -> None:
        """Add faults; the times of their steps are counted from now on."""
        added = [_fault(word) for word in text.split(",") if word]
        for fault in added:
            self._taken.pop(fault.step, None)
        self._faults += added

    @property
    def resets(self) -> bool:
        """Whether connections break at every resume."""
        return any(fault.step == "resume" and fault.what == "reset" for fault in self._faults)

    def at(self, step: str) -> Fault | None:
        """Take a step; returns what goes wrong with it."""
        self._taken[step] = self._taken.get(step, 0) + 1
        for fault in self._faults:
            if fault.step == step and fault.time in (0, self._taken[step]):
                return fault
        return None


def _fault(word: str) -> Fault:
    found = PATTERN.fullmatch(word)
    if found is None or not (found["what"] in KINDS or isinstance(getattr(errno, found["what"], None), int)):
        raise SpecError("fault", word, FORM)
    try:
        value = float(found["value"] or 0)
    except ValueError:
        raise SpecError("fault", word, FORM) from None
    return Fault(found["step"], found["what"], value, int(found["time"] or 0))


def die() -> None:
    """End this process as pulling the plug of a machine would."""
    os.kill(os.getpid(), signal.SIGKILL)
