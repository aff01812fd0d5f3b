"""A tenant's snapshots as files, for :class:`~fc_kernel.host.local.LocalHost`; the store's blocking calls run on threads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from functools import partial
from typing import BinaryIO, cast

from ..api.calls import DiskUse
from ..api.inventory import BrokenSnapshot, SnapshotDetails
from ..api.models import Snapshot as SnapshotModel
from ..base.tasks import off_loop
from ..errors import QuotaExceeded, SnapshotNotFound
from ..snapshots import disk
from ..snapshots.archive import Archive
from ..snapshots.snapshot import Snapshot
from ..snapshots.store import SnapshotStore
from .inventory import details_view
from .views import snapshot_view


class SnapshotFiles:
    """Export and import of snapshots as files, which may be larger than memory."""

    def __init__(self, store: SnapshotStore) -> None:
        self._store = store

    def get(self, snapshot_id: str) -> Snapshot:
        """The snapshot with exactly this ID. Blocks."""
        for snapshot in self._store.list():
            if snapshot.id == snapshot_id:
                return snapshot
        raise SnapshotNotFound(f"there is no snapshot {snapshot_id[:64]!r}")

    def delete(self, snapshot_id: str, *, force: bool) -> SnapshotModel | None:
        """Remove it; returns what it was, or ``None`` when it was broken. Blocks."""
        try:
            found = self.get(snapshot_id)
        except SnapshotNotFound:
            if snapshot_id not in self._store.broken():
                raise
            self._store.delete(snapshot_id, force=force)
            return None
        shown = snapshot_view(self._store, found, ())
        self._store.delete(found, force=force)
        return shown

    def broken(self) -> list[BrokenSnapshot]:
        """Those that cannot be used. Blocks."""
        return [BrokenSnapshot(id=name, error=str(error)) for name, error in self._store.broken().items()]

    def details(self, snapshot_ids: Sequence[str], current: Collection[str]) -> list[SnapshotDetails]:
        """All that is known of those that are there. Blocks."""
        there = self._store.list()
        by_id = {each.id: each for each in there}
        found = [by_id[each] for each in snapshot_ids if each in by_id]
        return [details_view(self._store, each, among=there, current=current) for each in found]

    def disk_use(self) -> DiskUse:
        """What the store takes on the disk, and what the disk and the quota leave. Blocks."""
        used = self._store.disk_bytes()
        return DiskUse(used_bytes=used, room_bytes=max(0, min(self._free_bytes(), self._store.limits.max_bytes - used)))

    def _free_bytes(self) -> int:
        self._store.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        disk = os.statvfs(self._store.root)
        return max(0, disk.f_bavail * disk.f_frsize - self._store.limits.min_free_bytes)

    def spool(self) -> BinaryIO:
        """A file without a name, on the store's file system: it is gone with its descriptor, even if this process is killed."""
        self._store.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cast("BinaryIO", tempfile.TemporaryFile(dir=self._store.root))

    async def export(self, snapshot_id: str) -> tuple[int, AsyncGenerator[bytes, None]]:
        """Check a snapshot; its size as one file, and the content, which needs no room on the disk."""
        archive = await off_loop(partial(self._checked, snapshot_id), undo=Archive.close)
        content = _content(archive)
        await anext(content)  # so that closing it closes the files even if nothing was read
        return archive.size_bytes, content

    def _checked(self, snapshot_id: str) -> Archive:
        snapshot = self.get(snapshot_id)
        with self._store.hold(snapshot):
            self._store.check(snapshot)
            return Archive(snapshot)

    async def receive(self, content: AsyncIterator[bytes]) -> BinaryIO:
        """Write ``content`` to a spool; raises :class:`~fc_kernel.errors.QuotaExceeded` when there is no room for it."""
        room = (await asyncio.to_thread(self.disk_use)).room_bytes
        with contextlib.ExitStack() as undo:
            file = undo.enter_context(await asyncio.to_thread(self.spool))
            async for data in content:
                if file.tell() + len(data) > room:
                    raise no_room(file.tell() + len(data), room)
                await asyncio.to_thread(file.write, data)
            file.seek(0)
            undo.pop_all()
        return file


def no_room(size: int, room: int) -> QuotaExceeded:
    """The error for a file that is larger than the room that is left."""
    return QuotaExceeded(f"the file has at least {size >> 20} MiB; there is room for {room >> 20} MiB")


async def _content(archive: Archive) -> AsyncGenerator[bytes, None]:
    with archive, disk.explained("export a snapshot"):
        yield b""
        pieces = iter(archive)
        while data := await asyncio.to_thread(next, pieces, b""):
            yield data
