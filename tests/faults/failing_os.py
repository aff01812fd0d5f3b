"""The operating system as the store sees it, failing at a chosen call."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from fc_kernel.memory import digest, pages
from fc_kernel.snapshots import archive, disk, draft, export, layering, root, store

MODULES: list[ModuleType] = [archive, digest, disk, draft, export, layering, root, store, pages]
#: The functions that change something on the disk,
CHANGES = frozenset(
    {"open", "write", "pwrite", "fsync", "link", "rename", "unlink", "mkdir", "fchmod", "ftruncate", "utime"}
    | {"copy_file_range", "rmdir"}
)
#: and those that need room there.
NEEDS_ROOM = frozenset({"write", "pwrite", "fsync", "link", "mkdir", "ftruncate", "copy_file_range"})


class FailingOs:
    """``os`` whose call number ``at`` first runs ``fault``; with ``lasting`` every later call of its kind does, too."""

    def __init__(
        self, at: int, fault: Callable[[str], object], *, calls: frozenset[str] = CHANGES, lasting: bool = False
    ) -> None:
        self._at, self._fault, self._calls, self._lasting = at, fault, calls, lasting
        self.count = 0
        #: The call that failed.
        self.failed = ""

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self._calls:
            return real

        def call(*args: Any, **more: Any) -> Any:
            self.count += 1
            if self.count == self._at or (self._lasting and self.count > self._at):
                self.failed = self.failed or name
                self._fault(name)
            return real(*args, **more)

        return call


def install(patch: pytest.MonkeyPatch, failing: FailingOs) -> None:
    """Put it in place of the store's ``os``."""
    for module in MODULES:
        if hasattr(module, "os"):
            patch.setattr(module, "os", failing)
