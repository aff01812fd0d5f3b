"""The directory in which an image is built: its builder locks it, and it is removed when the builder is dead."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

PREFIX = ".building-"
#: An image that is being removed; nobody uses it any more.
REMOVED_PREFIX = ".removed-"

RemoveTree = Callable[[Path], None]


@contextlib.contextmanager
def staging_dir(root: Path, remove_tree: RemoveTree) -> Iterator[Path]:
    """A new directory in ``root``, removed after the block; after a SIGKILL the next :func:`sweep` removes it."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        lock = _open(path)
        if lock is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.is_dir():
                break
            # A sweeper came between our two steps, and took the directory for a dead builder's.
            os.close(lock)
    try:
        yield path
    finally:
        try:
            remove_tree(path)
        finally:
            os.close(lock)


def sweep(root: Path, remove_tree: RemoveTree) -> None:
    """Remove what killed builders and removers left in ``root``; a live builder's directory is locked."""
    for path in [*root.glob(f"{REMOVED_PREFIX}*"), *root.glob(f"{PREFIX}*")]:
        lock = _open(path)
        if lock is None:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(path)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
