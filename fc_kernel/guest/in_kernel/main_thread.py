"""Work for the main thread, whatever it is doing: it is called by a signal, between two of its bytecodes.

It also stands still that way while a snapshot is taken: a cell does not go on, and no other one starts, between the hooks
before the snapshot and those after it.
"""

from __future__ import annotations

import signal
import threading
from typing import Callable, Optional

from .output import guard

#: A real-time signal that nothing else here uses; glibc keeps the first few for itself.
SIGNUM = signal.SIGRTMIN + 9


class Call:
    """One piece of work; what :meth:`run` returned is in ``errors`` when ``done`` is set."""

    def __init__(self, work: Optional[Callable[[], list[str]]], *, then_park: bool) -> None:
        self._work = work
        self._then_park = then_park
        self.errors: list[str] = []
        self.done = threading.Event()
        #: Set to let a parked main thread go, perhaps with more work.
        self._released = threading.Event()
        self._more: Optional[Call] = None

    def release(self, more: Optional[Call] = None) -> None:
        """Let the main thread go on, after ``more``."""
        self._more = more
        self._released.set()

    def run(self) -> None:
        """On the main thread."""
        if self._work is not None and not self._released.is_set():
            self.errors = self._work()
        self.done.set()
        if self._then_park:
            self._released.wait()
        if self._more is not None:
            self._more.run()


class MainThread:
    """Runs one call at a time."""

    def __init__(self) -> None:
        self._call: Optional[Call] = None
        self._ident = threading.main_thread().ident or 0

    def install(self) -> None:
        """Take the signal; on the main thread."""
        signal.signal(SIGNUM, self._called)

    def start(self, call: Call) -> None:
        """Ask the main thread to run this as soon as it can; a call that it has not begun is forgotten."""
        self._call = call
        signal.pthread_kill(self._ident, SIGNUM)

    def _called(self, _signum: int, _frame: object) -> None:
        # Not within the output streams: others need their locks.
        guard.when_free(self._run)

    def _run(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            # An interrupt waits until the main thread is where it was.
            with guard:
                call.run()
