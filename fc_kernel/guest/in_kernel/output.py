"""The kernel's stdout and stderr, which an interrupt does not break.

ipykernel's streams are Python code with locks and events in it. An interrupt that comes in the middle of it leaves them
half-changed, or is lost; a cell that only prints is in that code most of the time, and in a slow guest almost always. So an
interrupt waits until the stream is done, and the stream stops waiting for its reader when there is an interrupt.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Callable, Optional, Union

from ipykernel.iostream import OutStream

#: How often a stream that waits for its reader looks for an interrupt.
LOOK_EVERY_S = 0.05


class Guard:
    """A SIGINT handler that raises :class:`KeyboardInterrupt`: at once, or when the main thread has left the guarded code."""

    def __init__(self) -> None:
        self._depth = 0
        #: Whether an interrupt waits.
        self.pending = False
        self._waiting: list[Callable[[], None]] = []
        self._main = threading.main_thread().ident

    def handle(self, _signum: int, _frame: Optional[FrameType]) -> None:
        """The signal's handler. Python runs it on the main thread."""
        # Several interrupts become one exception, which is raised where the guarded code is left.
        self.pending = self._depth > 0
        if not self.pending:
            raise KeyboardInterrupt

    def when_free(self, call: Callable[[], None]) -> None:
        """Run ``call()`` now, or when the main thread leaves the guarded code. Called from a signal handler."""
        if self._depth:
            self._waiting.append(call)
        else:
            call()

    @property
    def wanted(self) -> bool:
        """Whether something waits for the main thread to leave the guarded code."""
        return self.pending or bool(self._waiting)

    def install(self) -> Union[Callable[[int, Optional[FrameType]], Any], int, None]:
        """Handle SIGINT from now on; returns the previous handler. Only on the main thread."""
        return signal.signal(signal.SIGINT, self.handle)

    def __enter__(self) -> None:
        if threading.get_ident() == self._main:
            self._depth += 1

    def __exit__(
        self, _kind: Optional[type[BaseException]], _error: Optional[BaseException], _trace: Optional[TracebackType]
    ) -> None:
        if threading.get_ident() == self._main:
            self._depth -= 1
            while self._waiting and not self._depth:
                self._waiting.pop(0)()
            if self.pending and not self._depth:
                self.pending = False
                raise KeyboardInterrupt


#: The process has one SIGINT handler, and so has one guard.
guard = Guard()


class GuardedOutStream(OutStream):
    """ipykernel's stream under the guard."""

    def write(self, string: str) -> Optional[int]:  # type: ignore[override]
        """Take text; it is sent later, by another thread."""
        with guard:
            return super().write(string)

    def flush(self) -> None:
        """Wait until what was written is sent, the time is up, or something waits for the main thread."""
        with guard:
            sender = self.pub_thread and self.pub_thread.thread
            if not sender or not sender.is_alive() or sender is threading.current_thread():
                super().flush()  # type: ignore[no-untyped-call]
                return
            sent = threading.Event()
            self.pub_thread.schedule(self._flush)
            self.pub_thread.schedule(sent.set)
            end = time.monotonic() + self.flush_timeout
            while not sent.wait(LOOK_EVERY_S) and not self._wanted and time.monotonic() < end:
                pass

    @property
    def _wanted(self) -> bool:
        return guard.wanted and threading.current_thread() is threading.main_thread()
