"""How a session's last kernel process ended, and whether those who wait for the kernel were told."""

from __future__ import annotations

import asyncio
import signal


class KernelExit:
    """Changed on the loop only; ``returncode`` and ``reason`` may be read from any thread."""

    def __init__(self) -> None:
        #: Exit status of the last kernel process; ``None`` while one runs or none was started.
        self.returncode: int | None = None
        #: Why it ended, for the log and for clients.
        self.reason = ""
        self._over = asyncio.Event()
        self._over.set()
        #: The error for the requests that still wait for the kernel; empty once they were answered.
        self._unanswered = ""

    @property
    def over(self) -> bool:
        """Whether no kernel process runs."""
        return self._over.is_set()

    async def wait(self) -> int:
        """Wait until the process has ended and return its exit status; 0, at once, when none was started."""
        await self._over.wait()
        return self.returncode if self.returncode is not None else 0

    def begin(self) -> None:
        """Note that another process is about to run."""
        self.returncode = None
        self._over.clear()

    def end(self, returncode: int, reason: str) -> None:
        """Note that the process has ended; whoever waits for the kernel is to be told why."""
        self.returncode, self.reason, self._unanswered = returncode, reason, reason
        self._over.set()

    def never_ran(self) -> None:
        """Note that the start failed and no process runs; an end that was noted before stays."""
        if not self.over:
            self.returncode = -signal.SIGKILL
            self._over.set()

    def take_unanswered(self) -> str:
        """The error for the requests that wait for the kernel; empty from the second call on."""
        unanswered, self._unanswered = self._unanswered, ""
        return unanswered
