"""The console ring: whatever a guest writes, it is bounded and its last lines can be shown."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fc_kernel.vmm.console import MAX_LINE_BYTES, MAX_LINES, ConsoleRing


def ring(*chunks: bytes) -> ConsoleRing:
    made = ConsoleRing()
    for chunk in chunks:
        made.write(chunk)
    return made


def test_the_last_lines_oldest_first() -> None:
    assert ring(b"one\ntwo\nthree\n").tail(2) == ["two", "three"]
    assert ring(b"one\r\n\r\n\n  two  \n").tail() == ["one", "  two"]
    assert ring().tail() == []


def test_a_line_without_its_end_is_shown_too() -> None:
    assert ring(b"one\ntw", b"o\nthr").tail() == ["one", "two", "thr"]


@given(st.lists(st.binary(max_size=40)))
def test_it_does_not_matter_how_the_bytes_come(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    assert ring(*chunks).tail() == ring(whole).tail() == ring(*(bytes([byte]) for byte in whole)).tail()


@given(st.binary(max_size=2000) | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_what_is_shown_is_printable(data: bytes) -> None:
    for line in ring(data).tail(MAX_LINES):
        assert line
        assert not [c for c in line if (ord(c) < 32 and c != "\t") or 0x7F <= ord(c) < 0xA0]
        assert len(line.splitlines()) == 1


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"\x1b[31mred\x1b[0m", "red"),
        (b"\x1b[2J\x1b[1;1Hcleared", "cleared"),
        (b"\x1b[?25lhidden\x1b[>0q", "hidden"),
        (b"\x1b]0;a title\x07text", "text"),
        (b"\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        (b"over\rwritten\x08\x08", "overwritten"),
        (b"bell\x07 nul\x00 del\x7f", "bell nul del"),
        ("c1\x85\x9b31m".encode(), "c131m"),
        ("right\u202eto\u2066left\u200b\ufeff".encode(), "righttoleft"),
        ("one\u2028line\u2029".encode(), "oneline"),
        (b"tab\tstays", "tab\tstays"),
        (b"\xff\xfe is no text", "\ufffd\ufffd is no text"),
        (b"\x1b", None),
        (b"\x1b[", "["),
    ],
)
def test_what_a_terminal_would_obey_is_removed(data: bytes, shown: str | None) -> None:
    assert ring(data).tail() == ([] if shown is None else [shown])


def test_long_lines_are_cut() -> None:
    long = b"x" * (MAX_LINE_BYTES * 3)
    assert ring(long + b"\nnext\n").tail() == ["x" * MAX_LINE_BYTES, "next"]
    assert ring(long).tail() == ["x" * MAX_LINE_BYTES]


@pytest.mark.parametrize("chunk", [b"x" * 65536, b"\n" * 65536, b"a line\n" * 9000, b"x\n" * 32768])
def test_a_flood_takes_no_more_memory(chunk: bytes) -> None:
    made = ring(chunk)
    tracemalloc.start()
    try:
        for _ in range(50):
            made.write(chunk)
        held, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2 * MAX_LINES * MAX_LINE_BYTES
    assert len(made.tail(MAX_LINES * 2)) <= MAX_LINES + 1


def test_a_flood_overwrites_the_oldest() -> None:
    made = ring(*(f"line {number}\n".encode() for number in range(MAX_LINES + 100)))
    lines = made.tail(MAX_LINES * 2)
    assert (lines[0], lines[-1]) == ("line 100", f"line {MAX_LINES + 99}")
