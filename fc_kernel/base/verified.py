"""Digests of files that have not changed since they were hashed, so that a start need not read half a gigabyte again.

A record holds for one file in one state: device, inode, size, mtime and ctime. Content that changes without any of these
(a failing disk, a write to the raw device) is found when the record expires, or by ``fc-kernel image show``.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

FILE_NAME = "digests.json"
#: Bounds how long a change that leaves no trace in the inode stays unnoticed.
VALID_FOR_S = 24 * 3600
#: A file that changed this recently may change again within the same clock tick of its inode, unnoticed.
SETTLED_AFTER_S = 2
#: Longer than a tick of Linux's clock (10 ms at 100 Hz): a later change has another time in its inode.
TICK_S = 0.02
#: Room for a few files of each image or snapshot; we write no larger file of records.
MAX_FILE_BYTES = 1 << 20

Records = dict[str, tuple[str, float]]


class VerifiedFiles:
    """Digests of recently hashed files, recorded in one file of a cache directory."""

    def __init__(self, cache_dir: Path, name: str = FILE_NAME) -> None:
        self._path = cache_dir / name

    def sha256_of(self, path: Path) -> str:
        """SHA-256 of a file, from its record if it is unchanged since; raises :class:`OSError`."""
        with path.open("rb") as file:
            return self.digest_of(file.fileno())

    def digest_of(
        self, descriptor: int, digest: Callable[[int], str] | None = None, *, kind: str = "", patient: bool = False
    ) -> str:
        """As :meth:`sha256_of`, of an open file that is at its start.

        ``digest`` replaces SHA-256; ``kind`` is its name in the records and ends with a slash. With ``patient``, a file
        that has just changed is recorded too, after a short wait.
        """
        before = os.fstat(descriptor)
        if known := self._read().get(kind + _key(before)):
            return known[0]
        # A file system whose times are whole seconds: one tick is too short there.
        patient = patient and before.st_ctime_ns % 10**9 != 0
        if patient and abs(time.time() - before.st_ctime) <= TICK_S:
            time.sleep(TICK_S)
        found = (digest or _sha256)(descriptor)
        after = os.fstat(descriptor)
        settled = patient or time.time() - after.st_ctime > SETTLED_AFTER_S
        if settled and _key(after) == _key(before):
            with self._locked():
                self._write({**self._read(), kind + _key(after): (found, time.time())})
        return found

    @contextlib.contextmanager
    def kept(self, descriptors: Iterable[int]) -> Iterator[None]:
        """Keep the records valid while the block changes the files' inodes but not their content (links, names, modes)."""
        with self._locked():
            records = self._read()
            before = {descriptor: os.fstat(descriptor) for descriptor in descriptors} if records else {}
            try:
                yield
            finally:
                moved: Records = {}
                for descriptor, was in before.items():
                    now = os.fstat(descriptor)
                    same = (now.st_size, now.st_mtime_ns) == (was.st_size, was.st_mtime_ns)
                    for key in _records_of(records, was):
                        # No name is left: nobody can open the file any more.
                        if same and now.st_nlink and _key(now) != _key(was):
                            moved[key.removesuffix(_key(was)) + _key(now)] = records.pop(key)
                if moved:
                    self._write({**records, **moved})

    def _read(self) -> Records:
        """The records that are still valid; none if anybody else could have written them."""
        try:
            with os.fdopen(os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
                    return {}
                said = json.loads(file.read(MAX_FILE_BYTES))
            now = time.time()
            return {
                str(key): (str(digest), float(at))
                for key, (digest, at) in said.items()
                if 0 <= now - float(at) < VALID_FOR_S
            }
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return {}

    def _write(self, records: Records) -> None:
        # Everything works without the records, only slower.
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, staged = tempfile.mkstemp(dir=self._path.parent)
            try:
                with os.fdopen(descriptor, "w") as file:
                    json.dump(records, file)
                Path(staged).replace(self._path)
            except BaseException:
                Path(staged).unlink(missing_ok=True)
                raise

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the records, so that no update is lost; without a directory there are no records."""
        lock = -1
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            if lock >= 0:
                os.close(lock)


def _sha256(descriptor: int) -> str:
    with open(descriptor, "rb", closefd=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _key(found: os.stat_result) -> str:
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"


def _records_of(records: Records, found: os.stat_result) -> list[str]:
    """The keys of all records of a file."""
    return [key for key in records if key.rpartition("/")[2] == _key(found)]
