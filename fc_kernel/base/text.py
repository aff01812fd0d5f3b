"""Makes a guest's text safe to show on a terminal, in a log or in the browser."""

from __future__ import annotations

import re

#: Escape sequences (CSI and OSC), control characters, line separators, and marks that reverse the direction of text.
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
    r"|[\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)


def without_controls(text: str) -> str:
    """The text with its lines and tabs, and without anything that a terminal would obey."""
    return _CONTROL.sub("", text)
