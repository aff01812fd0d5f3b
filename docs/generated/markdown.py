"""Tables and code in Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any

from traitlets import Bool, Dict, Enum, Float, Integer, List


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are Markdown on one line."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """Inline code that may have backticks in it; empty stays empty."""
    if not text:
        return ""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def block(text: str, language: str = "") -> str:
    """A block of code."""
    return f"```{language}\n{text.rstrip()}\n```\n"


def prose(docstring: str) -> str:
    """A docstring's reStructuredText as Markdown: roles become code, double backticks are code already."""
    text = re.sub(r":[a-z]+:`~?([^`]*)`", lambda role: code(role[1].rpartition(".")[2]), inspect.cleandoc(docstring))
    return re.sub(r"``([^`]*)``", r"`\1`", text)


def trait_type(trait: Any) -> str:
    """What a trait takes, in a word or two."""
    if isinstance(trait, Enum):
        return ", ".join(code(str(value)) for value in trait.values or ())
    for kind, word in ((Bool, "boolean"), (Integer, "integer"), (Float, "number"), (List, "list"), (Dict, "object")):
        if isinstance(trait, kind):
            return word
    return "text"
