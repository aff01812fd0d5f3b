"""A machine's state as the two files of a snapshot, page by page, so that page files, layers and diffs work as with a real one.

``mem`` is sparse and as large as the machine's memory: page 0 says how long the state is and what its digest is, the state
(JSON) follows from page 1. ``vmstate`` is small and has a digest of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...base.files import read_regular
from ...memory.pages import PAGE_BYTES, PageStack

MEM_HEADER = struct.Struct("<8sQ32s")
MEM_MAGIC = b"FCSCRIPT"
VMSTATE_MAGIC = "fc-kernel scripted guest"
#: A change that an older reader would not understand raises it.
FORMAT = 1
MAX_VMSTATE_BYTES = 64 << 10

Pages = dict[int, bytes]


class Memory:
    """Which pages the machine's memory had at the last snapshot or load."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._saved: Pages = {}
        self._before: Pages = {}

    def write(self, path: Path, state: dict[str, Any], *, diff: bool, halfway: Callable[[], None]) -> None:
        """Write ``mem`` into a new file; a diff is of what changed since the last time. ``halfway`` may raise."""
        pages = _pages(state)
        if max(pages) >= self.size_bytes // PAGE_BYTES:
            raise MemoryError(f"a state of {len(pages)} pages in a memory of {self.size_bytes // PAGE_BYTES}")
        written = _difference(self._saved, pages) if diff else pages
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, self.size_bytes)
            for count, (number, page) in enumerate(sorted(written.items())):
                if count == len(written) // 2:
                    halfway()
                os.pwrite(descriptor, page, number * PAGE_BYTES)
            if not written:
                halfway()
        finally:
            os.close(descriptor)
        self._before, self._saved = self._saved, pages

    def discard(self) -> None:
        """The last snapshot was thrown away: the next diff is of what changed since the one before."""
        self._saved = self._before

    @classmethod
    def read(cls, base: Path, layers: Sequence[Path], size_bytes: int) -> tuple[Memory, dict[str, Any]]:
        """The memory and the state in ``mem`` with page files over it; raises :class:`ValueError`, and as opening them does."""
        memory = cls(size_bytes)
        with PageStack(base, layers) as stack:
            if stack.size_bytes != size_bytes:
                raise ValueError(f"mem has {stack.size_bytes} bytes, the machine {size_bytes}")
            head = stack.read(0, 1)
            magic, length, digest = MEM_HEADER.unpack_from(head)
            count = -(-length // PAGE_BYTES)
            if magic != MEM_MAGIC or not 0 < count < size_bytes // PAGE_BYTES:
                raise ValueError("mem holds no scripted guest")
            content = stack.read(1, count)
        if hashlib.sha256(content[:length]).digest() != digest:
            raise ValueError("mem is not what was written")
        memory._saved = memory._before = {0: head, **_cut(content)}
        state = json.loads(content[:length])
        return memory, state


def _pages(state: dict[str, Any]) -> Pages:
    content = json.dumps(state).encode()
    head = MEM_HEADER.pack(MEM_MAGIC, len(content), hashlib.sha256(content).digest())
    return {0: head.ljust(PAGE_BYTES, b"\0"), **_cut(content)}


def _cut(content: bytes) -> Pages:
    numbers = range(-(-len(content) // PAGE_BYTES))
    return {number + 1: content[number * PAGE_BYTES :][:PAGE_BYTES].ljust(PAGE_BYTES, b"\0") for number in numbers}


def _difference(old: Pages, new: Pages) -> Pages:
    """The pages that have changed; those that are not there any more became zeros."""
    changed = {number: page for number, page in new.items() if old.get(number) != page}
    return changed | {number: bytes(PAGE_BYTES) for number in old.keys() - new.keys()}


def write_vmstate(path: Path, facts: dict[str, Any]) -> None:
    """Write ``vmstate`` into a new file."""
    text = json.dumps({"magic": VMSTATE_MAGIC, "format": FORMAT, **facts})
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")


def read_vmstate(path: Path) -> dict[str, Any]:
    """What :func:`write_vmstate` was given; raises :class:`ValueError` and :class:`OSError`."""
    digest, _, text = read_regular(path, MAX_VMSTATE_BYTES).partition(b"\n")
    if hashlib.sha256(text).hexdigest().encode() != digest:
        raise ValueError("vmstate is damaged: its digest differs")
    facts: dict[str, Any] = json.loads(text)
    if facts.pop("magic") != VMSTATE_MAGIC:
        raise ValueError("vmstate is of another monitor")
    if (version := facts.pop("format")) != FORMAT:
        raise ValueError(f"vmstate has format {version}; this monitor reads {FORMAT}")
    return facts
