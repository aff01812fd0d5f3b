"""Digests of memories and what is remembered of them: holes are free, our own links forget nothing, a change is found."""

from __future__ import annotations

import hashlib
import os
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fc_kernel.base.verified import VerifiedFiles
from fc_kernel.errors import SnapshotCorrupt
from fc_kernel.memory.digest import BLOCK_BYTES, memory_digest
from fc_kernel.snapshots import SnapshotStore, TemplateStore, root

from ...snapshots_made import page, save, store_in, write_sparse
from ..snapshots.test_templates import make

GIB = 1 << 30


def of(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return memory_digest(descriptor)
    finally:
        os.close(descriptor)


def by_the_book(data: bytes) -> str:
    """As the module's first lines say."""
    whole = hashlib.sha256(b"FCSPARSE" + struct.pack("<Q", len(data)))
    for number in range(-(-len(data) // BLOCK_BYTES)):
        block = data[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES]
        if any(block):
            whole.update(struct.pack("<Q", number) + block)
    return whole.hexdigest()


@given(
    st.integers(0, 40 * BLOCK_BYTES),
    st.lists(st.tuples(st.integers(0, 40 * BLOCK_BYTES), st.binary(min_size=1, max_size=9000)), max_size=6),
)
def test_it_is_as_it_is_said_to_be(
    tmp_path_factory: pytest.TempPathFactory, size: int, writes: list[tuple[int, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("memory") / "mem"
    whole = bytearray(size)
    with path.open("wb") as file:
        file.truncate(size)
        for at, more in writes:
            if data := more[: max(0, size - at)]:
                whole[at : at + len(data)] = data
                os.pwrite(file.fileno(), data, at)
    assert of(path) == by_the_book(bytes(whole))
    dense = path.with_name("dense")
    dense.write_bytes(whole)
    assert of(dense) == of(path)


def test_what_is_moved_or_cut_is_another(tmp_path: Path) -> None:
    block = random.Random(1).randbytes(BLOCK_BYTES)
    zeros = bytes(BLOCK_BYTES)
    contents = [block, block + zeros, zeros + block, block + block, zeros, zeros + zeros, block[:-1], b""]
    digests = set()
    for number, content in enumerate(contents):
        path = tmp_path / str(number)
        path.write_bytes(content)
        digests.add(of(path))
    assert len(digests) == len(contents)


def test_holes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mem"
    write_sparse(path, {3: page(3), 5 * GIB // 4096: page(4)}, size=8 * GIB)
    read: list[int] = []
    real = os.pread

    def counting(descriptor: int, size: int, offset: int) -> bytes:
        read.append(size)
        return real(descriptor, size, offset)

    monkeypatch.setattr("fc_kernel.memory.digest.os.pread", counting)
    of(path)
    assert 0 < sum(read) <= 4 * BLOCK_BYTES


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Inodes of memories that were hashed."""
    inodes: list[int] = []
    real = memory_digest

    def counting(descriptor: int) -> str:
        inodes.append(os.fstat(descriptor).st_ino)
        return real(descriptor)

    monkeypatch.setattr(root, "memory_digest", counting)
    return inodes


def test_links_and_removals_of_our_own_forget_nothing(tmp_path: Path, hashed: list[int]) -> None:
    records = VerifiedFiles(tmp_path / "cache")
    templates = TemplateStore(tmp_path / "templates", owner="ann", records=records)
    store = SnapshotStore(tmp_path / "snapshots", owner="ann", records=records)
    template = make(templates, "a")
    assert hashed == [template.mem.stat().st_ino]
    hashed.clear()
    templates.check(template)
    # Another process, with nothing in its own memory.
    other = SnapshotStore(tmp_path / "snapshots", owner="ann", records=VerifiedFiles(tmp_path / "cache"))
    last = template
    for number in range(3):
        last = save(store, on=last, pages={number: page(number, "new")})
        other.check(last)
        templates.check(template)
    with store.begin(name=None, scope="b.ipynb", expected_bytes=0) as draft:
        write_sparse(draft.files.mem, {})
    store.rename(last, "renamed")
    for each in store.list()[:-1]:
        store.delete(each)
    templates.delete(template)
    other.check(last)
    assert hashed == []


def test_a_change_of_somebody_else_is_found(tmp_path: Path, hashed: list[int]) -> None:
    store = store_in(tmp_path)
    first = save(store)
    second = save(store, on=first, pages={7: page(7)})
    hashed.clear()
    before = first.mem.stat()
    with first.mem.open("r+b") as file:
        file.seek(4096)
        file.write(b"x")
    os.utime(first.mem, ns=(before.st_atime_ns, before.st_mtime_ns))
    # Links of our own between the change and the check do not hide it.
    third = save(store, on=second, pages={8: page(8)})
    store.delete(second)
    for each in (first, third):
        with pytest.raises(SnapshotCorrupt, match="mem: its digest"):
            store.check(each)
    assert hashed


def test_a_change_just_after_it_was_published_is_found(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    for number in range(20):
        saved = save(store)
        with (saved.mem if number % 2 else saved.directory / "vmstate").open("r+b") as file:
            file.write(b"y")
        with pytest.raises(SnapshotCorrupt):
            store.check(saved)


def test_a_foreign_link_or_mode_only_costs_another_look(tmp_path: Path, hashed: list[int]) -> None:
    store = store_in(tmp_path)
    saved = save(store)
    hashed.clear()
    os.link(saved.mem, tmp_path / "backup")
    store.check(saved)
    assert len(hashed) == 1
