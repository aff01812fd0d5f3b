"""Reading small files that others may have written: only regular files, only up to a limit, and never blocking."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_regular(path: Path, most_bytes: int, *, follow: bool = True) -> bytes:
    """The content of a regular file; ``follow`` is whether ``path`` may be a symbolic link.

    Raises :class:`OSError`, also when it is not a regular file (a FIFO would block the reader for ever) or is larger than
    ``most_bytes``.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if found.st_size > most_bytes:
            raise OSError(errno.EFBIG, f"larger than {most_bytes} bytes", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            # One byte more than the size, so that a file that grows meanwhile is noticed.
            data = file.read(found.st_size + 1)
    finally:
        os.close(descriptor)
    if len(data) > most_bytes:
        raise OSError(errno.EFBIG, f"larger than {most_bytes} bytes", str(path))
    return data
