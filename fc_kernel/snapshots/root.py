"""The store's directory: private, changed by one process at a time. What it holds, who owns that, what dead writers left."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from ..base.verified import VerifiedFiles
from ..errors import SnapshotCorrupt, SnapshotError
from ..memory.digest import memory_digest
from ..settings.spec import Frozen
from . import disk
from .manifest import LAYER_NAMES, MANIFEST_NAME, MAX_MANIFEST_BYTES, MEM, Manifest
from .naming import is_id
from .snapshot import LOCK_NAME, Snapshot

_HIDDEN = re.compile(r"\.[0-9a-f]{16}\.(partial|removed)")
RESERVED_NAME = "reserved.json"
MAX_RESERVED_BYTES = 64 << 10
#: Called with its name before each step of a change; tests end the process there.
Step = Callable[[str], None]
Kind = Literal["snapshot", "template"]
#: Manifests of a store that are kept in memory: more than most stores have.
MAX_KNOWN = 1000


def no_step(_name: str) -> None:
    """Does nothing; the default."""


def partial_name(snapshot_id: str) -> str:
    """The directory of a snapshot that is being made."""
    return f".{snapshot_id}.partial"


def removed_name(snapshot_id: str) -> str:
    """The directory of a snapshot that is being removed."""
    return f".{snapshot_id}.removed"


class Reservation(Frozen):
    """What a draft will become; whoever begins another meanwhile reads it."""

    name: str
    scope: str
    owner: str
    expected_bytes: int

    @classmethod
    def read(cls, directory: int) -> Reservation | None:
        """The reservation in a draft's directory; ``None`` when it has none."""
        try:
            return cls.model_validate_json(disk.read_part(directory, RESERVED_NAME, MAX_RESERVED_BYTES))
        except (OSError, ValidationError, SnapshotCorrupt):
            return None


