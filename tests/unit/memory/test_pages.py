"""Page files: what is written is read, what is damaged is refused, and layers lie over each other in their order."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import pytest

from fc_kernel.errors import SnapshotCorrupt
from fc_kernel.memory.pages import (
    CHUNK_BYTES,
    HEADER,
    MAGIC,
    PAGE_BYTES,
    PageFile,
    PageStack,
    changed_pages,
    merge,
    pages_of_diff,
    write_pages,
)

MEM_PAGES = 1024
MEM_BYTES = MEM_PAGES * PAGE_BYTES


def page(text: str) -> bytes:
    return text.encode().ljust(PAGE_BYTES, b".")


def layer(path: Path, **pages: str) -> Path:
    """``p7="x"`` is page 7 with an x."""
    write_pages(path, [(int(name[1:]), page(text)) for name, text in pages.items()])
    return path


def sparse(path: Path, pages: dict[int, bytes], size: int = MEM_BYTES) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        for number, data in pages.items():
            file.seek(number * PAGE_BYTES)
            file.write(data)
    return path


def open_descriptors() -> set[str]:
    return {f"{path.name} {path.readlink()}" for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}


def content(path: Path) -> dict[int, bytes]:
    """Every page of a page file."""
    with PageFile.open(path, MEM_BYTES) as pages:
        return {
            first + at // PAGE_BYTES: bytes(data[at : at + PAGE_BYTES])
            for first, data in pages.runs()
            for at in range(0, len(data), PAGE_BYTES)
        }


def test_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "pages"
    rng = random.Random(5)
    wanted = {number: rng.randbytes(PAGE_BYTES) for number in [0, 1, 2, 7, 9, 10, MEM_PAGES - 1]}
    runs = [(0, wanted[0] + wanted[1] + wanted[2]), *((number, wanted[number]) for number in list(wanted)[3:])]
    assert write_pages(path, runs) == 7
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert content(path) == wanted
    with PageFile.open(path, MEM_BYTES) as pages:
        assert list(pages.numbers) == list(wanted)
        assert [(first, len(data) // PAGE_BYTES) for first, data in pages.runs()] == [(0, 3), (7, 1), (9, 2), (1023, 1)]
        assert pages.page(9) == wanted[9]
        assert pages.page(8) is None


def test_none_at_all(tmp_path: Path) -> None:
    assert write_pages(tmp_path / "none", []) == 0
    assert content(tmp_path / "none") == {}


def test_long_runs_come_in_pieces(tmp_path: Path) -> None:
    data = os.urandom(3 * CHUNK_BYTES)
    write_pages(tmp_path / "pages", [(5, data)])
    with PageFile.open(tmp_path / "pages", MEM_BYTES) as pages:
        runs = list(pages.runs())
    assert [len(run) for _, run in runs] == [CHUNK_BYTES] * 3
    assert b"".join(run for _, run in runs) == data


def test_a_failed_writing_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "pages"
    for wrong in ([(3, page("a")), (3, page("b"))], [(3, page("a")), (2, page("b"))], [(0, b"short")]):
        with pytest.raises(ValueError, match="bytes at page"):
            write_pages(path, wrong)
        assert not path.exists()
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write_pages(path, [])
    assert path.read_bytes() == b"mine"


def header(magic: bytes = MAGIC, page_bytes: int = PAGE_BYTES, zero: int = 0, total: int = 2) -> bytes:
    return HEADER.pack(magic, page_bytes, zero, total).ljust(PAGE_BYTES, b"\0")


TWO = bytes(2 * PAGE_BYTES)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "0 bytes"),
        (header()[:100], "100 bytes"),
        (header(magic=b"FCPAGES2") + TWO + bytes(8), "does not begin"),
        (header(page_bytes=8192) + TWO + bytes(8), "does not begin"),
        (header(zero=1) + TWO + bytes(8), "does not begin"),
        (header()[:-1] + b"x" + TWO + bytes(8), "does not begin"),
        (header(total=MEM_PAGES + 1), "1025 pages for a memory of 1024"),
        (header(total=(1 << 64) - 1), "pages for a memory"),
        (header() + TWO + bytes(7), "2 pages are"),
        (header() + TWO + bytes(9), "2 pages are"),
        (header() + TWO + bytes(8), "ascending"),
        (header() + TWO + b"\2\0\0\0\1\0\0\0", "ascending"),
        (header() + TWO + b"\0\0\0\0\0\4\0\0", "page 1024 of a memory of 1024"),
    ],
)
def test_hostile_files(tmp_path: Path, data: bytes, problem: str) -> None:
    path = tmp_path / "pages"
    path.write_bytes(data)
    before = open_descriptors()
    with pytest.raises(SnapshotCorrupt, match=problem) as caught:
        PageFile.open(path, MEM_BYTES)
    assert caught.value.part == "pages"
    assert open_descriptors() == before


def test_only_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(layer(tmp_path / "pages", p1="x"))
    for name in ("fifo", "link", "missing"):
        with pytest.raises(OSError):
            PageFile.open(tmp_path / name, MEM_BYTES)


def test_a_file_that_is_cut_off_while_it_is_read(tmp_path: Path) -> None:
    path = layer(tmp_path / "pages", p1="a", p2="b")
    with PageFile.open(path, MEM_BYTES) as pages:
        os.truncate(path, PAGE_BYTES + 10)
        with pytest.raises(SnapshotCorrupt, match="it ends at byte 4106"):
            list(pages.runs())


def test_a_diff_is_what_is_not_a_hole(tmp_path: Path) -> None:
    diff = sparse(tmp_path / "diff", {3: page("three"), 4: bytes(PAGE_BYTES), 1000: page("far")})
    pages = {first + at: run for first, run in pages_of_diff(diff) for at in range(len(run) // PAGE_BYTES)}
    assert set(pages) >= {3, 4, 1000}
    write_pages(tmp_path / "pages", pages_of_diff(diff))
    assert content(tmp_path / "pages")[4] == bytes(PAGE_BYTES)
    sparse(tmp_path / "odd", {}, size=PAGE_BYTES + 1)
    with pytest.raises(SnapshotCorrupt, match="not a number of pages"):
        list(pages_of_diff(tmp_path / "odd"))
    assert list(pages_of_diff(sparse(tmp_path / "empty", {}))) == []


def test_what_the_layers_below_hold_is_dropped(tmp_path: Path) -> None:
    base = sparse(tmp_path / "mem", {1: page("one"), 2: page("two"), 3: page("three"), 4: page("four")})
    first, second = layer(tmp_path / "0", p2="TWO", p5="five"), layer(tmp_path / "1", p5="FIVE", p9="nine")
    diff = sparse(
        tmp_path / "diff",
        {
            1: page("one"),  # as in the base
            2: page("two"),  # back to the base's, but a layer has another
            3: page("3"),
            4: bytes(PAGE_BYTES),  # became zero
            5: page("FIVE"),  # as in the last layer
            9: page("9"),
            100: bytes(PAGE_BYTES),  # a hole of the base
        },
    )
    write_pages(tmp_path / "2", changed_pages(diff, base, [first, second]))
    assert content(tmp_path / "2") == {2: page("two"), 3: page("3"), 4: bytes(PAGE_BYTES), 9: page("9")}
    merge(base, [first, second, tmp_path / "2"], tmp_path / "whole")
    whole = {1: page("one"), 2: page("two"), 3: page("3"), 5: page("FIVE"), 9: page("9")}
    assert (tmp_path / "whole").read_bytes() == sparse(tmp_path / "wanted", whole).read_bytes()
    assert stat.S_IMODE((tmp_path / "whole").stat().st_mode) == 0o600


def test_random_stacks(tmp_path: Path) -> None:
    """Merging, and reading through a stack, is what writing the pages one after the other into one memory is."""
    rng = random.Random(7)
    memory = bytearray(MEM_BYTES)
    start = {number: rng.randbytes(PAGE_BYTES) for number in rng.sample(range(MEM_PAGES), 200)}
    base = sparse(tmp_path / "mem", start)
    memory[:] = base.read_bytes()
    layers: list[Path] = []
    for depth in range(5):
        pages = {number: rng.choice([bytes(PAGE_BYTES), rng.randbytes(PAGE_BYTES)]) for number in range(depth, 900, 7)}
        diff = sparse(tmp_path / f"diff{depth}", pages)
        write_pages(tmp_path / f"{depth}", changed_pages(diff, base, layers))
        layers.append(tmp_path / f"{depth}")
        for number, data in pages.items():
            memory[number * PAGE_BYTES : (number + 1) * PAGE_BYTES] = data
    merge(base, layers, tmp_path / "whole")
    assert (tmp_path / "whole").read_bytes() == memory
    with PageStack(base, layers) as stack:
        assert stack.read(0, MEM_PAGES) == memory
        assert list(changed_pages(tmp_path / "whole", base, layers)) == []


def test_a_stack_that_does_not_fit(tmp_path: Path) -> None:
    base = sparse(tmp_path / "mem", {}, size=4 * PAGE_BYTES)
    before = open_descriptors()
    for wrong in (layer(tmp_path / "beyond", p4="x"), tmp_path / "missing"):
        with pytest.raises((SnapshotCorrupt, OSError)):
            merge(base, [wrong], tmp_path / "whole")
    with pytest.raises(SnapshotCorrupt, match="page 4 of a memory of 4"):
        list(changed_pages(sparse(tmp_path / "larger", {4: page("x")}), base, []))
    assert not (tmp_path / "whole").exists()
    assert open_descriptors() == before


def test_an_existing_target_is_kept(tmp_path: Path) -> None:
    (tmp_path / "whole").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        merge(sparse(tmp_path / "mem", {}), [], tmp_path / "whole")
    assert (tmp_path / "whole").read_bytes() == b"mine"
