"""Export and import: to and from a path, an open file, or any URL that ``fsspec`` knows."""

from __future__ import annotations

import contextlib
import gzip
import os
import secrets
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import FcKernelError, SnapshotCorrupt, SnapshotError, SnapshotExists
from . import disk
from .archive import ARCHIVE, ArchiveReader, Readable, write_archive
from .snapshot import Snapshot
from .store import SnapshotStore

GZIP_ENDINGS = (".gz", ".tgz")
GZIP_MAGIC = b"\x1f\x8b"
#: Memory is large, and most of the gain is at the lowest level.
GZIP_LEVEL = 1


def export_snapshot(snapshot: Snapshot, target: str | Path | BinaryIO, *, replace: bool = False) -> int:
    """Write a snapshot as one file; returns its bytes before compression. ``.gz`` and ``.tgz`` are compressed.

    A path or URL holds all of it or nothing; what is there is left unless ``replace``. Raises
    :class:`~fc_kernel.errors.SnapshotError`. Blocks; check the snapshot first.
    """
    if not isinstance(target, str | Path):
        with disk.explained(f"export the snapshot {snapshot.name!r}"):
            return write_archive(snapshot, target)
    with disk.explained(f"export the snapshot {snapshot.name!r} to {target}"), _created(target, replace=replace) as out:
        if str(target).endswith(GZIP_ENDINGS):
            with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=GZIP_LEVEL, mtime=0) as packed:
                return write_archive(snapshot, packed)
        return write_archive(snapshot, out)


def import_snapshot(
    store: SnapshotStore, source: str | Path | BinaryIO, *, scope: str | None, name: str | None = None
) -> Snapshot:
    """Take what :func:`export_snapshot` wrote into a store, all of it or nothing, under its own scope and name or others.

    Raises :class:`~fc_kernel.errors.SnapshotCorrupt`, :class:`~fc_kernel.errors.SnapshotExists`,
    :class:`~fc_kernel.errors.QuotaExceeded` and what :meth:`SnapshotStore.begin` does. Blocks.

    The device state and memory are another's: who imports a snapshot and restores it trusts whoever made it as far as the
    monitor's isolation goes.
    """
    with disk.explained("import the snapshot"), _readable(source) as readable:
        try:
            return _import(store, ArchiveReader(_unpacked(readable)), scope=scope, name=name)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise SnapshotCorrupt(ARCHIVE, f"it cannot be unpacked: {error}") from None


def _import(store: SnapshotStore, reader: ArchiveReader, *, scope: str | None, name: str | None) -> Snapshot:
    head = reader.head()
    manifest = head.manifest
    if manifest.kind != store.kind:
        raise SnapshotError(f"it is a {manifest.kind}, and no {store.kind}")
    if manifest.spec.extra_drives:
        raise SnapshotError("it has drives of another host, which are not in it")
    wanted = name or manifest.name
    try:
        draft = store.begin(name=wanted, scope=scope or manifest.scope, expected_bytes=head.expected_bytes)
    except SnapshotExists:
        raise SnapshotExists(f"there is a snapshot {wanted!r} already; give this one another with --name") from None
    with draft:
        with disk.directory(draft.directory) as here:
            reader.extract(head, here)
        return draft.adopt(manifest)


@contextlib.contextmanager
def _created(target: str | Path, *, replace: bool) -> Iterator[BinaryIO]:
    """Something to write to that becomes ``target`` when the block ends well."""
    if "://" in str(target):
        with _created_remote(str(target), replace=replace) as remote:
            yield remote
        return
    path = Path(target).absolute()
    if not replace and os.path.lexists(path):
        raise _taken(path)
    with disk.directory(path.parent.resolve()) as folder:
        staged = f".{path.name[:100]}.{secrets.token_hex(4)}.partial"
        try:
            with disk.new_file(folder, staged) as descriptor:
                with os.fdopen(descriptor, "wb", closefd=False) as file:
                    yield file
                os.fsync(descriptor)
            if replace:
                os.rename(staged, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            else:
                # Unlike a rename this takes nobody's place.
                with contextlib.suppress(FileNotFoundError):
                    os.link(staged, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except FileExistsError:
            raise _taken(path) from None
        finally:
            with contextlib.suppress(OSError):
                os.unlink(staged, dir_fd=folder)
        os.fsync(folder)


def _taken(target: object) -> SnapshotError:
    return SnapshotError(f"{target} exists already; choose another file, or say --replace")


def _file_system(url: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs  # noqa: PLC0415 - optional
    except ImportError:
        raise SnapshotError(f"{url} needs fsspec: pip install 'fc-kernel[fsspec]', or use a path") from None
    with _remote(url):
        file_system, path = url_to_fs(url)
    return file_system, path


@contextlib.contextmanager
def _remote(url: str) -> Iterator[None]:
    """Whatever a file system's library raises becomes one of our errors."""
    try:
        yield
    except FcKernelError:
        raise
    except (gzip.BadGzipFile, zlib.error, EOFError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in disk.FULL:
            raise
        # Each library has errors of its own.
        raise SnapshotError(f"{url}: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _created_remote(url: str, *, replace: bool) -> Iterator[BinaryIO]:
    file_system, path = _file_system(url)
    staged = f"{path}.{secrets.token_hex(4)}.partial"
    with _remote(url):
        if not replace and file_system.exists(path):
            raise _taken(url)
        try:
            with file_system.open(staged, "wb") as file:
                yield file
            file_system.mv(staged, path)
        except BaseException:
            with contextlib.suppress(Exception):
                file_system.rm(staged)
            raise


@contextlib.contextmanager
def _readable(source: str | Path | BinaryIO) -> Iterator[Readable]:
    if not isinstance(source, str | Path):
        yield source
    elif "://" in str(source):
        file_system, path = _file_system(str(source))
        with _remote(str(source)), file_system.open(path, "rb") as file:
            yield file
    else:
        try:
            descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError as error:
            raise SnapshotError(f"cannot read {source}: {error.strerror}") from None
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise SnapshotError(f"{source} is not a regular file")
            yield file


def _unpacked(source: Readable) -> Readable:
    start = source.read(len(GZIP_MAGIC))
    joined = _Joined(start, source)
    if start == GZIP_MAGIC:
        packed: Any = joined
        return gzip.GzipFile(fileobj=packed, mode="rb")
    return joined


class _Joined:
    """What was read to see what it is, and the rest."""

    def __init__(self, start: bytes, rest: Readable) -> None:
        self._start = start
        self._rest = rest

    def read(self, size: int = -1) -> bytes:
        if self._start:
            data, self._start = self._start[:size], self._start[size:]
            return data
        return self._rest.read(size)
