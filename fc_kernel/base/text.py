"""Text of a guest as it may be shown: on a terminal, in a log, in the browser."""

from __future__ import annotations

import re

#: Escape sequences (CSI and OSC), control characters, line separators, and what turns text around.
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
    r"|[\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)


def without_controls(text: str) -> str:
    """Text of the guest as it may be shown on a terminal: lines and tabs, and nothing that a terminal would obey."""
    return _CONTROL.sub("", text)
