"""The last lines of a guest's console."""

from __future__ import annotations

import re
from collections import deque

#: Enough for a boot's messages; a guest that floods its console overwrites only its own history.
MAX_LINES = 400
MAX_LINE_BYTES = 1024
#: Escape sequences (CSI and OSC), control characters, line separators, and what turns text around.
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
    r"|[\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)


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


def without_controls(text: str) -> str:
    """Text of the guest as it may be shown on a terminal: lines and tabs, and nothing that a terminal would obey."""
    return _CONTROL.sub("", text)
