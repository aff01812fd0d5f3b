"""The guest's memory in QEMU's process: finding the process's own pages, reading them, and writing pages.

The memory is anonymous after a boot, and a private mapping of the snapshot's ``mem`` after a load; either way the *anonymous*
pages are those that the guest wrote (with huge pages, also those around them). They are copied with ``process_vm_readv(2)``,
which is allowed for a child of our uid, and which copies once where ``/proc/PID/mem`` copies twice.

The process is not trusted: a wrong address reads or harms only that process.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import struct
from array import array
from collections.abc import Iterator, Sequence
from typing import Self

from ...errors import MonitorError
from ...memory.pages import PAGE_BYTES

#: ``linux/fs.h`` since Linux 6.7: ``_IOWR('f', 16, struct pm_scan_arg)``, and the categories of a page.
PAGEMAP_SCAN = 0xC0606610
PAGE_IS_FILE, PAGE_IS_PRESENT, PAGE_IS_SWAPPED, PAGE_IS_PFNZERO = 1 << 2, 1 << 3, 1 << 4, 1 << 5
#: size, flags, start, end, walk_end, vec, vec_len, max_pages, category_inverted, _mask, _anyof_mask, return_mask
SCAN_ARGUMENT = struct.Struct("<12Q")
REGION = struct.Struct("<QQQ")
#: How many regions one call returns at most: 32768 take 768 KiB.
REGIONS = 1 << 15
#: ``Documentation/admin-guide/mm/pagemap.rst``: one u64 for each page.
PAGEMAP_ENTRY_BYTES = 8
PAGEMAP_PRESENT, PAGEMAP_SWAPPED, PAGEMAP_FILE = 1 << 63, 1 << 62, 1 << 61
PAGEMAP_CHUNK = 1 << 16
#: How many regions one call copies at most (``UIO_MAXIOV`` of ``linux/uio.h``).
MAX_IOV = 1024
#: 4 MiB are copied at a time, so that a thread stops within milliseconds when it is told to.
PIECE_PAGES = 1024
#: ``madvise(2)`` since Linux 5.14.
MADV_POPULATE_WRITE = 23

#: First page and number of pages.
Region = tuple[int, int]

_libc = ctypes.CDLL(None, use_errno=True)
for _name in ("process_vm_readv", "process_vm_writev"):
    getattr(_libc, _name).restype = ctypes.c_ssize_t
    getattr(_libc, _name).argtypes = (
        ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong
    )  # fmt: skip
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class GuestMemory:
    """The guest's memory in one process. A context manager; its methods may block for some milliseconds."""

    def __init__(self, pid: int, address: int, size_bytes: int) -> None:
        """``address`` is where the guest's memory begins in the process. Raises :class:`~fc_kernel.errors.MonitorError`."""
        self.size_bytes = size_bytes
        self._address = address
        self._pid = pid
        with _named(pid):
            self._pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor; may be called twice."""
        if self._pagemap >= 0:
            os.close(self._pagemap)
            self._pagemap = -1

    def own_pages(self) -> list[Region]:
        """The process's own pages, ascending; all others are as in the mapped file (or zero without one)."""
        with _named(self._pid):
            try:
                found = list(self._scanned())
            except OSError:
                # Before Linux 6.7.
                found = list(self._looked_up())
            # An ended process has neither pages nor a page table.
            if not os.pread(self._pagemap, PAGEMAP_ENTRY_BYTES, self._address // PAGE_BYTES * PAGEMAP_ENTRY_BYTES):
                raise MonitorError(f"the memory of process {self._pid} cannot be read: it has ended")
        return found

    def _scanned(self) -> Iterator[Region]:
        end = self._address + self.size_bytes
        with mmap.mmap(-1, REGIONS * REGION.size) as found:
            vector = _address_of(found)
            at = self._address
            while at < end:
                argument = bytearray(
                    SCAN_ARGUMENT.pack(
                        SCAN_ARGUMENT.size, 0, at, end, 0, vector, REGIONS, 0,
                        PAGE_IS_FILE | PAGE_IS_PFNZERO, PAGE_IS_FILE | PAGE_IS_PFNZERO,
                        PAGE_IS_PRESENT | PAGE_IS_SWAPPED, PAGE_IS_FILE,
                    )
                )  # fmt: skip
                count = fcntl.ioctl(self._pagemap, PAGEMAP_SCAN, argument)
                for start, stop, _ in REGION.iter_unpack(found[: count * REGION.size]):
                    yield (start - self._address) // PAGE_BYTES, (stop - start) // PAGE_BYTES
                if count < REGIONS:
                    return
                # Not walk_end: with more regions than the kernel's own buffer holds it is too small.
                at = stop

    def _looked_up(self) -> Iterator[Region]:
        """The own pages according to ``pagemap``; a zero page that was only read counts too, which does no harm."""
        first = self._address // PAGE_BYTES
        total = self.size_bytes // PAGE_BYTES
        start: int | None = None
        for at in range(0, total, PAGEMAP_CHUNK):
            size = min(PAGEMAP_CHUNK, total - at)
            table = os.pread(self._pagemap, size * PAGEMAP_ENTRY_BYTES, (first + at) * PAGEMAP_ENTRY_BYTES)
            entries: Sequence[int] = memoryview(table).cast("Q")
            for page, entry in enumerate(entries, at):
                own = entry & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED) and not entry & PAGEMAP_FILE
                if own and start is None:
                    start = page
                elif not own and start is not None:
                    yield start, page - start
                    start = None
        if start is not None:
            yield start, total - start

    def read(self, regions: Sequence[Region], buffer: memoryview) -> None:
        """Copy the regions, one behind the other, into ``buffer``, which must have their total size."""
        self._transfer(_libc.process_vm_readv, regions, buffer, "read")

    def write(self, regions: Sequence[Region], data: memoryview) -> None:
        """Copy ``data`` to the regions, one behind the other; it must be a writable buffer, although it is not changed."""
        self._transfer(_libc.process_vm_writev, regions, data, "written")

    def _transfer(self, call: ctypes._CFuncPtr, regions: Sequence[Region], data: memoryview, what: str) -> None:  # type: ignore[name-defined]
        if not regions:
            return
        local = ctypes.addressof(ctypes.c_char.from_buffer(data))
        done = 0
        for at in range(0, len(regions), MAX_IOV):
            theirs = array("Q")
            size = 0
            for first, pages in regions[at : at + MAX_IOV]:
                theirs.extend((self._address + first * PAGE_BYTES, pages * PAGE_BYTES))
                size += pages * PAGE_BYTES
            if done + size > len(data):
                raise ValueError(f"{len(data)} bytes are too few")
            ours = array("Q", (local + done, size))
            count = call(self._pid, ours.buffer_info()[0], 1, theirs.buffer_info()[0], len(theirs) // 2, 0)
            if count != size:
                reason = os.strerror(ctypes.get_errno()) if count < 0 else f"{count} of {size} bytes"
                raise MonitorError(f"the memory of process {self._pid} cannot be {what}: {reason}")
            done += size


def pieces(regions: Sequence[Region], most_pages: int = PIECE_PAGES) -> Iterator[list[Region]]:
    """The same regions in lists of at most ``most_pages`` pages each; large regions are divided."""
    piece: list[Region] = []
    room = most_pages
    for start, count in regions:
        first, left = start, count
        while left:
            take = min(left, room)
            piece.append((first, take))
            first, left, room = first + take, left - take, room - take
            if not room:
                yield piece
                piece, room = [], most_pages
    if piece:
        yield piece


def page_count(regions: Sequence[Region]) -> int:
    """The total number of pages of the regions."""
    return sum(pages for _, pages in regions)


@contextlib.contextmanager
def _named(pid: int) -> Iterator[None]:
    """Turn an :class:`OSError` into a :class:`~fc_kernel.errors.MonitorError` that names the process."""
    try:
        yield
    except OSError as error:
        raise MonitorError(f"the memory of process {pid} cannot be reached: {error.strerror}") from error


def _address_of(buffer: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def prefaulted(size_bytes: int) -> mmap.mmap:
    """A buffer whose pages are allocated already: writing to it costs no page faults. Blocks some milliseconds per 50 MB.

    Without huge pages: finding free ones may take longer than everything else here.
    """
    buffer = mmap.mmap(-1, max(PAGE_BYTES, size_bytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # Where Linux cannot do this, pages are allocated when written. (ctypes lets other threads run meanwhile.)
    _libc.madvise(_address_of(buffer), len(buffer), MADV_POPULATE_WRITE)
    return buffer
