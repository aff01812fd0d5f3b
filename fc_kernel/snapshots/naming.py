"""Names, scopes and ids. A name is only ever compared, never part of a path: directories are named by random ids."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection
from typing import Final

from ..errors import SpecError
from ..settings.spec import NAME_PATTERN

ID_PATTERN: Final = r"^[0-9a-f]{16}$"
ID_BYTES = 8
#: A scope is a notebook's path below the server's root, or ``kernel:`` and an id.
MAX_SCOPE = 4096
#: A shorter beginning of an id is more likely a mistyped name.
MIN_ID_PREFIX = 6

_NAME = re.compile(NAME_PATTERN.removesuffix("$"))
_ID = re.compile(ID_PATTERN.removesuffix("$"))
_NUMBERED = re.compile(r"s([1-9][0-9]{0,8})")


def new_id() -> str:
    """A random id."""
    return secrets.token_hex(ID_BYTES)


def is_id(text: str) -> bool:
    """Whether a text has the form of an id."""
    return _ID.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether a text may be a snapshot's name."""
    return _NAME.fullmatch(text) is not None and ".." not in text and not is_id(text)


def check_name(name: object) -> str:
    """Return the name if it is valid; raises :class:`~fc_kernel.errors.SpecError`."""
    if not isinstance(name, str) or not is_name(name):
        raise SpecError(
            "name",
            name,
            "1 to 64 of A-Z a-z 0-9 . _ -, starting with a letter or digit, without '..', other than 16 hexadecimal digits",
        )
    return name


def is_scope(text: str) -> bool:
    """Whether a text may be a scope."""
    return 0 < len(text) <= MAX_SCOPE and text.isprintable()


def check_scope(scope: object) -> str:
    """Return the scope if it is valid; raises :class:`~fc_kernel.errors.SpecError`."""
    if not isinstance(scope, str) or not is_scope(scope):
        raise SpecError("scope", scope, f"1 to {MAX_SCOPE} printable characters")
    return scope


def next_name(taken: Collection[str]) -> str:
    """``s1``, ``s2``, …: the number after the highest that is taken."""
    numbers = [int(found[1]) for name in taken if (found := _NUMBERED.fullmatch(name))]
    return f"s{max(numbers, default=0) + 1}"
