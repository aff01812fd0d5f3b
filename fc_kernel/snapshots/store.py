"""The snapshot store: a directory for each snapshot, published whole by a rename, shared by all servers of a user."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ..base.verified import VerifiedFiles
from ..errors import (
    QuotaExceeded,
    SnapshotCorrupt,
    SnapshotError,
    SnapshotExists,
    SnapshotIncompatible,
    SnapshotInUse,
    SnapshotNotFound,
)
from . import disk
from .compat import Host, check_host
from .disk import Hold
from .draft import Draft
from .layering import check_layer
from .manifest import LAYER_PREFIX, MANIFEST_NAME, Manifest, ManifestDraft, seal
from .naming import MIN_ID_PREFIX, check_name, check_scope, is_id, new_id, next_name
from .root import RESERVED_NAME, Kind, Reservation, Root, Step, lineage, no_step, partial_name, removed_name
from .snapshot import LOCK_NAME, Snapshot

GIB = 1 << 30
#: The manifest's fields that are computed from all others.
_DERIVED = {"checksum"}
#: An error's message names no more snapshots than these.
MAX_NAMED = 12


@dataclass(frozen=True)
class StoreLimits:
    """Most snapshots of one owner, most bytes of them on the disk (shared ones once), bytes that must stay free there."""

    max_snapshots: int = 100
    max_bytes: int = 64 * GIB
    min_free_bytes: int = 1 * GIB


class SnapshotStore:
    """One owner's snapshots in ``root``; nothing outside it is ever opened.

    Those of another owner in the same directory are not found, listed, counted or changed. Methods read and write files, and
    may wait for another process: call them in a thread, never on an event loop. Only :meth:`known_lineage` does not.
    ``records`` remembers digests; stores that share files share it.
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
        self._root = Root(root, records, owner=owner, kind=self.kind, step=step)

    @property
    def root(self) -> Path:
        """The store's directory; it is made when it is needed."""
        return self._root.path

    def begin(self, *, name: str | None, scope: str, expected_bytes: int) -> Draft:
        """Reserve a name and check that there is room, before the VM is paused. ``None`` takes the next of s1, s2, ….

        Raises :class:`~fc_kernel.errors.SpecError`, :class:`~fc_kernel.errors.SnapshotExists`, also for the name of another
        draft, and :class:`~fc_kernel.errors.QuotaExceeded`.
        """
        check_scope(scope)
        if name is not None:
            check_name(name)
        with disk.explained("begin a snapshot"):
            self._root.sweep()
            with self._root.locked() as root:
                taken = self._names_in(root, scope)
                if name is None:
                    name = next_name(taken)
                if name in taken:
                    raise _exists(name)
                self._check_room(root, expected_bytes)
                reserved = Reservation(name=name, scope=scope, owner=self.owner, expected_bytes=expected_bytes)
                return self._reserve(root, reserved)

    def _names_in(self, root: int, scope: str, but: str = "") -> set[str]:
        """Names that are taken in a scope, also by drafts; ``but`` is the id of a snapshot whose name does not count."""
        names = {each.name for each in self._root.sound(root) if each.scope == scope and each.id != but}
        return names | {draft.name for draft, _ in self._root.drafts(root) if draft.scope == scope}

    def _check_room(self, root: int, expected_bytes: int) -> None:
        """Check that the owner may have one more, and that it fits; raises :class:`~fc_kernel.errors.QuotaExceeded`."""
        drafts = list(self._root.drafts(root))
        count = len(self._root.counted(root)) + len(drafts)
        if count >= self.limits.max_snapshots:
            raise QuotaExceeded(
                f"there are {count} snapshots, and {self.limits.max_snapshots} are allowed; "
                "remove some: fc-kernel snapshot rm NAME"
            )
        promised_bytes = sum(max(0, draft.expected_bytes - written) for draft, written in drafts)
        needed_bytes = self._root.used_bytes(root) + promised_bytes + expected_bytes
        if needed_bytes > self.limits.max_bytes:
            raise QuotaExceeded(
                f"snapshots would take {disk.mib(needed_bytes)}, and {disk.mib(self.limits.max_bytes)} are allowed; "
                "remove some: fc-kernel snapshot rm NAME"
            )
        disk.check_room(
            root,
            expected_bytes=expected_bytes,
            promised_bytes=promised_bytes,
            min_free_bytes=self.limits.min_free_bytes,
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
        return Draft(self._root, snapshot_id, reserved, lock)

    def _undo_reserve(self, root: int, partial: str) -> None:
        with contextlib.suppress(OSError):
            disk.remove_tree(root, partial)

    def list(self, *, scope: str | None = None) -> list[Snapshot]:
        """The snapshots that are complete and can be read, oldest first; ``scope`` ``None`` is all scopes."""
        try:
            with self._opened() as root:
                return [each for each in self._root.sound(root) if scope in (None, each.scope)]
        except FileNotFoundError:
            return []

    def broken(self) -> dict[str, SnapshotError]:
        """By id, the snapshots whose manifest cannot be used, and why."""
        found: dict[str, SnapshotError] = {}
        with contextlib.suppress(FileNotFoundError), self._opened() as root:
            for name in self._root.names(root):
                try:
                    self._root.read(root, name)
                except SnapshotError as error:
                    found[name] = error
                except FileNotFoundError:
                    continue
        return found

    def get(self, ref: str, *, scope: str | None = None) -> Snapshot:
        """The snapshot that ``ref`` means: its id, its name within the scope, or at least the first 6 digits of its id.

        Raises :class:`~fc_kernel.errors.SnapshotNotFound`, also when several match; for the id of a broken snapshot, the
        error that keeps it from being read.
        """
        snapshots = self.list(scope=scope)
        try:
            return _meant(snapshots, ref)
        except SnapshotNotFound:
            # The error that says what is wrong with it.
            if is_id(ref) and scope is None and (error := self.broken().get(ref)) is not None:
                raise error from None
            raise

    def rename(self, snapshot: Snapshot, name: str) -> Snapshot:
        """Give it another name; raises as :meth:`begin`, and :class:`~fc_kernel.errors.SnapshotNotFound`."""
        return self._rewrite(snapshot, name=check_name(name))

    def describe(self, snapshot: Snapshot, text: str) -> Snapshot:
        """Give it another description; raises :class:`~fc_kernel.errors.SnapshotNotFound`."""
        return self._rewrite(snapshot, description=text)

    def _rewrite(self, snapshot: Snapshot, **changes: str) -> Snapshot:
        with self._changing(f"change the snapshot {snapshot.name!r}", snapshot) as root:
            found = self._root.read(root, snapshot.id)
            if (name := changes.get("name")) is not None and name in self._names_in(root, found.scope, but=found.id):
                raise _exists(name)
            own = Manifest.model_fields.keys() - _DERIVED - ManifestDraft.model_fields.keys()
            fields = {name: getattr(found.manifest, name) for name in own}
            manifest = seal(found.manifest.model_copy(update=changes), **{**fields, **changes})
            self._root.step("rewrite")
            with disk.directory(snapshot.id, root) as here:
                disk.replace_file(here, MANIFEST_NAME, manifest.to_bytes())
            changed = Snapshot(found.directory, manifest)
            self._root.remember(changed)
            return changed

    def delete(self, snapshot: Snapshot | str, *, force: bool = False) -> None:
        """Remove it, or a broken one by its id; other snapshots keep what they share with it.

        Raises :class:`~fc_kernel.errors.SnapshotInUse` when somebody holds it, unless ``force``: a VM that runs from it
        keeps its files open. Raises :class:`~fc_kernel.errors.SnapshotNotFound`.
        """
        snapshot_id = snapshot if isinstance(snapshot, str) else snapshot.id
        shown = snapshot if isinstance(snapshot, str) else snapshot.name
        if not is_id(snapshot_id):
            raise SnapshotNotFound(f"there is no snapshot with the id {snapshot_id!r}")
        removing = f"remove the snapshot {shown!r}"
        with self._changing(removing, snapshot) as root:
            self._hide(root, snapshot_id, shown, force=force)
        # Not under the lock, because removing files takes a while. A sweep completes a removal that was killed.
        with disk.explained(removing), self._root.opened() as root:
            self._root.step("remove")
            self._root.remove_tree(root, removed_name(snapshot_id))

    def _hide(self, root: int, snapshot_id: str, shown: str, *, force: bool) -> None:
        """Take it out of sight, so that half a snapshot is never seen."""
        with contextlib.suppress(SnapshotCorrupt, SnapshotIncompatible):
            self._root.read(root, snapshot_id)
        with ExitStack() as stack:
            # Nobody uses what has no lock or is not a directory.
            with contextlib.suppress(SnapshotCorrupt, NotADirectoryError):
                here = stack.enter_context(disk.directory(snapshot_id, root))
                lock = stack.enter_context(disk.part(here, LOCK_NAME, os.O_RDWR))
                if not disk.lock(lock) and not force:
                    pids = ", ".join(str(pid) for pid in disk.holders(lock))
                    by = f" by process {pids}" if pids else ""
                    raise SnapshotInUse(f"the snapshot {shown!r} is in use{by}; end the kernels that run from it first")
            self._root.step("hide")
            os.rename(snapshot_id, removed_name(snapshot_id), src_dir_fd=root, dst_dir_fd=root)
            self._root.forget(snapshot_id)
            os.fsync(root)

    def hold(self, snapshot: Snapshot) -> Hold:
        """Keep it from being removed until the hold is closed; raises :class:`~fc_kernel.errors.SnapshotNotFound`."""
        with self._changing(f"hold the snapshot {snapshot.name!r}", snapshot) as root, ExitStack() as undo:
            with disk.directory(snapshot.id, root) as here:
                lock = disk.open_part(here, LOCK_NAME, os.O_RDWR)
            undo.callback(os.close, lock)
            if not disk.lock(lock, shared=True):
                raise SnapshotInUse(f"the snapshot {snapshot.name!r} is locked by process {disk.holders(lock)}")
            # The lock's time says when the snapshot was last used.
            os.utime(lock)
            undo.pop_all()
            return Hold(lock)

    def in_use(self, snapshot: Snapshot) -> bool:
        """Whether somebody holds it."""
        with self._changing("look at a snapshot", snapshot) as root:
            try:
                with disk.directory(snapshot.id, root) as here, disk.part(here, LOCK_NAME, os.O_RDWR) as lock:
                    return not disk.lock(lock)
            except SnapshotCorrupt:
                return False

    def check(self, snapshot: Snapshot, here: Host | None = None) -> None:
        """Check that it can be loaded on this host, and that every file of it is what was saved.

        Raises :class:`~fc_kernel.errors.SnapshotNotFound`, :class:`~fc_kernel.errors.SnapshotIncompatible` and
        :class:`SnapshotCorrupt`. Reads the files whose digests are not known.
        """
        try:
            with self._opened() as root:
                found = self._root.read(root, snapshot.id, anew=True)
                if here is not None:
                    check_host(found.manifest, here)
                with disk.directory(snapshot.id, root) as directory:
                    try:
                        self._check_parts(found, directory)
                    except SnapshotCorrupt:
                        self._root.check_there(root, snapshot.id)
                        raise
        except FileNotFoundError:
            raise _gone(snapshot.name) from None
        except OSError as error:
            raise SnapshotCorrupt(snapshot.id, f"it cannot be read: {error.strerror}") from error

    def _check_parts(self, snapshot: Snapshot, here: int) -> None:
        """Compare every file of an open snapshot directory with the manifest, before anything of it reaches a monitor."""
        for part in snapshot.manifest.parts:
            try:
                with disk.part(here, part.file) as descriptor:
                    size = os.fstat(descriptor).st_size
                    if size != part.size_bytes:
                        raise SnapshotCorrupt(part.file, f"it has {size} bytes, the manifest says {part.size_bytes}")
                    found = self._root.digest_of(descriptor, part.file)
                if found != part.sha256:
                    raise SnapshotCorrupt(part.file, f"its digest is {found}, the manifest says {part.sha256}")
                if part.file.startswith(LAYER_PREFIX):
                    check_layer(snapshot.directory / part.file, snapshot.manifest.mem_size_bytes)
            except OSError as error:
                raise SnapshotCorrupt(part.file, f"it cannot be read: {error.strerror or error}") from error

    def lineage(self, snapshot: Snapshot) -> tuple[Snapshot, ...]:
        """It and its ancestors, oldest first, as far as they are still there."""
        return lineage(self.list(), snapshot)

    def known_lineage(self, snapshot: Snapshot) -> tuple[Snapshot, ...]:
        """As :meth:`lineage`, but as the store last saw them: reads no file, and may be called on an event loop.

        What this process reads, takes, renames or removes is known at once; a change by another process is known when this
        one reads the store again.
        """
        return lineage(self._root.known(), snapshot)

    def disk_bytes(self, snapshot: Snapshot | None = None) -> int:
        """The bytes that a snapshot's removal would free; without one, what all take on the disk, shared files once."""
        try:
            with self._opened() as root:
                if snapshot is None:
                    return self._root.used_bytes(root)
                with disk.directory(snapshot.id, root) as here:
                    return sum(disk.real_bytes(found) for found in disk.stats_of(here) if found.st_nlink == 1)
        except FileNotFoundError:
            return 0

    def sweep(self) -> Sequence[str]:
        """Remove what dead writers left; returns the names of the directories."""
        if not self.root.exists():
            return []
        with disk.explained("clean up the snapshots"):
            return self._root.sweep()

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """The root, for reading; raises :class:`FileNotFoundError` when there is none."""
        with disk.explained("read the snapshots", but=FileNotFoundError), self._root.opened() as root:
            yield root

    @contextlib.contextmanager
    def _changing(self, doing: str, snapshot: Snapshot | str) -> Iterator[int]:
        """The locked root; raises ``SnapshotNotFound`` for a snapshot that is not there, or has another owner."""
        shown = snapshot if isinstance(snapshot, str) else snapshot.name
        with disk.explained(doing):
            try:
                if not self.root.exists() or (isinstance(snapshot, Snapshot) and snapshot.owner != self.owner):
                    raise _gone(shown)
                with self._root.locked() as root:
                    yield root
            except FileNotFoundError:
                raise _gone(shown) from None


def _meant(snapshots: Sequence[Snapshot], ref: str) -> Snapshot:
    found = [snapshot for snapshot in snapshots if snapshot.id == ref]
    found = found or [snapshot for snapshot in snapshots if snapshot.name == ref]
    if not found and len(ref) >= MIN_ID_PREFIX:
        found = [snapshot for snapshot in snapshots if snapshot.id.startswith(ref)]
    if len(found) == 1:
        return found[0]
    shown = repr(ref[:80])
    if found:
        ids = [f"{each.id} ({each.name} of {each.scope[:80]})" for each in found]
        raise SnapshotNotFound(f"{shown} could be any of: {_newest(ids)}; say which by its id")
    if not snapshots:
        raise SnapshotNotFound(f"there is no snapshot {shown}; there are no snapshots here")
    raise SnapshotNotFound(f"there is no snapshot {shown}; there are: {_newest([each.name for each in snapshots])}")


def _newest(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[-MAX_NAMED:]) + more


def _exists(name: str) -> SnapshotExists:
    return SnapshotExists(f"there is a snapshot {name!r} already; choose another name, or remove it first")


def _gone(name: str) -> SnapshotNotFound:
    return SnapshotNotFound(f"the snapshot {name!r} is not there any more")
