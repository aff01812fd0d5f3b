"""Another process's memory: which of its pages are its own, and copying them; the process is a Python that maps a file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fc_kernel.errors import MonitorError
from fc_kernel.memory.pages import PAGE_BYTES
from fc_kernel.vmm.qemu.memory import GuestMemory, page_count, pieces, prefaulted

PAGES = 4096
PROCESS = """
import ctypes, mmap, sys
file = open(sys.argv[1], "r+b") if sys.argv[1] else None
pages = int(sys.argv[2])
memory = mmap.mmap(file.fileno() if file else -1, pages * 4096, flags=mmap.MAP_PRIVATE)
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
for line in sys.stdin:
    word, number = line.split()
    at = int(number) * 4096
    if word == "write":
        memory[at:at + 4] = b"mine"
        print("done", flush=True)
    elif word == "read":
        print(memory[at:at + 4].hex(), flush=True)
"""


class Process:
    def __init__(self, stack: ExitStack, mem: Path | None) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-S", "-c", PROCESS, str(mem or ""), str(PAGES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.enter_context(self.child)
        stack.callback(self.child.kill)
        assert self.child.stdout is not None
        self.address = int(self.child.stdout.readline())

    def ask(self, word: str, page: int) -> str:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(f"{word} {page}\n")
        self.child.stdin.flush()
        return self.child.stdout.readline().strip()


Start = Callable[[Path | None], tuple[Process, GuestMemory]]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def start(mem: Path | None) -> tuple[Process, GuestMemory]:
            process = Process(stack, mem)
            memory = stack.enter_context(GuestMemory(process.child.pid, process.address, PAGES * PAGE_BYTES))
            return process, memory

        yield start


@pytest.fixture
def mem(tmp_path: Path) -> Path:
    path = tmp_path / "mem"
    path.write_bytes(b"base".ljust(PAGE_BYTES, b"\0") * PAGES)
    return path


def test_pages_that_were_written_are_the_processs_own(start: Start, mem: Path) -> None:
    process, memory = start(mem)
    assert memory.own_pages() == []
    process.ask("read", 7)
    assert memory.own_pages() == []
    for page in (3, 4, 5, 100, PAGES - 1):
        process.ask("write", page)
    wanted = [(3, 3), (100, 1), (PAGES - 1, 1)]
    assert memory.own_pages() == wanted
    assert list(memory._looked_up()) == wanted
    buffer = bytearray(5 * PAGE_BYTES)
    memory.read(wanted, memoryview(buffer))
    assert [bytes(buffer[at : at + 4]) for at in range(0, len(buffer), PAGE_BYTES)] == [b"mine"] * 5


def test_anonymous_memory(start: Start) -> None:
    process, memory = start(None)
    process.ask("write", 50)
    found = memory.own_pages()
    assert any(first <= 50 < first + count for first, count in found)
    assert page_count(found) < PAGES


def test_writing_leaves_the_file(start: Start, mem: Path) -> None:
    process, memory = start(mem)
    before = mem.read_bytes()
    regions = [(9, 2), (2000, 1)]
    memory.write(regions, memoryview(bytearray(b"ours".ljust(PAGE_BYTES, b"\0") * 3)))
    assert [bytes.fromhex(process.ask("read", page)) for page in (8, 9, 10, 11, 2000)] == [
        b"base", b"ours", b"ours", b"base", b"ours",
    ]  # fmt: skip
    assert memory.own_pages() == regions
    assert mem.read_bytes() == before


def test_more_regions_than_one_call_takes(start: Start, mem: Path) -> None:
    process, memory = start(mem)
    regions = [(page, 1) for page in range(0, PAGES, 2)]
    memory.write(regions, memoryview(bytearray(os.urandom(len(regions) * PAGE_BYTES))))
    assert memory.own_pages() == regions
    back = bytearray(len(regions) * PAGE_BYTES)
    memory.read(regions, memoryview(back))
    assert process.ask("read", 2000) == back[1000 * PAGE_BYTES : 1000 * PAGE_BYTES + 4].hex()
    with pytest.raises(ValueError, match="too few"):
        memory.read(regions, memoryview(bytearray(PAGE_BYTES)))


def test_a_process_that_has_ended(start: Start, mem: Path) -> None:
    process, memory = start(mem)
    process.ask("write", 1)
    process.child.kill()
    process.child.wait()
    with pytest.raises(MonitorError, match=r"cannot be (read|reached)"):
        memory.own_pages()
    with pytest.raises(MonitorError, match="cannot be read: No such process"):
        memory.read([(1, 1)], memoryview(bytearray(PAGE_BYTES)))
    with pytest.raises(MonitorError, match="cannot be reached"):
        GuestMemory(process.child.pid, process.address, PAGE_BYTES)


def test_an_address_that_is_not_there(start: Start, mem: Path) -> None:
    process, _ = start(mem)
    with (
        GuestMemory(process.child.pid, PAGE_BYTES, PAGE_BYTES) as wrong,
        pytest.raises(MonitorError, match="Bad address"),
    ):
        wrong.read([(0, 1)], memoryview(bytearray(PAGE_BYTES)))


def test_pieces() -> None:
    regions = [(0, 5), (10, 1), (20, 7)]
    assert list(pieces(regions, 4)) == [[(0, 4)], [(4, 1), (10, 1), (20, 2)], [(22, 4)], [(26, 1)]]
    assert list(pieces(regions, 100)) == [regions]
    assert list(pieces([], 4)) == []


def test_prefaulted() -> None:
    with prefaulted(10 * PAGE_BYTES) as buffer:
        assert bytes(buffer[:]) == bytes(10 * PAGE_BYTES)
