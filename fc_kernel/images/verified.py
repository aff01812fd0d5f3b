"""Which files were hashed lately and are unchanged since, so that a start need not read half a gigabyte again.

A record holds for one file in one state: device, inode, size, and the times of the last change of its content and of its
inode. Content that changed with none of these changing (a failing disk, someone writing to the raw device) is found when
the record has expired, or by ``fc-kernel image show``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
import time
from pathlib import Path

FILE_NAME = "digests.json"
#: Bounds for how long a change that left no trace in the inode stays unseen.
VALID_FOR_S = 24 * 3600
#: A file that changed this recently may change again within the clock tick of its inode, unseen.
SETTLED_AFTER_S = 2
#: Three files an image; a file larger than this is not ours.
MAX_FILE_BYTES = 1 << 20

Records = dict[str, tuple[str, float]]


class VerifiedFiles:
    """The records in a cache directory."""

    def __init__(self, cache_dir: Path) -> None:
        self._path = cache_dir / FILE_NAME

    def sha256_of(self, path: Path) -> str:
        """SHA-256 of a file, from its record if it is unchanged since; raises :class:`OSError`."""
        records = self._read()
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            key = _key(before)
            if key in records:
                return records[key][0]
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            after = os.fstat(file.fileno())
        settled = time.time() - after.st_ctime > SETTLED_AFTER_S
        if settled and _key(after) == key:
            self._write({**records, key: (digest, time.time())})
        return digest

    def _read(self) -> Records:
        """The records that are still valid; none at all if anybody else could have written them."""
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
        # Without the records everything works as well, only slower.
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


def _key(found: os.stat_result) -> str:
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"
