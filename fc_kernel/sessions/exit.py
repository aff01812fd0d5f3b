"""How a session's last kernel process ended, and what still has to be told of it."""

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
        #: With which error what still waits for the kernel is to be answered; empty when it was.
        self._unanswered = ""

    @property
    def over(self) -> bool:
        """Whether no kernel process runs."""
        return self._over.is_set()

    async def wait(self) -> int:
        """Return the status when the process has ended; 0, at once, when there was none."""
        await self._over.wait()
        return self.returncode if self.returncode is not None else 0

    def begin(self) -> None:
        """Another process is about to run."""
        self.returncode = None
        self._over.clear()

    def end(self, returncode: int, reason: str) -> None:
        """The process has ended, and whoever waits for the kernel is to be told why."""
        self.returncode, self.reason, self._unanswered = returncode, reason, reason
        self._over.set()

    def never_ran(self) -> None:
        """The start failed: the process is over, unless its end was noted already."""
        if not self.over:
            self.returncode = -signal.SIGKILL
            self._over.set()

    def take_unanswered(self) -> str:
        """The error for what waits for the kernel; empty from the second time on."""
        unanswered, self._unanswered = self._unanswered, ""
        return unanswered
