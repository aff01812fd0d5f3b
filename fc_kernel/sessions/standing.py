"""What goes on with a session, and telling whoever wants to know."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .phases import Phase, following

log = logging.getLogger(__name__)

#: ``kind`` and payload: ``state``, ``snapshot``, ``restore``, ``fork``.
Observer = Callable[[str, dict[str, Any]], None]
#: How a phase is called where people read it.
SHOWN = {Phase.IDLE: "dead", Phase.STARTING: "booting", Phase.RUNNING: "running", Phase.CLOSED: "closed"}


class Standing:
    """The phase of a session's life, and within a running one what keeps its kernel still."""

    def __init__(self) -> None:
        self.phase = Phase.IDLE
        self._activity = ""
        self._observers: list[Observer] = []

    @property
    def state(self) -> str:
        """``booting``, ``running``, ``pausing``, ``restoring``, ``dead`` or ``closed``."""
        return self._activity if self._activity and self.phase is Phase.RUNNING else SHOWN[self.phase]

    def enter(self, phase: Phase) -> None:
        """Go on to another phase; raises :class:`~fc_kernel.errors.StateError` where none leads there."""
        self.phase = following(self.phase, phase)
        self.emit("state", {"state": self.state})

    @contextmanager
    def busy(self, activity: str) -> Iterator[None]:
        """Say what goes on, until the end or until :meth:`goes_on`."""
        self._activity = activity
        self.emit("state", {"state": self.state})
        try:
            yield
        finally:
            self.goes_on()

    def goes_on(self) -> None:
        """The kernel runs again, whatever else is still to be done."""
        if self._activity:
            self._activity = ""
            self.emit("state", {"state": self.state})

    def observe(self, observer: Observer) -> None:
        """Call ``observer`` on the loop at each change."""
        self._observers.append(observer)

    def emit(self, kind: str, payload: dict[str, Any]) -> None:
        """Tell whoever observes; what fails there is their business."""
        for observer in list(self._observers):
            try:
                observer(kind, payload)
            except Exception:
                log.exception("an observer failed")
