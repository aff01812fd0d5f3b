"""Reading small files that others may have made: only a regular file, no more of it than a limit, and never waiting."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_regular(path: Path, most_bytes: int, *, follow: bool = True) -> bytes:
    """The content of a regular file; ``follow`` is whether ``path`` may be a symbolic link.

    Raises :class:`OSError`: also for what is no regular file (a FIFO would make the reader wait for ever) and for one that
    is larger than ``most_bytes``.
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
            # One more than there was, so that a file which grows meanwhile is seen.
            data = file.read(found.st_size + 1)
    finally:
        os.close(descriptor)
    if len(data) > most_bytes:
        raise OSError(errno.EFBIG, f"larger than {most_bytes} bytes", str(path))
    return data
