"""The snapshot store: a directory for each snapshot, published whole by a rename, shared by all servers of a user."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from ..base.verified import VerifiedFiles
from ..errors import (
    SnapshotCorrupt,
    SnapshotError,
    SnapshotExists,
    SnapshotIncompatible,
    SnapshotInUse,
    SnapshotNotFound,
)
from . import disk, finding, holding
from .check import check_parts
from .compat import Host, check_host
from .draft import RESERVED_NAME, Draft, Kind, Reservation
from .holding import Hold
from .limits import StoreLimits, check_room
from .manifest import MANIFEST_NAME, Manifest, ManifestDraft, seal
from .naming import check_name, check_scope, is_id, new_id, next_name
from .root import Root, Step, no_step, partial_name
from .snapshot import LOCK_NAME, Snapshot

#: Of what makes a manifest what it is; what a change of name or description makes anew.
_DERIVED = {"checksum"}

Named = Snapshot | Reservation
#: Of which a method takes the name.
list_of = list


class SnapshotStore:
    """One owner's snapshots in ``root``; nothing outside it is ever opened.

    Those of another owner in the same directory are not found, listed, counted or changed. Methods block for a moment and
    may be called from any thread. ``records`` remembers digests; stores that share files share it.
    """

    kind: Kind = "snapshot"

    def __init__(
        self,
        root: Path,
        limits: StoreLimits | None = None,
        *,
        owner: str,
        records: VerifiedFiles,
        step: Step = no_step,
    ) -> None:
        self.owner = owner
        self.limits = limits or StoreLimits()
        self._root = Root(root, records, step)

    @property
    def root(self) -> Path:
        """The store's directory; it is made when it is needed."""
        return self._root.path

    def begin(self, *, name: str | None, scope: str, expected_bytes: int) -> Draft:
        """Reserve a name and see that there is room, before the machine is paused. ``None`` is the next of s1, s2, ….

        Raises :class:`~fc_kernel.errors.SpecError`, :class:`~fc_kernel.errors.SnapshotExists`, also for a name that another
        is making, and :class:`~fc_kernel.errors.QuotaExceeded`.
        """
        check_scope(scope)
        if name is not None:
            check_name(name)
        with disk.explained("begin a snapshot"), self._root.locked() as root:
            self._root.sweep(root)
            drafts = list(self._drafts(root))
            others: list_of[Named] = [*self._sound(root), *(draft for draft, _ in drafts)]
            taken = {each.name for each in others if each.scope == scope}
            if name is None:
                name = next_name(taken)
            if name in taken:
                raise SnapshotExists(f"there is a snapshot {name!r} already; choose another name, or remove it first")
            check_room(
                self.limits,
                root,
                count=len(self._counted(root)) + len(drafts),
                used_bytes=self._used_bytes(root),
                expected_bytes=expected_bytes,
                drafts_bytes=sum(max(0, draft.expected_bytes - written) for draft, written in drafts),
            )
            return self._reserve(
                root, Reservation(name=name, scope=scope, owner=self.owner, expected_bytes=expected_bytes)
            )

    def _reserve(self, root: int, reserved: Reservation) -> Draft:
        snapshot_id = new_id()
        partial = partial_name(snapshot_id)
        with ExitStack() as undo:
            self._root.step("make")
            os.mkdir(partial, 0o700, dir_fd=root)
            undo.callback(self._undo_reserve, root, partial)
            with disk.directory(partial, root) as here:
                self._root.step("lock")
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                lock = os.open(LOCK_NAME, flags, 0o600, dir_fd=here)
                undo.callback(os.close, lock)
                if not disk.lock(lock):
                    raise SnapshotError("the new snapshot is locked by somebody else")
                self._root.step("reserve")
                disk.write_file(here, RESERVED_NAME, reserved.model_dump_json().encode(), durable=False)
            undo.pop_all()
        return Draft(self._root, snapshot_id, self.kind, reserved, lock)

    def _undo_reserve(self, root: int, partial: str) -> None:
        with contextlib.suppress(OSError):
            disk.remove_tree(root, partial)

    def list(self, *, scope: str | None = None) -> list[Snapshot]:
        """Those that are complete and can be read, oldest first."""
        try:
            with self._opened() as root:
                return finding.of(self._sound(root), scope)
        except FileNotFoundError:
            return []

    def broken(self) -> list_of[tuple[str, SnapshotError]]:
        """Ids of those whose manifest cannot be used, and why not."""
        found: list_of[tuple[str, SnapshotError]] = []
        with contextlib.suppress(FileNotFoundError), self._opened() as root:
            for name in self._root.names(root):
                try:
                    self._root.read(root, name)
                except SnapshotError as error:
                    found.append((name, error))
                except FileNotFoundError:
                    continue
        return found

    def get(self, ref: str, *, scope: str | None = None) -> Snapshot:
        """By name within the scope, or id, or an id's beginning of at least 6 digits.

        Raises :class:`~fc_kernel.errors.SnapshotNotFound`, also where it could be several, and for an id what keeps it from
        being read.
        """
        try:
            with self._opened() as root:
                snapshots = finding.of(self._sound(root), scope)
                try:
                    return finding.find(snapshots, ref)
                except SnapshotNotFound:
                    # Says what is wrong with it.
                    if is_id(ref) and scope is None:
                        with contextlib.suppress(FileNotFoundError):
                            self._root.read(root, ref)
                    raise
        except FileNotFoundError:
            raise SnapshotNotFound(f"there is no snapshot {ref!r}, and no other") from None

    def rename(self, snapshot: Snapshot, name: str) -> Snapshot:
        """Give it another name; raises as :meth:`begin`, and :class:`~fc_kernel.errors.SnapshotNotFound`."""
        return self._rewrite(snapshot, name=check_name(name))

    def describe(self, snapshot: Snapshot, text: str) -> Snapshot:
        """Give it another description; raises :class:`~fc_kernel.errors.SnapshotNotFound`."""
        return self._rewrite(snapshot, description=text)

    def _rewrite(self, snapshot: Snapshot, **changes: str) -> Snapshot:
        with self._changing(f"change the snapshot {snapshot.name!r}", snapshot) as root:
            found = self._own(root, snapshot.id)
            if (name := changes.get("name")) is not None:
                others: list_of[Named] = [other for other in self._sound(root) if other.id != found.id]
                others += [draft for draft, _ in self._drafts(root)]
                if any(each.name == name and each.scope == found.scope for each in others):
                    raise SnapshotExists(
                        f"there is a snapshot {name!r} already; choose another name, or remove it first"
                    )
            own = Manifest.model_fields.keys() - _DERIVED - ManifestDraft.model_fields.keys()
            fields = {name: getattr(found.manifest, name) for name in own}
            manifest = seal(found.manifest.model_copy(update=changes), **{**fields, **changes})
            self._root.step("rewrite")
            with disk.directory(snapshot.id, root) as here:
                disk.replace_file(here, MANIFEST_NAME, manifest.to_bytes())
            return Snapshot(found.directory, manifest)

    def delete(self, snapshot: Snapshot | str, *, force: bool = False) -> None:
        """Remove it, or a broken one by its id; other snapshots keep what they share with it.

        Raises :class:`~fc_kernel.errors.SnapshotInUse` when somebody holds it, unless ``force``: a VM that runs from it
        keeps its files open. Raises :class:`~fc_kernel.errors.SnapshotNotFound`.
        """
        snapshot_id = snapshot if isinstance(snapshot, str) else snapshot.id
        shown = snapshot if isinstance(snapshot, str) else snapshot.name
        if not is_id(snapshot_id):
            raise SnapshotNotFound(f"there is no snapshot of the id {snapshot_id!r}")
        with self._changing(f"remove the snapshot {shown!r}", snapshot) as root:
            with contextlib.suppress(SnapshotCorrupt, SnapshotIncompatible):
                self._own(root, snapshot_id)
            self._delete(root, snapshot_id, shown, force=force)

    def _delete(self, root: int, snapshot_id: str, shown: str, *, force: bool) -> None:
        with ExitStack() as stack:
            # What has no lock, or is no directory, is in nobody's use.
            with contextlib.suppress(SnapshotCorrupt, NotADirectoryError):
                here = stack.enter_context(disk.directory(snapshot_id, root))
                lock = stack.enter_context(disk.part(here, LOCK_NAME, os.O_RDWR))
                if not holding.is_free(lock) and not force:
                    pids = ", ".join(str(pid) for pid in holding.holders(lock))
                    by = f" by process {pids}" if pids else ""
                    raise SnapshotInUse(f"the snapshot {shown!r} is in use{by}; end the kernels that run from it first")
            # First out of sight, so that half a snapshot is never seen; a removal that is killed is completed by a sweep.
            removed = f".{snapshot_id}.removed"
            self._root.step("hide")
            os.rename(snapshot_id, removed, src_dir_fd=root, dst_dir_fd=root)
            os.fsync(root)
            self._root.step("remove")
            self._root.remove_tree(root, removed)

    def hold(self, snapshot: Snapshot) -> Hold:
        """Keep it from being removed until the hold is closed; raises :class:`~fc_kernel.errors.SnapshotNotFound`."""
        with self._changing(f"hold the snapshot {snapshot.name!r}", snapshot) as root, ExitStack() as undo:
            if snapshot.owner != self.owner:
                raise _gone(snapshot.name)
            with disk.directory(snapshot.id, root) as here:
                lock = disk.open_part(here, LOCK_NAME, os.O_RDWR)
            undo.callback(os.close, lock)
            if not disk.lock(lock, shared=True):
                raise SnapshotInUse(f"the snapshot {snapshot.name!r} is locked by process {holding.holders(lock)}")
            # When it was last used.
            os.utime(lock)
            undo.pop_all()
            return Hold(lock)

    def in_use(self, snapshot: Snapshot) -> bool:
        """Whether somebody holds it."""
        with self._changing("look at a snapshot", snapshot) as root:
            return self._is_held(root, snapshot.id)

    def _is_held(self, root: int, snapshot_id: str) -> bool:
        try:
            with disk.directory(snapshot_id, root) as here, disk.part(here, LOCK_NAME, os.O_RDWR) as lock:
                return not holding.is_free(lock)
        except SnapshotCorrupt:
            return False

    def check(self, snapshot: Snapshot, here: Host | None = None) -> None:
        """Whether it can be loaded on this host, and every file of it is what was saved.

        Raises :class:`~fc_kernel.errors.SnapshotNotFound`, :class:`~fc_kernel.errors.SnapshotIncompatible` and
        :class:`SnapshotCorrupt`. Reads what has not been read lately: call it in a thread.
        """
        try:
            with self._opened() as root:
                found = self._own(root, snapshot.id, anew=True)
                if here is not None:
                    check_host(found.manifest, here)
                with disk.directory(snapshot.id, root) as directory:
                    try:
                        check_parts(found, directory, self._root.records)
                    except SnapshotCorrupt:
                        self._root.check_there(root, snapshot.id)
                        raise
        except FileNotFoundError:
            raise _gone(snapshot.name) from None
        except OSError as error:
            raise SnapshotCorrupt(snapshot.id, f"it cannot be read: {error.strerror}") from error

    def lineage(self, snapshot: Snapshot) -> list_of[Snapshot]:
        """It and those that it comes from, oldest first, as far as they are still there."""
        return finding.lineage(self.list(), snapshot)

    def disk_bytes(self, snapshot: Snapshot | None = None) -> int:
        """What a snapshot's removal would free; without one, what all take on the disk, shared files once."""
        try:
            with self._opened() as root:
                if snapshot is None:
                    return self._used_bytes(root)
                with disk.directory(snapshot.id, root) as here:
                    return sum(disk.real_bytes(found) for found in disk.stats_of(here) if found.st_nlink == 1)
        except FileNotFoundError:
            return 0

    def sweep(self) -> list_of[str]:
        """Remove what dead writers left; returns the names of the directories."""
        if not self.root.exists():
            return []
        with disk.explained("clean up the snapshots"), self._root.locked() as root:
            return self._root.sweep(root)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """The root, for reading; :class:`FileNotFoundError` when there is none."""
        with disk.explained("read the snapshots", but=FileNotFoundError), self._root.opened() as root:
            yield root

    @contextlib.contextmanager
    def _changing(self, doing: str, snapshot: Snapshot | str) -> Iterator[int]:
        """The locked root; what is not there, or there no more, is one error."""
        shown = snapshot if isinstance(snapshot, str) else snapshot.name
        with disk.explained(doing):
            try:
                if not self.root.exists():
                    raise _gone(shown)
                with self._root.locked() as root:
                    yield root
            except FileNotFoundError:
                raise _gone(shown) from None

    def _sound(self, root: int) -> list_of[Snapshot]:
        found = []
        for name in self._root.names(root):
            with contextlib.suppress(SnapshotError, FileNotFoundError):
                snapshot = self._root.read(root, name)
                if snapshot.kind == self.kind and snapshot.owner == self.owner:
                    found.append(snapshot)
        return sorted(found, key=lambda snapshot: (snapshot.created, snapshot.id))

    def _own(self, root: int, snapshot_id: str, *, anew: bool = False) -> Snapshot:
        """Read one; that of another owner is not there."""
        found = self._root.read(root, snapshot_id, anew=anew)
        if found.owner != self.owner:
            raise FileNotFoundError(snapshot_id)
        return found

    def _counted(self, root: int) -> list_of[str]:
        """Names of the directories that count: the owner's, and those that do not tell whose they are."""
        return [name for name in self._root.names(root) if not self._is_of_another(root, name)]

    def _is_of_another(self, root: int, name: str) -> bool:
        try:
            return self._root.read(root, name).owner != self.owner
        except (SnapshotError, OSError):
            return False

    def _drafts(self, root: int) -> Iterator[tuple[Reservation, int]]:
        """What is being made, and what is written of it."""
        for name in self._root.hidden(root, ".partial"):
            with contextlib.suppress(OSError), disk.directory(name, root) as here:
                reserved = Reservation.read(here)
                if reserved is not None and reserved.owner == self.owner:
                    written = sum(disk.real_bytes(found) for found in disk.stats_of(here) if found.st_nlink == 1)
                    yield reserved, written

    def _used_bytes(self, root: int) -> int:
        inodes: dict[tuple[int, int], int] = {}
        for name in (*self._counted(root), *self._root.hidden(root, "")):
            with contextlib.suppress(OSError), disk.directory(name, root) as here:
                reserved = Reservation.read(here)
                if reserved is not None and reserved.owner != self.owner:
                    continue
                inodes.update({(found.st_dev, found.st_ino): disk.real_bytes(found) for found in disk.stats_of(here)})
        return sum(inodes.values())


def _gone(name: str) -> SnapshotNotFound:
    return SnapshotNotFound(f"the snapshot {name!r} is not there any more")
