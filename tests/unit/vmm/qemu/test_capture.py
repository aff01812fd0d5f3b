"""What of the guest's memory comes into a snapshot: files that, laid over each other, are the memory as it was."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fc_kernel.memory.pages import PAGE_BYTES, PageFile, pages_of_diff, write_pages
from fc_kernel.vmm.qemu import capture as capture_module
from fc_kernel.vmm.qemu.capture import Capture, Interrupted, Reference, Writing
from fc_kernel.vmm.qemu.memory import Region

PAGES = 2048
MEM_BYTES = PAGES * PAGE_BYTES


class Memory:
    """A process's memory over a base, as the kernel would tell of it."""

    size_bytes = MEM_BYTES

    def __init__(self, base: bytes) -> None:
        self.content = bytearray(base)
        self.own: set[int] = set()

    def put(self, page: int, data: bytes) -> None:
        self.content[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = data
        self.own.add(page)

    def own_pages(self) -> list[Region]:
        regions: list[Region] = []
        for page in sorted(self.own):
            if regions and sum(regions[-1]) == page:
                regions[-1] = (regions[-1][0], regions[-1][1] + 1)
            else:
                regions.append((page, 1))
        return regions

    def read(self, regions: Sequence[Region], buffer: memoryview) -> None:
        data = b"".join(self.content[first * PAGE_BYTES : (first + count) * PAGE_BYTES] for first, count in regions)
        buffer[:] = data


def save(memory: Any, reference: Reference, path: Path, *, full: bool) -> Path:
    """One snapshot, written when the guest has changed the memory meanwhile."""
    target = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        capture, writing = Capture(memory), Writing(target, reference, full=full)
        capture.take(writing)
        kept = bytes(memory.content)
        memory.content[:] = os.urandom(MEM_BYTES)
        capture.write(writing)
        memory.content[:] = kept
        capture.close()
    finally:
        os.close(target)
    reference.digests = writing.digests
    assert path.stat().st_size == MEM_BYTES
    return path


def laid_over(base: bytes, diff: Path) -> bytes:
    whole = bytearray(base)
    for first, data in pages_of_diff(diff):
        whole[first * PAGE_BYTES : first * PAGE_BYTES + len(data)] = data
    return bytes(whole)


def pages_in(path: Path) -> set[int]:
    return {first + at for first, data in pages_of_diff(path) for at in range(len(data) // PAGE_BYTES)}


@pytest.fixture(params=[False, True], ids=["all buffered", "most written at once"])
def buffered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        monkeypatch.setattr(capture_module, "MOST_BUFFERED_BYTES", 10 * PAGE_BYTES)


@pytest.mark.usefixtures("buffered")
@pytest.mark.parametrize("seed", range(6))
def test_a_life_of_full_and_diff_snapshots(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    based = seed % 2 == 1
    content = b"".join(rng.choice([bytes(PAGE_BYTES), rng.randbytes(PAGE_BYTES)]) for _ in range(PAGES))
    base = content if based else bytes(MEM_BYTES)
    (tmp_path / "base").write_bytes(base)
    descriptor = os.open(tmp_path / "base", os.O_RDONLY)
    memory = Memory(base)
    reference = Reference(MEM_BYTES, descriptor if based else None)
    last = base
    try:
        for number in range(8):
            for _ in range(rng.randrange(1, 200)):
                page = rng.randrange(PAGES)
                old = bytes(memory.content[page * PAGE_BYTES : (page + 1) * PAGE_BYTES])
                memory.put(page, rng.choice([bytes(PAGE_BYTES), old, rng.randbytes(PAGE_BYTES)]))
            full = number in (0, 5) if not based else number == 5
            path = save(memory, reference, tmp_path / str(number), full=full)
            assert (path.read_bytes() if full else laid_over(last, path)) == memory.content
            last = bytes(memory.content)
    finally:
        os.close(descriptor)


def test_a_diff_has_what_changed_and_no_more(tmp_path: Path) -> None:
    memory: Any = Memory(bytes(MEM_BYTES))
    reference = Reference(MEM_BYTES, None)
    for page in range(100):
        memory.put(page, os.urandom(PAGE_BYTES))
    save(memory, reference, tmp_path / "full", full=True)
    memory.put(50, os.urandom(PAGE_BYTES))
    memory.put(51, bytes(memory.content[51 * PAGE_BYTES : 52 * PAGE_BYTES]))
    memory.put(60, bytes(PAGE_BYTES))
    memory.put(1000, os.urandom(PAGE_BYTES))
    memory.put(1001, bytes(PAGE_BYTES))
    assert pages_in(save(memory, reference, tmp_path / "diff", full=False)) == {50, 60, 1000}
    assert pages_in(save(memory, reference, tmp_path / "again", full=False)) == set()


def test_what_was_given_up_is_in_the_next_diff(tmp_path: Path) -> None:
    memory: Any = Memory(bytes(MEM_BYTES))
    reference = Reference(MEM_BYTES, None)
    memory.put(7, os.urandom(PAGE_BYTES))
    before = reference.digests
    save(memory, reference, tmp_path / "given up", full=False)
    reference.digests = before
    assert pages_in(save(memory, reference, tmp_path / "next", full=False)) == {7}


def test_layers_are_what_the_next_diff_lies_over(tmp_path: Path) -> None:
    base = os.urandom(MEM_BYTES)
    (tmp_path / "base").write_bytes(base)
    memory: Any = Memory(base)
    descriptor = os.open(tmp_path / "base", os.O_RDONLY)
    try:
        reference = Reference(MEM_BYTES, descriptor)
        for number, pages in enumerate([{3: b"a", 4: b"b", 9: b"c"}, {4: b"d"}]):
            path = tmp_path / f"{number}.pages"
            write_pages(path, ((page, text * PAGE_BYTES) for page, text in pages.items()))
            with PageFile.open(path, MEM_BYTES) as layer:
                reference.learn(layer)
            for page, text in pages.items():
                memory.put(page, text * PAGE_BYTES)
        memory.put(9, b"x" * PAGE_BYTES)
        assert pages_in(save(memory, reference, tmp_path / "diff", full=False)) == {9}
    finally:
        os.close(descriptor)


def test_a_writing_that_is_given_up_ends_soon(tmp_path: Path) -> None:
    memory: Any = Memory(bytes(MEM_BYTES))
    memory.put(1, os.urandom(PAGE_BYTES))
    with (tmp_path / "mem").open("w+b") as file:
        capture, writing = Capture(memory), Writing(file.fileno(), Reference(MEM_BYTES, None), full=True)
        capture.take(writing)
        capture.stop()
        with pytest.raises(Interrupted):
            capture.write(writing)
        capture.close()
