"""A snapshot as one stream: a tar of plain files, ``manifest.json`` first, with the digests of all others.

``mem`` is written without its holes: ``FCMEMORY``, its size and the number of extents as u64, then offset and length of each,
then their bytes; little endian. Members are read in order and never by name: the manifest says what comes next.
"""

from __future__ import annotations

import os
import struct
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol, Self

from ..errors import SnapshotCorrupt
from ..memory.digest import CHUNK_BYTES
from ..memory.pages import data_extents
from . import disk
from .manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, MEM, Manifest
from .snapshot import Snapshot

MAGIC = b"FCMEMORY"
HEAD = struct.Struct("<8sQQ")
EXTENT = struct.Struct("<QQ")
ARCHIVE = "archive"
#: Enough for 8 GiB of which every other page is a hole; a memory with more extents is written whole.
MAX_EXTENTS = 1 << 20

Extents = list[tuple[int, int]]


class Writable(Protocol):
    """Where an archive goes."""

    def write(self, data: bytes, /) -> object:
        """Take all of ``data``."""


class Readable(Protocol):
    """Where an archive comes from."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""


class Archive:
    """All of a snapshot as one stream of bytes: ``mem`` comes first, then the parts in their order.

    It opens all files at once, so removing the snapshot meanwhile does no harm. Raises
    :class:`~fc_kernel.errors.SnapshotCorrupt` for a file that is not of the size in the manifest.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        with ExitStack() as stack:
            here = stack.enter_context(disk.directory(snapshot.directory))
            manifest = Manifest.from_bytes(disk.read_part(here, MANIFEST_NAME, MAX_MANIFEST_BYTES))
            text = manifest.to_bytes()
            self._members = [_Member(MANIFEST_NAME, len(text), iter([text]))]
            for name in _order(manifest):
                descriptor = stack.enter_context(disk.part(here, name))
                self._members.append(_member(name, descriptor, manifest.part(name).size_bytes))
            self._files = stack.pop_all()
        #: Size of the whole stream, known before anything is read.
        self.size_bytes = sum(member.padded_bytes for member in self._members) + len(_END)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; may be called twice."""
        self._files.close()

    def __iter__(self) -> Iterator[bytes]:
        """Yield the bytes in pieces of at most a few MiB; works only once."""
        for member in self._members:
            yield from member.pieces()
        yield _END


def write_archive(snapshot: Snapshot, out: Writable) -> int:
    """Write all of a snapshot; returns the number of bytes."""
    with Archive(snapshot) as archive:
        for data in archive:
            out.write(data)
        return archive.size_bytes


def _order(manifest: Manifest) -> list[str]:
    return [MEM, *(part.file for part in manifest.parts if part.file != MEM)]


def _total(extents: Extents) -> int:
    return sum(length for _, length in extents)


def _extents(descriptor: int, size: int) -> Extents:
    """The parts of a file that are not holes."""
    found = [(start, end - start) for start, end in data_extents(descriptor, size)]
    return found if len(found) <= MAX_EXTENTS else [(0, size)]


def _content(descriptor: int, extents: Extents, first: bytes = b"") -> Iterator[bytes]:
    if first:
        yield first
    for offset, length in extents:
        done = 0
        while done < length:
            data = os.pread(descriptor, min(CHUNK_BYTES, length - done), offset + done)
            if not data:
                raise SnapshotCorrupt(ARCHIVE, f"a file ends at byte {offset + done}")
            done += len(data)
            yield data


#: A tar ends with two empty blocks.
_END = bytes(2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True)
class _Member:
    """One file of the tar."""

    name: str
    size: int
    content: Iterator[bytes]

    @property
    def padded_bytes(self) -> int:
        """Its size in the tar, with the header and the padding of the last block."""
        return tarfile.BLOCKSIZE + self.size + -self.size % tarfile.BLOCKSIZE

    def pieces(self) -> Iterator[bytes]:
        info = tarfile.TarInfo(self.name)
        info.size, info.mode = self.size, 0o600
        yield info.tobuf(tarfile.GNU_FORMAT)
        yield from self.content
        if padding := -self.size % tarfile.BLOCKSIZE:
            yield bytes(padding)


def _member(name: str, descriptor: int, expected_bytes: int) -> _Member:
    size = os.fstat(descriptor).st_size
    if size != expected_bytes:
        raise SnapshotCorrupt(name, f"it has {size} bytes, the manifest says {expected_bytes}")
    if name != MEM:
        return _Member(name, size, _content(descriptor, [(0, size)]))
    extents = _extents(descriptor, size)
    table = HEAD.pack(MAGIC, size, len(extents)) + b"".join(EXTENT.pack(*extent) for extent in extents)
    return _Member(name, len(table) + _total(extents), _content(descriptor, extents, table))


@dataclass(frozen=True)
class Head:
    """The beginning of an archive, which says how much room it needs before anything is written."""

    manifest: Manifest
    extents: Extents

    @property
    def expected_bytes(self) -> int:
        """The bytes that the snapshot will take on the disk."""
        return _total(self.extents) + sum(part.size_bytes for part in self.manifest.parts if part.file != MEM)


class ArchiveReader:
    """Reads an archive: first :meth:`head`, then :meth:`extract`; both raise ``SnapshotCorrupt`` if anything is wrong."""

    def __init__(self, source: Readable) -> None:
        self._source = source

    def head(self) -> Head:
        """The manifest, and where the memory's bytes go."""
        size = self._member(MANIFEST_NAME)
        if size > MAX_MANIFEST_BYTES:
            raise SnapshotCorrupt(MANIFEST_NAME, f"it is larger than {MAX_MANIFEST_BYTES} bytes")
        manifest = Manifest.from_bytes(self._exactly(size))
        self._padding(size)
        size = self._member(MEM)
        if size < HEAD.size:
            raise SnapshotCorrupt(MEM, f"it has only {size} bytes")
        magic, memory, count = HEAD.unpack(self._exactly(HEAD.size))
        wanted = manifest.part(MEM).size_bytes
        if magic != MAGIC or memory != wanted or count > MAX_EXTENTS:
            raise SnapshotCorrupt(MEM, "its header does not match the manifest")
        table = self._exactly(count * EXTENT.size)
        extents = list(EXTENT.iter_unpack(table))
        end = 0
        for offset, length in extents:
            if offset < end or length == 0 or offset + length > memory:
                raise SnapshotCorrupt(MEM, f"{length} bytes at {offset} are out of order, or beyond its {memory}")
            end = offset + length
        if size != HEAD.size + len(table) + _total(extents):
            raise SnapshotCorrupt(MEM, "its size does not match its extents")
        return Head(manifest, extents)

    def extract(self, head: Head, here: int) -> None:
        """Write all parts into the empty directory that ``here`` is a descriptor of."""
        for name in _order(head.manifest):
            wanted = head.manifest.part(name).size_bytes
            if name == MEM:
                written, extents = HEAD.size + len(head.extents) * EXTENT.size + _total(head.extents), head.extents
            else:
                written, extents = self._member(name), [(0, wanted)]
                if written != wanted:
                    raise SnapshotCorrupt(name, f"it has {written} bytes, the manifest says {wanted}")
            with disk.new_file(here, name) as target:
                os.ftruncate(target, wanted)
                for offset, length in extents:
                    self._copy(target, offset, length)
            self._padding(written)
        self._end()

    def _copy(self, target: int, offset: int, length: int) -> None:
        os.lseek(target, offset, os.SEEK_SET)
        while length:
            data = self._exactly(min(CHUNK_BYTES, length))
            disk.write_all(target, data)
            length -= len(data)

    def _member(self, name: str) -> int:
        """Read the header of the member that must come next; returns its size."""
        try:
            info = tarfile.TarInfo.frombuf(self._exactly(tarfile.BLOCKSIZE), "ascii", "strict")
        except (tarfile.TarError, ValueError):
            raise SnapshotCorrupt(ARCHIVE, f"{name} is not where it must be") from None
        if info.name != name or not info.isreg() or info.issparse() or info.size < 0:
            raise SnapshotCorrupt(ARCHIVE, f"{info.name[:100]!r} is where the file {name} must be")
        return info.size

    def _end(self) -> None:
        """Read zeros up to the end of the source, because a compressed archive's checksum is checked only there."""
        end = self._exactly(tarfile.BLOCKSIZE)
        while len(end) <= CHUNK_BYTES and (more := self._source.read(CHUNK_BYTES)):
            end += more
        if len(end) > CHUNK_BYTES or end.count(0) != len(end):
            raise SnapshotCorrupt(ARCHIVE, "it contains more than a snapshot")

    def _padding(self, size: int) -> None:
        self._exactly(-size % tarfile.BLOCKSIZE)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            # Memory grows with what comes, not with what is claimed.
            more = self._source.read(min(CHUNK_BYTES, size - len(data)))
            if not more:
                raise SnapshotCorrupt(ARCHIVE, "it is cut off")
            data += more
        return data