class Root:
    """The directory and its lock, seen by one owner. Nothing is made before it is needed."""

    def __init__(self, path: Path, records: VerifiedFiles, *, owner: str, kind: Kind, step: Step = no_step) -> None:
        self.path = path
        self.records = records
        self.owner = owner
        self.kind: Kind = kind
        self.step = step
        #: By id: the state of the manifest's file, and what was read from it.
        self._known: dict[str, tuple[tuple[int, ...], Snapshot]] = {}

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
        """As :meth:`opened`, but made if need be, and locked against all other processes.

        Long work does not belong here: what is removed is renamed under the lock and its files are removed afterwards.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.opened() as root:
            lock = os.open(LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=root)
            try:
                disk.lock(lock, wait=True)
                yield root
            finally:
                os.close(lock)

    def names(self, root: int) -> list[str]:
        """Names of all directories that may be snapshots, whoever owns them."""
        with os.scandir(root) as entries:
            return sorted(entry.name for entry in entries if is_id(entry.name))

    def hidden(self, root: int, ending: str = "") -> list[str]:
        """Names of the directories of what is being made (``partial``) or removed (``removed``)."""
        with os.scandir(root) as entries:
            found = (entry.name for entry in entries if _HIDDEN.fullmatch(entry.name))
            return sorted(name for name in found if name.endswith(ending))

    def sound(self, root: int) -> list[Snapshot]:
        """The owner's snapshots that can be read, oldest first."""
        names = self.names(root)
        for gone in self._known.keys() - set(names):
            self.forget(gone)
        found = []
        for name in names:
            with contextlib.suppress(SnapshotError, FileNotFoundError):
                snapshot = self.read(root, name)
                if snapshot.kind == self.kind:
                    found.append(snapshot)
        return sorted(found, key=lambda snapshot: (snapshot.created, snapshot.id))

    def drafts(self, root: int) -> Iterator[tuple[Reservation, int]]:
        """The owner's drafts, and how many bytes of each are written."""
        for name in self.hidden(root, "partial"):
            with contextlib.suppress(OSError), disk.directory(name, root) as here:
                reserved = Reservation.read(here)
                if reserved is not None and reserved.owner == self.owner:
                    written = sum(disk.real_bytes(found) for found in disk.stats_of(here) if found.st_nlink == 1)
                    yield reserved, written

    def counted(self, root: int) -> list[str]:
        """Names of the owner's snapshots, and of those whose owner cannot be told."""
        return [name for name in self.names(root) if not self._is_of_another(root, name)]

    def _is_of_another(self, root: int, name: str) -> bool:
        try:
            self.read(root, name)
        except FileNotFoundError:
            return True
        except (SnapshotError, OSError):
            return False
        return False

    def used_bytes(self, root: int) -> int:
        """What the owner's snapshots and drafts take on the disk; shared files count once."""
        inodes: dict[tuple[int, int], int] = {}
        for name in (*self.counted(root), *self.hidden(root)):
            with contextlib.suppress(OSError), disk.directory(name, root) as here:
                reserved = Reservation.read(here)
                if reserved is None or reserved.owner == self.owner:
                    stats = disk.stats_of(here)
                    inodes.update({(found.st_dev, found.st_ino): disk.real_bytes(found) for found in stats})
        return sum(inodes.values())

    def read(self, root: int, snapshot_id: str, *, anew: bool = False) -> Snapshot:
        """The snapshot with that id. A manifest whose file is unchanged is parsed again only with ``anew``.

        Raises :class:`SnapshotCorrupt`, :class:`~fc_kernel.errors.SnapshotIncompatible`, and :class:`FileNotFoundError`,
        also for one of another owner.
        """
        try:
            with disk.directory(snapshot_id, root) as here:
                snapshot = self._snapshot(snapshot_id, here, anew=anew)
        except FileNotFoundError:
            raise
        except SnapshotCorrupt:
            self.check_there(root, snapshot_id)
            raise
        except OSError as error:
            raise SnapshotCorrupt(snapshot_id, f"it cannot be read: {error.strerror}") from None
        if snapshot.id != snapshot_id:
            raise SnapshotCorrupt(MANIFEST_NAME, f"it belongs to the snapshot {snapshot.id}")
        if snapshot.owner != self.owner:
            raise FileNotFoundError(snapshot_id)
        return snapshot

    def check_there(self, root: int, snapshot_id: str) -> None:
        """Raise :class:`FileNotFoundError` when it is gone: then missing files were removed, and nothing is damaged."""
        os.stat(snapshot_id, dir_fd=root, follow_symlinks=False)

    def _snapshot(self, snapshot_id: str, here: int, *, anew: bool) -> Snapshot:
        with disk.part(here, MANIFEST_NAME) as descriptor:
            found = os.fstat(descriptor)
        file = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        known = None if anew else self._known.get(snapshot_id)
        if known is not None and known[0] == file:
            return known[1]
        manifest = Manifest.from_bytes(disk.read_part(here, MANIFEST_NAME, MAX_MANIFEST_BYTES))
        snapshot = Snapshot(self.path / snapshot_id, manifest)
        self.remember(snapshot, file)
        return snapshot

    def remember(self, snapshot: Snapshot, file: tuple[int, ...] = ()) -> None:
        """Keep a snapshot in memory, for :meth:`known`."""
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        _ = snapshot.added_bytes  # looked up now, in the thread that reads files
        self._known[snapshot.id] = (file, snapshot)

    def forget(self, snapshot_id: str) -> None:
        """Drop a snapshot from memory: it is gone."""
        self._known.pop(snapshot_id, None)

    def known(self) -> list[Snapshot]:
        """The owner's snapshots as they were last read. Reads no file."""
        return [snapshot for _, snapshot in list(self._known.values()) if snapshot.owner == self.owner]

    def digest_of(self, descriptor: int, name: str) -> str:
        """The digest of a part, remembered while the file is unchanged."""
        if name == MEM:
            return self.records.digest_of(descriptor, memory_digest, kind="memory/", patient=True)
        return self.records.digest_of(descriptor, patient=True)

    def remove_tree(self, root: int, name: str) -> None:
        """Remove a directory; digests of files that it shares with others stay known. Raises :class:`OSError`.

        May take long: do not call it under the lock.
        """
        with ExitStack() as stack:
            with contextlib.suppress(OSError):
                here = stack.enter_context(disk.directory(name, root))
                shared = {}
                for part in (MEM, *LAYER_NAMES):
                    with contextlib.suppress(SnapshotCorrupt):
                        descriptor = stack.enter_context(disk.part(here, part))
                        if os.fstat(descriptor).st_nlink > 1:
                            shared[part] = descriptor
                # Only names are removed here, which is quick: the records are locked meanwhile.
                with self.records.kept(shared.values()):
                    for part in shared:
                        os.unlink(part, dir_fd=here)
            disk.remove_tree(root, name)

    def sweep(self) -> list[str]:
        """Remove what dead writers and removers left; returns the names of the directories. Takes the lock for a moment."""
        swept = []
        with self.locked() as root:
            left = {name: name for name in self.hidden(root, "removed")}
            for name in self.hidden(root, "partial"):
                if self._is_abandoned(root, name):
                    removed = name.replace("partial", "removed")
                    with contextlib.suppress(OSError):
                        os.rename(name, removed, src_dir_fd=root, dst_dir_fd=root)
                        left[removed] = name
        with self.opened() as root:
            for removed, name in left.items():
                with contextlib.suppress(OSError):
                    self.remove_tree(root, removed)
                    swept.append(name)
        return sorted(swept)

    def _is_abandoned(self, root: int, partial: str) -> bool:
        """Whether nobody is making this draft any more."""
        try:
            with disk.directory(partial, root) as here, disk.part(here, LOCK_NAME, os.O_RDWR) as lock:
                return disk.lock(lock)
        except (OSError, SnapshotCorrupt):
            # Its maker died before locking it, or it is not a directory.
            return True


def lineage(snapshots: Iterable[Snapshot], snapshot: Snapshot) -> tuple[Snapshot, ...]:
    """A snapshot and those of its ancestors that are among ``snapshots``, oldest first."""
    by_id = {each.id: each for each in snapshots}
    line = [by_id.get(snapshot.id, snapshot)]
    while (parent := line[0].parent) in by_id and all(each.id != parent for each in line):
        line.insert(0, by_id[parent])
    return tuple(line)
