"""Work for the main thread, whatever it is doing: a signal has it called between two bytecodes.

The main thread is also paused this way while a snapshot is taken: between the hooks before the snapshot and those after it, no
cell continues and none starts.
"""

from __future__ import annotations

import signal
import threading
from typing import Callable, Optional

from .output import guard

#: A real-time signal that nothing else here uses; glibc keeps the first few for itself.
SIGNUM = signal.SIGRTMIN + 9


class Call:
    """One piece of work; ``errors`` has what it returned once ``done`` is set."""

    def __init__(self, work: Optional[Callable[[], list[str]]], *, then_park: bool) -> None:
        self._work = work
        self._then_park = then_park
        self.errors: list[str] = []
        self.done = threading.Event()
        #: Set to let a parked main thread go, perhaps with more work.
        self._released = threading.Event()
        self._more: Optional[Call] = None

    def release(self, more: Optional[Call] = None) -> None:
        """Let the main thread continue, after it has run ``more``."""
        self._more = more
        self._released.set()

    def run(self) -> None:
        """Do the work; called on the main thread."""
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
        """Handle the signal from now on; called on the main thread."""
        signal.signal(SIGNUM, self._called)

    def start(self, call: Call) -> None:
        """Have the main thread run this as soon as it can, in place of a call that it has not begun."""
        self._call = call
        signal.pthread_kill(self._ident, SIGNUM)

    def _called(self, _signum: int, _frame: object) -> None:
        # Not inside the output streams: other threads need their locks.
        guard.when_free(self._run)

    def _run(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            # An interrupt waits until the main thread is back where it was.
            with guard:
                call.run()
