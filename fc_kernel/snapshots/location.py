"""Where exports are written to and imports are read from: a path, or any URL that ``fsspec`` knows."""

from __future__ import annotations

import contextlib
import gzip
import os
import secrets
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from ..errors import FcKernelError, SnapshotError
from . import disk
from .archive import Readable

GZIP_ENDINGS = (".gz", ".tgz")
#: Memory is large, and most of the gain is at the lowest level.
GZIP_LEVEL = 1


@contextlib.contextmanager
def writable(target: str | Path, *, replace: bool, doing: str) -> Iterator[BinaryIO]:
    """Something to write to that becomes ``target`` when the block ends well; ``.gz`` and ``.tgz`` are compressed.

    An existing file stays unless ``replace``. Raises :class:`~fc_kernel.errors.SnapshotError` that says ``doing``.
    """
    with disk.explained(doing), _created(target, replace=replace) as out:
        if str(target).endswith(GZIP_ENDINGS):
            with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=GZIP_LEVEL, mtime=0) as packed:
                yield cast("BinaryIO", packed)
        else:
            yield out


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
                # Unlike a rename, this never replaces a file.
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
def readable(source: str | Path, *, doing: str) -> Iterator[Readable]:
    """A regular file, or what a URL names, to read; raises :class:`~fc_kernel.errors.SnapshotError` that says ``doing``."""
    with disk.explained(doing), _opened(source) as file:
        yield file


@contextlib.contextmanager
def _opened(source: str | Path) -> Iterator[Readable]:
    if "://" in str(source):
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
