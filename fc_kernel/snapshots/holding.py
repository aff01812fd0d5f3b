"""Who uses a snapshot's files: each user holds its lock together with others, and ends its hold by ending."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from . import disk


class Hold:
    """A lock that is held until :meth:`close`, or the end of a ``with`` block, or of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go; nothing happens the second time."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def is_free(descriptor: int) -> bool:
    """Whether nobody else holds the lock of this file; if so, it is held alone by ``descriptor`` now."""
    return disk.lock(descriptor)


def holders(descriptor: int) -> list[int]:
    """Process ids of those who hold the lock of this file, as far as the kernel tells."""
    found = os.fstat(descriptor)
    wanted = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return []
    pids = set()
    for line in lines:
        words = line.split()
        if wanted in words and "FLOCK" in words and "->" not in words and int(words[4]) > 0:
            pids.add(int(words[4]))
    return sorted(pids)
