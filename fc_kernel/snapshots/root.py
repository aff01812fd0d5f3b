"""The store's own directory: private, one writer at a time, and what dead writers left in it."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from ..base.verified import VerifiedFiles
from ..errors import SnapshotCorrupt, SnapshotError
from . import disk
from .manifest import LAYER_NAMES, MANIFEST_NAME, MAX_MANIFEST_BYTES, MEM, Manifest
from .naming import is_id
from .snapshot import LOCK_NAME, Snapshot

_HIDDEN = re.compile(r"\.[0-9a-f]{16}\.(partial|removed)")
#: Called before each step of a change, by its name: tests end the process there.
Step = Callable[[str], None]
#: Manifests of a store that are kept in memory: more than most stores have.
MAX_KNOWN = 1000


def no_step(_name: str) -> None:
    """The step of whoever tests nothing."""


def partial_name(snapshot_id: str) -> str:
    """The directory of a snapshot that is being made."""
    return f".{snapshot_id}.partial"


class Root:
    """The directory and its lock. Nothing is made before it is needed."""

    def __init__(self, path: Path, records: VerifiedFiles, step: Step = no_step) -> None:
        self.path = path
        self.records = records
        self.step = step
        self._manifests: dict[str, tuple[tuple[int, ...], Manifest]] = {}

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor of the directory; raises :class:`OSError` when there is none."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if found.st_uid != os.geteuid() or found.st_mode & 0o077:
                raise SnapshotError(
                    f"{self.path} must be a directory of uid {os.geteuid()} with mode 0700; found uid {found.st_uid}, mode "
                    f"{stat.filemode(found.st_mode)}; nothing in it is used"
                )
            yield descriptor
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def locked(self) -> Iterator[int]:
        """As :meth:`opened`, made if need be, for one at a time, of all processes."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.opened() as root:
            lock = os.open(LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=root)
            try:
                disk.lock(lock, wait=True)
                yield root
            finally:
                os.close(lock)

    def names(self, root: int) -> list[str]:
        """Of everything that may be a snapshot."""
        with os.scandir(root) as entries:
            return sorted(entry.name for entry in entries if is_id(entry.name))

    def hidden(self, root: int, ending: str) -> list[str]:
        """Of what is being made (``partial``) or removed."""
        with os.scandir(root) as entries:
            found = (entry.name for entry in entries if _HIDDEN.fullmatch(entry.name))
            return sorted(name for name in found if name.endswith(ending))

    def read(self, root: int, snapshot_id: str, *, anew: bool = False) -> Snapshot:
        """The snapshot of an id. A manifest that is the same file as before is parsed again only if it has to be ``anew``.

        Raises :class:`SnapshotCorrupt`, :class:`~fc_kernel.errors.SnapshotIncompatible`, and :class:`FileNotFoundError`.
        """
        try:
            with disk.directory(snapshot_id, root) as here:
                manifest = self._manifest(snapshot_id, here, anew=anew)
        except FileNotFoundError:
            raise
        except SnapshotCorrupt:
            self.check_there(root, snapshot_id)
            raise
        except OSError as error:
            raise SnapshotCorrupt(snapshot_id, f"it cannot be read: {error.strerror}") from None
        if manifest.id != snapshot_id:
            raise SnapshotCorrupt(MANIFEST_NAME, f"it is of the snapshot {manifest.id}")
        return Snapshot(self.path / snapshot_id, manifest)

    def check_there(self, root: int, snapshot_id: str) -> None:
        """Raises :class:`FileNotFoundError` when it is gone: what is missing of it was removed, and is no damage."""
        os.stat(snapshot_id, dir_fd=root, follow_symlinks=False)

    def _manifest(self, snapshot_id: str, here: int, *, anew: bool) -> Manifest:
        with disk.part(here, MANIFEST_NAME) as descriptor:
            found = os.fstat(descriptor)
        file = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        known = None if anew else self._manifests.get(snapshot_id)
        if known is not None and known[0] == file:
            return known[1]
        manifest = Manifest.from_bytes(disk.read_part(here, MANIFEST_NAME, MAX_MANIFEST_BYTES))
        if len(self._manifests) >= MAX_KNOWN:
            self._manifests.clear()
        self._manifests[snapshot_id] = (file, manifest)
        return manifest

    def remove_tree(self, root: int, name: str) -> None:
        """Remove a directory; digests of files that it shares with others stay known. Raises :class:`OSError`."""
        with ExitStack() as stack:
            shared = []
            with contextlib.suppress(OSError):
                here = stack.enter_context(disk.directory(name, root))
                for part in (MEM, *LAYER_NAMES):
                    with contextlib.suppress(SnapshotCorrupt):
                        shared.append(stack.enter_context(disk.part(here, part)))
            with self.records.kept(shared):
                disk.remove_tree(root, name)

    def sweep(self, root: int) -> list[str]:
        """Remove what dead writers and removers left, under the lock; returns the directories' names."""
        swept = []
        for name in self.hidden(root, ""):
            with ExitStack() as stack:
                if name.endswith(".partial"):
                    try:
                        here = stack.enter_context(disk.directory(name, root))
                        lock = stack.enter_context(disk.part(here, LOCK_NAME, os.O_RDWR))
                    except (OSError, SnapshotCorrupt):
                        # Its maker died before it had it locked, or it is no directory at all.
                        pass
                    else:
                        if not disk.lock(lock):
                            continue
                with contextlib.suppress(OSError):
                    self.remove_tree(root, name)
                    swept.append(name)
        return swept
