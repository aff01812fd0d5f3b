"""Page files: the pages of a guest's memory that differ from the layers below, each once. Files are checked when opened.

Layout, little endian: ``FCPAGES1``, u32 size of a page, u32 0, u64 number of pages, zeros up to 4096; the pages in order;
then for each page its number in the guest's memory, a u32. The table comes last so that a file is written in one pass.

Pages are passed as *runs*: the number of the first page, and the bytes of one or more whole pages. Files are read, not
mapped: a file that is truncated meanwhile then gives an error and does not kill the process (SIGBUS).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import chain, compress, count, islice, repeat
from operator import lt, ne, sub
from pathlib import Path
from typing import Self

from ..errors import SnapshotCorrupt

PAGE_BYTES = 4096
MAGIC = b"FCPAGES1"
HEADER = struct.Struct("<8sIIQ")
NUMBER_BYTES = 4
#: How much is read at a time: enough that Python's overhead does not count, little enough for the processor's cache.
CHUNK_BYTES = 1 << 20
#: ``linux/fs.h``: share the blocks of another file, where the file system can.
FICLONE = 0x40049409

Run = tuple[int, "bytes | memoryview"]


def write_pages(path: Path, pages: Iterable[Run]) -> int:
    """Write runs, in ascending order, to a new file (0600); returns the number of pages. The caller does the fsync.

    On an error the file is removed. Raises :class:`FileExistsError`, and :class:`ValueError` for pages in another order.
    """
    numbers = array("I")
    with _created(path) as file:
        file.write(bytes(PAGE_BYTES))
        for first, data in pages:
            size, rest = divmod(len(data), PAGE_BYTES)
            if rest or (numbers and first <= numbers[-1]):
                raise ValueError(f"{len(data)} bytes at page {first} after page {numbers[-1] if numbers else None}")
            numbers.extend(range(first, first + size))
            file.write(data)
        file.write(_little_endian(numbers).tobytes())
        file.seek(0)
        file.write(HEADER.pack(MAGIC, PAGE_BYTES, 0, len(numbers)))
    return len(numbers)


class _created:  # noqa: N801 - a context manager, named like a function
    """A new file, which is removed when the block fails."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        self._file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")
        self.write, self.seek, self.fileno = self._file.write, self._file.seek, self._file.fileno
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._file.close()
        except OSError:
            self._path.unlink(missing_ok=True)
            raise
        if kind is not None:
            self._path.unlink(missing_ok=True)


def _little_endian(numbers: array[int]) -> array[int]:
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers


