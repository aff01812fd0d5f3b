"""Export and import: to and from a path, an open file, or any URL that ``fsspec`` knows."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import SnapshotCorrupt, SnapshotError
from . import disk
from .archive import ARCHIVE, ArchiveReader, Readable, write_archive
from .location import readable, writable
from .snapshot import Snapshot
from .store import SnapshotStore

GZIP_MAGIC = b"\x1f\x8b"


def export_snapshot(snapshot: Snapshot, target: str | Path | BinaryIO, *, replace: bool = False) -> int:
    """Write a snapshot as one file; returns its bytes before compression. ``.gz`` and ``.tgz`` are compressed.

    A path or URL holds all of it or nothing; an existing file stays unless ``replace``. Raises
    :class:`~fc_kernel.errors.SnapshotError`. Blocks; check the snapshot first.
    """
    doing = f"export the snapshot {snapshot.name!r}"
    if not isinstance(target, str | Path):
        with disk.explained(doing):
            return write_archive(snapshot, target)
    with writable(target, replace=replace, doing=f"{doing} to {target}") as out:
        return write_archive(snapshot, out)


def import_snapshot(
    store: SnapshotStore, source: str | Path | BinaryIO, *, scope: str | None, name: str | None = None
) -> Snapshot:
    """Read what :func:`export_snapshot` wrote into a store, all of it or nothing; ``None`` keeps its own scope or name.

    Raises :class:`~fc_kernel.errors.SnapshotCorrupt`, :class:`~fc_kernel.errors.SnapshotExists`,
    :class:`~fc_kernel.errors.QuotaExceeded` and what :meth:`SnapshotStore.begin` does. Blocks.

    The devices' state and the memory are somebody else's: whoever restores an imported snapshot runs its maker's code in
    the kernel, and has the monitor read its maker's data.
    """
    doing = "import the snapshot"
    with contextlib.ExitStack() as stack:
        if isinstance(source, str | Path):
            file: Readable = stack.enter_context(readable(source, doing=doing))
        else:
            stack.enter_context(disk.explained(doing))
            file = source
        try:
            return _import(store, ArchiveReader(_unpacked(file)), scope=scope, name=name)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise SnapshotCorrupt(ARCHIVE, f"it cannot be unpacked: {error}") from None


def _import(store: SnapshotStore, reader: ArchiveReader, *, scope: str | None, name: str | None) -> Snapshot:
    head = reader.head()
    manifest = head.manifest
    if manifest.kind != store.kind:
        raise SnapshotError(f"it is a {manifest.kind}, not a {store.kind}")
    if manifest.spec.extra_drives:
        raise SnapshotError("it uses drives of another host, which it does not contain")
    scope, name = scope or manifest.scope, name or manifest.name
    with store.begin(name=name, scope=scope, expected_bytes=head.expected_bytes) as draft:
        with disk.directory(draft.directory) as here:
            reader.extract(head, here)
        return draft.adopt(manifest)


def _unpacked(source: Readable) -> Readable:
    start = source.read(len(GZIP_MAGIC))
    joined = _Joined(start, source)
    if start == GZIP_MAGIC:
        packed: Any = joined
        return gzip.GzipFile(fileobj=packed, mode="rb")
    return joined


class _Joined:
    """A source again from its beginning: the bytes that were read to see what it is, then the rest."""

    def __init__(self, start: bytes, rest: Readable) -> None:
        self._start = start
        self._rest = rest

    def read(self, size: int = -1) -> bytes:
        if self._start:
            data, self._start = self._start[:size], self._start[size:]
            return data
        return self._rest.read(size)
