"""The driver's end of the connection to a scripted guest's process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from pathlib import Path
from typing import Any

import fc_kernel

from ...errors import MonitorApiError, OutcomeUnknown
from .faults import Faults

#: Answers have a few words.
READ_BYTES = 1 << 16


class Remote:
    """Sends commands to the process, one at a time."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair()
        self._ours.setblocking(False)
        #: For the process; close it here when the process has it.
        self.theirs = theirs
        self._lock = asyncio.Lock()

    def options(self, faults: Faults) -> list[str]:
        """What the program needs to be told of this connection and of what is to go wrong."""
        return ["--monitor-fd", str(self.theirs.fileno()), "--faults", str(faults)]

    @staticmethod
    def environment() -> dict[str, str]:
        """The environment in which the program finds its package."""
        return {"PYTHONPATH": str(Path(fc_kernel.__file__).parents[1])}

    async def ask(self, do: str, **params: Any) -> None:
        """Send a command and wait for its answer. Raises :class:`~fc_kernel.errors.MonitorApiError` when it is refused.

        Raises :class:`~fc_kernel.errors.OutcomeUnknown` when the process ends instead of answering.
        """
        loop = asyncio.get_running_loop()
        async with self._lock:
            line = b""
            with contextlib.suppress(OSError):
                await loop.sock_sendall(self._ours, json.dumps({"do": do, **params}).encode() + b"\n")
                while not line.endswith(b"\n"):
                    data = await loop.sock_recv(self._ours, READ_BYTES)
                    if not data:
                        break
                    line += data
        if not line.endswith(b"\n"):
            raise OutcomeUnknown(f"{do}: the scripted guest ended")
        if "error" in (answer := json.loads(line)):
            raise MonitorApiError(f"{do}: {answer['error']}")

    def close(self) -> None:
        """Release both ends; the process ends with it."""
        self._ours.close()
        self.theirs.close()
