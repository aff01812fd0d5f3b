"""Where files live on the host: run directories, images, caches; and the checks that keep a run directory private."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import stat
import time
from pathlib import Path

from ..errors import RunDirError

#: ``sun_path`` has 108 bytes with the closing NUL (``man 7 unix``).
MAX_SOCKET_PATH_BYTES = 107
#: The longest file name of a socket in a run directory, with the slash before it.
LONGEST_SOCKET_NAME = 16
LOCK_NAME = "owner.lock"
#: A directory without its lock is being created or removed, which takes milliseconds, or its owner died while doing so.
UNLOCKED_AGE_S = 60.0


def runtime_dir() -> Path:
    """The directory at :func:`runtime_path`.

    It is created with mode 0700. Raises :class:`~fc_kernel.errors.RunDirError` if others can use it, or if its path is too
    long for a socket in it.
    """
    return private_dir(runtime_path())


def private_dir(path: Path) -> Path:
    """The directory of all run directories, created if missing; raises as :func:`runtime_dir`."""
    longest = len(os.fsencode(path)) + 1 + VM_ID_BYTES * 2 + LONGEST_SOCKET_NAME
    if longest > MAX_SOCKET_PATH_BYTES:
        raise RunDirError(
            f"the run directory {str(path)!r} is too deep: a Unix socket's path has at most {MAX_SOCKET_PATH_BYTES} bytes, "
            f"and {longest} would be needed; set FC_KERNEL_RUNTIME_DIR to a shorter path"
        )
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise RunDirError(f"cannot make the run directory {str(path)!r}: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise RunDirError(
            f"the run directory {str(path)!r} must be a directory of uid {os.geteuid()} with mode 0700; found "
            f"uid {found.st_uid}, mode {stat.filemode(found.st_mode)}; remove it, or set FC_KERNEL_RUNTIME_DIR"
        )
    return path


def runtime_path() -> Path:
    """Where run directories are: ``FC_KERNEL_RUNTIME_DIR``, or in ``XDG_RUNTIME_DIR``, or in ``/tmp``. Not checked here."""
    if chosen := os.environ.get("FC_KERNEL_RUNTIME_DIR"):
        return Path(chosen).absolute()
    if session := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(session) / "fc-kernel"
    return Path(f"/tmp/fc-kernel-{os.geteuid()}")  # noqa: S108 - checked for its owner and mode above


def data_dir() -> Path:
    """Directory of images and installed monitors: ``FC_KERNEL_DATA_DIR``, or as XDG defines it. Not created here."""
    return _xdg("FC_KERNEL_DATA_DIR", "XDG_DATA_HOME", ".local/share")


def cache_dir() -> Path:
    """Directory of files that can be rebuilt: ``FC_KERNEL_CACHE_DIR``, or as XDG defines it. Not created here."""
    return _xdg("FC_KERNEL_CACHE_DIR", "XDG_CACHE_HOME", ".cache")


def _xdg(ours: str, theirs: str, below_home: str) -> Path:
    if chosen := os.environ.get(ours):
        return Path(chosen).absolute()
    base = os.environ.get(theirs)
    return (Path(base) if base else Path.home() / below_home) / "fc-kernel"


VM_ID_BYTES = 4


def new_vm_id() -> str:
    """A random id: 8 hexadecimal digits, so that socket paths stay short."""
    return secrets.token_hex(VM_ID_BYTES)


class RunDir:
    """The private directory of one VM, locked by the process that owns it for as long as that process lives."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def create(cls, run_dir: Path, vm_id: str) -> RunDir:
        """Create a directory below ``run_dir``; raises :class:`~fc_kernel.errors.RunDirError`."""
        path = private_dir(run_dir) / vm_id
        # It gets its name once the lock is held: a reaper would take a directory without one for an orphan's.
        staged = path.with_name(f".{vm_id}")
        try:
            staged.mkdir(mode=0o700)
            with contextlib.ExitStack() as undo:
                undo.callback(shutil.rmtree, staged, ignore_errors=True)
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
                lock = os.open(staged / LOCK_NAME, flags, 0o600)
                undo.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                staged.rename(path)
                undo.pop_all()
        except OSError as error:
            raise RunDirError(f"cannot make the run directory {str(path)!r}: {error.strerror}") from error
        return cls(path, lock)

    def remove(self) -> None:
        """Remove the directory and release the lock; may be called twice."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def owner_is_dead(path: Path) -> int | None:
    """Take the lock of a run directory whose owner is gone: its descriptor, or ``None`` while an owner lives.

    A directory without a lock file is left from an unfinished removal, one without its final name is being created; after
    a minute both count as orphans. Where there is no lock file, the directory itself is locked.
    """
    try:
        young = abs(time.time() - path.lstat().st_mtime) < UNLOCKED_AGE_S
        lock = None if young and path.name.startswith(".") else _open(path / LOCK_NAME, os.O_RDWR)
        if lock is None and not young:
            lock = _open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None  # unknown, for example for want of descriptors
    if lock is None:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        removed = os.fstat(lock).st_nlink == 0
    except OSError:
        removed = True
    if removed:
        # Its owner or another reaper removed it after we had opened it.
        os.close(lock)
        return None
    return lock


def _open(path: Path, flags: int) -> int | None:
    """A descriptor; ``None`` where the path does not exist or is of another kind."""
    try:
        return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENXIO):
            return None
        raise
