"""The last lines of a guest's console."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from pathlib import Path
from typing import Self

from ..base.text import without_controls

#: Enough for a boot's messages; a guest that floods its console overwrites only its own output.
MAX_LINES = 400
MAX_LINE_BYTES = 1024
#: The console of a detached monitor, in its run directory. Whoever watches the monitor empties the file when it is larger
#: than this; while nobody watches, the monitor's limit on files bounds it.
CONSOLE_FILE = "console"
MAX_FILE_BYTES = 1 << 20


class ConsoleRing:
    """Keeps the last lines of the bytes it is given, in bounded memory."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque(maxlen=MAX_LINES)
        self._partial = bytearray()

    def write(self, data: bytes) -> None:
        """Add bytes."""
        *lines, rest = (bytes(self._partial) + data).split(b"\n")
        self._lines.extend(line[:MAX_LINE_BYTES] for line in lines)
        self._partial = bytearray(rest[-MAX_LINE_BYTES:])

    def tail(self, lines: int = 20) -> list[str]:
        """The last lines, oldest first, without control characters or empty lines."""
        texts = (
            without_controls(line.rstrip(b"\r").decode("utf-8", "replace")).rstrip()
            for line in [*self._lines, bytes(self._partial)]
        )
        return [text for text in texts if text][-lines:]


class ConsoleFile:
    """The console of a detached monitor: a file to which the monitor appends and which its owner reads and empties."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._at = 0

    @classmethod
    def create(cls, run_dir: Path) -> Self:
        """A new file for a monitor to append to; raises :class:`OSError`."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        return cls(os.open(run_dir / CONSOLE_FILE, flags, 0o600))

    @classmethod
    def reopen(cls, run_dir: Path) -> Self:
        """The file of a running monitor; raises :class:`OSError`. It is untrusted: the monitor can write in its directory."""
        descriptor = os.open(run_dir / CONSOLE_FILE, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a regular file", str(run_dir / CONSOLE_FILE))
        return cls(descriptor)

    def fileno(self) -> int:
        """The descriptor, for the monitor to inherit."""
        return self._descriptor

    def read_into(self, ring: ConsoleRing) -> None:
        """Read what was written since the last time, at most :data:`MAX_FILE_BYTES` of it; empty a file that is too large."""
        size = os.fstat(self._descriptor).st_size
        if size < self._at:
            self._at = 0
        self._at = max(self._at, size - MAX_FILE_BYTES)
        data = os.pread(self._descriptor, MAX_FILE_BYTES, self._at)
        ring.write(data)
        self._at += len(data)
        if size > MAX_FILE_BYTES:
            os.ftruncate(self._descriptor, 0)
            self._at = 0

    def close(self) -> None:
        """Close the descriptor; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
