"""Files of the store: opened below an open directory, never through a link, and only if they are regular files of ours.

Also their locks, and the room that the disk has for them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from ..errors import QuotaExceeded, SnapshotCorrupt, SnapshotError
from ..memory.pages import copy_sparse

_BASE = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
#: The errors of a hard link where a copy still works.
_NO_LINK = frozenset({errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOTSUP, errno.ENOSYS})
#: The errors of a write for which there is no room.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
BLOCK_BYTES = 512
#: Two processes that remove one tree get in each other's way at most once for each file.
REMOVE_TRIES = 100
#: A snapshot may take this part of the expected bytes more: a tenth.
SPARE = 10
#: A monitor that writes beyond RLIMIT_FSIZE is killed by SIGXFSZ: a memory must stay this far below it.
FILE_SPARE_BYTES = 16 << 20


def open_directory(name: str | Path, parent: int | None = None) -> int:
    """Open a directory, but not through a link, and return its descriptor; raises :class:`OSError`."""
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | _BASE, dir_fd=parent)


@contextlib.contextmanager
def directory(name: str | Path, parent: int | None = None) -> Iterator[int]:
    """As :func:`open_directory`, closed afterwards."""
    descriptor = open_directory(name, parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_part(parent: int, name: str, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a regular file of ours that nobody else may write.

    Raises :class:`~fc_kernel.errors.SnapshotCorrupt` for anything else in its place, and when nothing is there.
    """
    try:
        descriptor = os.open(name, flags | _BASE, dir_fd=parent)
    except OSError as error:
        raise _corrupt(name, error) from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise SnapshotCorrupt(name, "it is not a regular file")
        if found.st_uid != os.geteuid() or found.st_mode & 0o022 or not found.st_mode & 0o400:
            mode = stat.filemode(found.st_mode)
            raise SnapshotCorrupt(
                name, f"its mode is {mode} and its owner uid {found.st_uid}; only we may write it, and we must read it"
            )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def part(parent: int, name: str, flags: int = os.O_RDONLY) -> Iterator[int]:
    """As :func:`open_part`, closed afterwards."""
    descriptor = open_part(parent, name, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _corrupt(name: str, error: OSError) -> SnapshotCorrupt | OSError:
    known = {
        errno.ENOENT: "it is missing",
        errno.ELOOP: "it is a link",
        errno.EISDIR: "it is a directory",
        errno.ENXIO: "it is not a regular file",
        errno.EACCES: "it may not be read",
        errno.ENOTDIR: "it is not a directory",
    }
    return SnapshotCorrupt(name, known[error.errno]) if error.errno in known else error


def read_part(parent: int, name: str, most_bytes: int) -> bytes:
    """The content of a small part; raises :class:`SnapshotCorrupt` also when it is larger than ``most_bytes``."""
    with part(parent, name) as descriptor:
        if os.fstat(descriptor).st_size > most_bytes:
            raise SnapshotCorrupt(name, f"it is larger than {most_bytes} bytes")
        data = bytearray()
        while len(data) <= most_bytes and (more := os.read(descriptor, most_bytes + 1 - len(data))):
            data += more
    return bytes(data)


def write_file(parent: int, name: str, data: bytes, *, durable: bool = True) -> None:
    """Write a new file; a ``durable`` one is on the disk when this returns."""
    with new_file(parent, name) as descriptor:
        write_all(descriptor, data)
        os.fchmod(descriptor, 0o400)
        if durable:
            os.fsync(descriptor)


@contextlib.contextmanager
def new_file(parent: int, name: str) -> Iterator[int]:
    """Create a file and yield its descriptor; on an error the caller removes the directory."""
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BASE, 0o600, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of ``data``; raises :class:`OSError`."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def replace_file(parent: int, name: str, data: bytes) -> None:
    """Replace a file's content atomically and durably."""
    staged = f".{name}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(staged, dir_fd=parent)
    try:
        write_file(parent, staged, data)
        os.rename(staged, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(staged, dir_fd=parent)
        raise
    os.fsync(parent)


def link_or_copy(source: int, name: str, target: int, new_name: str) -> bool:
    """Hard-link a file, or copy it where that is not possible; returns whether it was linked."""
    try:
        os.link(name, new_name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
    else:
        return True
    with part(source, name) as old, new_file(target, new_name) as new:
        copy_sparse(old, new, os.fstat(old).st_size)
        os.fchmod(new, os.fstat(old).st_mode & 0o700)
    return False


def remove_tree(parent: int, name: str) -> None:
    """Remove a directory, or whatever is in its place, following no links. Raises :class:`OSError`.

    Another process may be removing it at the same time.
    """
    for _ in range(REMOVE_TRIES):
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                shutil.rmtree(name, dir_fd=parent)
            else:
                os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            if not _exists(parent, name):
                return


def _exists(parent: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def lock(descriptor: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Take a file's lock; returns ``False`` when somebody else has it."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


class Hold:
    """A snapshot's shared lock, held until :meth:`close`, the end of a ``with`` block, or the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock; nothing happens the second time. Does not block."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def holders(descriptor: int) -> list[int]:
    """Ids of the processes that hold the lock of this file, as far as the operating system tells."""
    found = os.fstat(descriptor)
    inode = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return []
    pids = set()
    for line in lines:
        words = line.split()
        if inode in words and "FLOCK" in words and "->" not in words and int(words[4]) > 0:
            pids.add(int(words[4]))
    return sorted(pids)


def stats_of(directory_descriptor: int) -> list[os.stat_result]:
    """The status of everything in a directory."""
    found = []
    with os.scandir(directory_descriptor) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                found.append(entry.stat(follow_symlinks=False))
    return found


def real_bytes(found: os.stat_result) -> int:
    """What a file takes on the disk."""
    return found.st_blocks * BLOCK_BYTES


def check_room(directory_descriptor: int, *, expected_bytes: int, promised_bytes: int, min_free_bytes: int) -> None:
    """Check that the disk and this process's limits leave room; raises :class:`~fc_kernel.errors.QuotaExceeded`.

    ``promised_bytes`` is what other drafts may still write.
    """
    found = os.fstatvfs(directory_descriptor)
    free = found.f_bavail * found.f_frsize - promised_bytes
    if expected_bytes + expected_bytes // SPARE + min_free_bytes > free:
        raise QuotaExceeded(
            f"the snapshot needs {mib(expected_bytes)}, and {mib(min_free_bytes)} must stay free; the disk has "
            f"{mib(max(0, free))}; remove snapshots, or make room"
        )
    most, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if most != resource.RLIM_INFINITY and expected_bytes + FILE_SPARE_BYTES > most:
        raise QuotaExceeded(
            f"the limit on the size of a file (ulimit -f) is {mib(most)}, and the snapshot needs "
            f"{mib(expected_bytes)}; raise it"
        )


def mib(size_bytes: int) -> str:
    """A size as errors show it."""
    return f"{size_bytes / (1 << 20):.0f} MiB"


@contextlib.contextmanager
def explained(doing: str, *, but: type[OSError] | None = None) -> Iterator[None]:
    """Turn an :class:`OSError` into one of the package's errors, which says ``doing``; the kind ``but`` passes."""
    try:
        yield
    except OSError as error:
        if but is not None and isinstance(error, but):
            raise
        if error.errno in FULL:
            raise QuotaExceeded(
                f"cannot {doing}: {error.strerror}; remove snapshots, or make room on the disk"
            ) from error
        raise SnapshotError(f"cannot {doing}: {error.strerror or error}") from error