class PageFile:
    """An open page file whose header and table have been checked. A context manager."""

    def __init__(self, descriptor: int, numbers: array[int]) -> None:
        self._descriptor = descriptor
        self._index: dict[int, int] | None = None
        #: The numbers of the pages in it, ascending.
        self.numbers = numbers

    @classmethod
    def open(cls, path: Path, mem_size_bytes: int) -> Self:
        """Open and check a file; raises :class:`~fc_kernel.errors.SnapshotCorrupt`, or :class:`OSError` from opening it."""
        descriptor, size = _opened(path)
        try:
            return cls(descriptor, _checked_numbers(descriptor, size, mem_size_bytes))
        except BaseException:
            os.close(descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def page(self, number: int) -> bytes | None:
        """A page's bytes, or ``None`` when it is not in the file."""
        if self._index is None:
            self._index = dict(zip(self.numbers, count(), strict=False))
        at = self._index.get(number)
        return None if at is None else self.at(at)

    def at(self, index: int) -> bytes:
        """The bytes of the page that is ``numbers[index]``."""
        return _read(self._descriptor, PAGE_BYTES, PAGE_BYTES + index * PAGE_BYTES)

    def blocks(self, most_pages: int = CHUNK_BYTES // PAGE_BYTES) -> Iterator[tuple[list[tuple[int, int]], bytes]]:
        """All pages in file order: lists of (first page, count) in the guest's memory, each with the bytes of those pages."""
        for at in range(0, len(self.numbers), most_pages):
            part = self.numbers[at : at + most_pages]
            regions = [(part[start], end - start) for start, end in _consecutive(part)]
            yield regions, _read(self._descriptor, len(part) * PAGE_BYTES, PAGE_BYTES + at * PAGE_BYTES)

    def runs(self) -> Iterator[Run]:
        """All pages, consecutive ones together up to a mebibyte."""
        numbers = self.numbers
        for start, end in _consecutive(numbers):
            for at in range(start, end, CHUNK_BYTES // PAGE_BYTES):
                size = min(end - at, CHUNK_BYTES // PAGE_BYTES)
                yield numbers[at], _read(self._descriptor, size * PAGE_BYTES, PAGE_BYTES + at * PAGE_BYTES)


def _opened(path: Path) -> tuple[int, int]:
    """A regular file's descriptor and size."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, found.st_size


def _checked_numbers(descriptor: int, size: int, mem_size_bytes: int) -> array[int]:
    def corrupt(problem: str) -> SnapshotCorrupt:
        return SnapshotCorrupt("pages", problem)

    head = os.pread(descriptor, PAGE_BYTES, 0)
    if len(head) < PAGE_BYTES:
        raise corrupt(f"{len(head)} bytes are no page file")
    magic, page_bytes, zero, total = HEADER.unpack_from(head)
    if magic != MAGIC or page_bytes != PAGE_BYTES or zero or head.count(0, HEADER.size) != PAGE_BYTES - HEADER.size:
        raise corrupt("it does not begin as a page file does")
    # Checked before anything of that size is allocated.
    if total > mem_size_bytes // PAGE_BYTES:
        raise corrupt(f"{total} pages for a memory of {mem_size_bytes // PAGE_BYTES}")
    wanted = PAGE_BYTES + total * (PAGE_BYTES + NUMBER_BYTES)
    if size != wanted:
        raise corrupt(f"{size} bytes; {total} pages are {wanted}")
    numbers = array("I")
    if total:
        numbers.frombytes(_read(descriptor, total * NUMBER_BYTES, PAGE_BYTES * (1 + total)))
        numbers = _little_endian(numbers)
        if not all(map(lt, numbers, islice(numbers, 1, None))):
            raise corrupt("the pages are not in ascending order")
        if numbers[-1] >= mem_size_bytes // PAGE_BYTES:
            raise corrupt(f"page {numbers[-1]} of a memory of {mem_size_bytes // PAGE_BYTES}")
    return numbers


def _read(descriptor: int, size: int, offset: int) -> bytes:
    data = os.pread(descriptor, size, offset)
    while len(data) < size:
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:
            raise SnapshotCorrupt("pages", f"it ends at byte {offset + len(data)}")
        data += more
    return data


def _consecutive(numbers: array[int]) -> Iterator[tuple[int, int]]:
    """Ranges of consecutive numbers, as pairs of the first index and the index after the last."""
    if numbers:
        steps = map(sub, islice(numbers, 1, None), numbers)
        breaks = compress(range(1, len(numbers)), map(ne, steps, repeat(1)))
        start = 0
        for end in chain(breaks, (len(numbers),)):
            yield start, end
            start = end


def data_extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of a file that are not holes, as offsets of whole pages."""
    at = 0
    while at < size:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # a hole to the end
            raise
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        # A file system's blocks may be smaller than a page.
        start = max(at, start - start % PAGE_BYTES)
        at = min(size, end + -end % PAGE_BYTES)
        yield start, at


def pages_of_diff(mem: Path) -> Iterator[Run]:
    """The data of a driver's sparse diff without its holes, as runs of at most a mebibyte."""
    descriptor, size = _opened(mem)
    try:
        if size % PAGE_BYTES:
            raise SnapshotCorrupt("mem", f"{size} bytes are not a number of pages")
        for start, end in data_extents(descriptor, size):
            for at in range(start, end, CHUNK_BYTES):
                yield at // PAGE_BYTES, _read(descriptor, min(CHUNK_BYTES, end - at), at)
    finally:
        os.close(descriptor)


class PageStack:
    """A guest's memory: a base file with page files laid over it, oldest first. A context manager."""

    def __init__(self, base: Path, layers: Sequence[Path]) -> None:
        """Open all files; raises :class:`~fc_kernel.errors.SnapshotCorrupt` and :class:`OSError`."""
        with ExitStack() as stack:
            self._base, self.size_bytes = _opened(base)
            stack.callback(os.close, self._base)
            if self.size_bytes % PAGE_BYTES:
                raise SnapshotCorrupt("mem", f"{self.size_bytes} bytes are not a number of pages")
            self.layers = [stack.enter_context(PageFile.open(path, self.size_bytes)) for path in layers]
            self._undo = stack.pop_all()
        #: Page → the topmost layer that has it, and its index there.
        self._where: dict[int, tuple[PageFile, int]] = {}
        for layer in self.layers:
            self._where.update(zip(layer.numbers, zip(repeat(layer), count(), strict=False), strict=False))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the descriptors."""
        self._undo.close()

    def read(self, first: int, pages: int) -> bytes:
        """The bytes of consecutive pages."""
        data = _read(self._base, pages * PAGE_BYTES, first * PAGE_BYTES)
        where = self._where
        over = [number for number in range(first, first + pages) if number in where]
        if not over:
            return data
        whole = bytearray(data)
        for number in over:
            layer, index = where[number]
            at = (number - first) * PAGE_BYTES
            whole[at : at + PAGE_BYTES] = layer.at(index)
        return bytes(whole)


def differing(pages: Iterable[Run], below: PageStack) -> Iterator[Run]:
    """Those of the pages that differ from ``below``, consecutive ones together."""
    for first, run in pages:
        total = len(run) // PAGE_BYTES
        if first + total > below.size_bytes // PAGE_BYTES:
            raise SnapshotCorrupt("mem", f"page {first + total - 1} of a memory of {below.size_bytes // PAGE_BYTES}")
        data = bytes(run)
        old = below.read(first, total)
        if data == old:
            continue
        others = array(
            "I",
            (
                number
                for number, at in enumerate(range(0, len(data), PAGE_BYTES))
                if data[at : at + PAGE_BYTES] != old[at : at + PAGE_BYTES]
            ),
        )
        for start, end in _consecutive(others):
            from_page, size = others[start], end - start
            yield first + from_page, data[from_page * PAGE_BYTES : (from_page + size) * PAGE_BYTES]


def changed_pages(diff_mem: Path, base: Path, layers: Sequence[Path]) -> Iterator[Run]:
    """The pages of a driver's sparse diff that differ from ``base`` with ``layers`` over it."""
    with PageStack(base, layers) as below:
        yield from differing(pages_of_diff(diff_mem), below)


def copy_sparse(source: int, target: int, size: int) -> None:
    """Copy a file's data into a new file and keep its holes; blocks are shared where the file system can."""
    with suppress(OSError):
        fcntl.ioctl(target, FICLONE, source)
        return
    os.ftruncate(target, size)
    for start, end in data_extents(source, size):
        at = start
        while at < end:
            copied = os.copy_file_range(source, target, end - at, at, at)
            if not copied:
                raise SnapshotCorrupt("mem", f"it ends at byte {at}")
            at += copied


def merge(base: Path, layers: Sequence[Path], target: Path) -> None:
    """Write ``base`` with ``layers`` over it as one new sparse file (0600)."""
    with PageStack(base, layers) as below, _created(target) as file:
        copy_sparse(below._base, file.fileno(), below.size_bytes)
        for layer in below.layers:
            for first, data in layer.runs():
                _write(file.fileno(), data, first * PAGE_BYTES)


def _write(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
