"""The last lines of a guest's console."""

from __future__ import annotations

from collections import deque

from ..base.text import without_controls

#: Enough for a boot's messages; a guest that floods its console overwrites only its own history.
MAX_LINES = 400
MAX_LINE_BYTES = 1024


class ConsoleRing:
    """Bytes in, the last lines out; bounded whatever comes."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque(maxlen=MAX_LINES)
        self._partial = bytearray()

    def write(self, data: bytes) -> None:
        """Take bytes as they come."""
        *lines, rest = (bytes(self._partial) + data).split(b"\n")
        self._lines.extend(line[:MAX_LINE_BYTES] for line in lines)
        self._partial = bytearray(rest[-MAX_LINE_BYTES:])

    def tail(self, lines: int = 20) -> list[str]:
        """The last lines, oldest first, without control characters and empty lines."""
        texts = (
            without_controls(line.rstrip(b"\r").decode("utf-8", "replace")).rstrip()
            for line in [*self._lines, bytes(self._partial)]
        )
        return [text for text in texts if text][-lines:]
