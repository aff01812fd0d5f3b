"""The directory in which an image is built: locked by its builder, and swept away when the builder is dead."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

PREFIX = ".building-"
#: A removed image, on its way out; nobody looks into it any more.
REMOVED_PREFIX = ".removed-"

RemoveTree = Callable[[Path], None]


@contextlib.contextmanager
def staging_dir(root: Path, remove_tree: RemoveTree) -> Iterator[Path]:
    """A fresh directory in ``root`` that is gone afterwards, whatever happens but SIGKILL; then the next sweep takes it."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        lock = _open(path)
        if lock is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.is_dir():
                break
            # A sweeper was between our two steps, and took it for a dead one's.
            os.close(lock)
    try:
        yield path
    finally:
        try:
            remove_tree(path)
        finally:
            os.close(lock)


def sweep(root: Path, remove_tree: RemoveTree) -> None:
    """Remove what killed builders and removers left in ``root``; a living builder holds its lock."""
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
