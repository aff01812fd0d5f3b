"""A snapshot of the guest's memory: copied while the guest is paused, compared and written while it runs again."""

from __future__ import annotations

import mmap
import os
import threading
from array import array
from collections.abc import Sequence

from ...memory.pages import PAGE_BYTES, PageFile, copy_sparse
from .memory import GuestMemory, Region, page_count, pieces, prefaulted

#: Room in the buffer for pages that the guest writes between the estimate and the pause.
SLACK_PAGES = 1024
#: The largest buffer: what does not fit is written into the file while the guest is paused.
MOST_BUFFERED_BYTES = 2 << 30


class Interrupted(Exception):
    """Raised in the thread that copies or writes when it was told to stop."""


class Reference:
    """The memory at the last snapshot or load: a digest of every page that was the process's own then.

    All other pages were as in ``base``, the file that the memory is a private mapping of (zeros after a boot). A digest is
    Python's keyed 64-bit hash: a changed page has the same one once in 10^19 pages, whatever the guest does.
    """

    def __init__(self, mem_bytes: int, base: int | None) -> None:
        self.base = base
        self.digests = array("q", bytes(8 * (mem_bytes // PAGE_BYTES)))

    def learn(self, layer: PageFile) -> None:
        """Record that the pages of a page file were laid over the memory."""
        digests = self.digests
        for regions, data in layer.blocks():
            now = array("q", map(hash, _paged(data)))
            at = 0
            for first, pages in regions:
                digests[first : first + pages] = now[at : at + pages]
                at += pages

    def below(self, first: int, size: int) -> bytes:
        """The base file's content of these pages."""
        return bytes(size) if self.base is None else os.pread(self.base, size, first * PAGE_BYTES)


def _paged(data: bytes) -> list[bytes]:
    return [data[at : at + PAGE_BYTES] for at in range(0, len(data), PAGE_BYTES)]


class Capture:
    """The memory of one snapshot. All methods may block; used in one thread at a time."""

    def __init__(self, memory: GuestMemory) -> None:
        """Prepare a buffer while the guest still runs."""
        self._memory = memory
        estimate = min((page_count(memory.own_pages()) + SLACK_PAGES) * PAGE_BYTES, MOST_BUFFERED_BYTES)
        self._buffer = prefaulted(min(estimate, memory.size_bytes))
        self._regions: list[Region] = []
        self._stop = threading.Event()

    def take(self, writing: Writing) -> None:
        """Copy the pages of the paused guest."""
        regions = self._memory.own_pages()
        size = page_count(regions) * PAGE_BYTES
        if size > len(self._buffer):
            self._buffer = mmap.mmap(-1, min(size, MOST_BUFFERED_BYTES), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        fit, rest = _divided(regions, len(self._buffer) // PAGE_BYTES)
        with memoryview(self._buffer) as view:
            self._memory.read(fit, view[: page_count(fit) * PAGE_BYTES])
        self._regions = fit
        if rest:
            writing.begin()
        for piece in pieces(rest):
            self._check()
            scratch = bytearray(page_count(piece) * PAGE_BYTES)
            with memoryview(scratch) as view:
                self._memory.read(piece, view)
            writing.add(piece, bytes(scratch))

    def write(self, writing: Writing) -> None:
        """Write the copied pages; the guest may run meanwhile."""
        writing.begin()
        at = 0
        with memoryview(self._buffer) as view:
            for piece in pieces(self._regions):
                self._check()
                size = page_count(piece) * PAGE_BYTES
                writing.add(piece, bytes(view[at : at + size]))
                at += size

    def _check(self) -> None:
        if self._stop.is_set():
            raise Interrupted

    def stop(self) -> None:
        """Make :meth:`take` and :meth:`write` raise :class:`Interrupted` soon."""
        self._stop.set()

    def close(self) -> None:
        """Release the buffer; may be called twice."""
        self._buffer.close()


def _divided(regions: Sequence[Region], pages: int) -> tuple[list[Region], list[Region]]:
    """Divide the regions into the first ``pages`` pages and the rest."""
    if page_count(regions) <= pages:
        return list(regions), []
    first = next(pieces(regions, pages), [])
    taken = page_count(first)
    rest: list[Region] = []
    for start, count in regions:
        skipped = min(taken, count)
        taken -= skipped
        if count > skipped:
            rest.append((start + skipped, count - skipped))
    return first, rest


class Writing:
    """A ``mem`` file that is being written, and the page digests that become the next reference."""

    def __init__(self, target: int, reference: Reference, *, full: bool) -> None:
        self._target = target
        self._reference = reference
        self._full = full
        self._begun = False
        self.digests = reference.digests[:]

    def begin(self) -> None:
        """Give the file its size, and a full one the content of the base; only the first call does anything."""
        if self._begun:
            return
        self._begun = True
        size = len(self.digests) * PAGE_BYTES
        if self._full and self._reference.base is not None:
            copy_sparse(self._reference.base, self._target, size)
        os.ftruncate(self._target, size)

    def add(self, regions: Sequence[Region], data: bytes) -> None:
        """Take the content of the regions, one behind the other, and write the pages that the file needs."""
        at = 0
        for first, pages in regions:
            size = pages * PAGE_BYTES
            self._add(first, data[at : at + size])
            at += size

    def _add(self, first: int, data: bytes) -> None:
        pages = _paged(data)
        now = array("q", map(hash, pages))
        before = self._reference.digests[first : first + len(now)]
        self.digests[first : first + len(now)] = now
        if self._full:
            below = self._reference.below(first, len(data))
            unlike = [
                number
                for number, page in enumerate(pages)
                if page != below[number * PAGE_BYTES : (number + 1) * PAGE_BYTES]
            ]
        elif before == now:
            return
        else:
            below = self._reference.below(first, len(data)) if 0 in before else b""
            unlike = [
                number
                for number, (old, new) in enumerate(zip(before, now, strict=True))
                if (old != new if old else pages[number] != below[number * PAGE_BYTES : (number + 1) * PAGE_BYTES])
            ]
        start = 0
        while start < len(unlike):
            end = start + 1
            while end < len(unlike) and unlike[end] == unlike[end - 1] + 1:
                end += 1
            self._write(first + unlike[start], data[unlike[start] * PAGE_BYTES : (unlike[end - 1] + 1) * PAGE_BYTES])
            start = end

    def _write(self, first: int, data: bytes) -> None:
        view, offset = memoryview(data), first * PAGE_BYTES
        while view:
            count = os.pwrite(self._target, view, offset)
            view, offset = view[count:], offset + count
