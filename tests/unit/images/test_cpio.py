"""Initramfs archives: what ``cpio`` itself reads out of them, and the same bytes for the same entries."""

from __future__ import annotations

import shutil
import stat
import subprocess

import pytest

from fc_kernel.images.cpio import Entry, archive


def records_of(data: bytes) -> list[tuple[str, int, tuple[int, int], bytes]]:
    """Name, mode, device and content of each record, by the format's description alone."""
    found = []
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        field = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name_at = at + 110
        name = data[name_at : name_at + field[11] - 1].decode()
        assert data[name_at + field[11] - 1] == 0
        content_at = -(-(name_at + field[11]) // 4) * 4
        content = data[content_at : content_at + field[6]]
        assert field[2:4] == [0, 0], "owned by root"
        assert field[5] == 0, "no time"
        found.append((name, field[1], (field[9], field[10]), content))
        at = -(-(content_at + field[6]) // 4) * 4
        if name == "TRAILER!!!":
            assert not data[at:].strip(b"\0")
            return found


def test_records_have_content_mode_and_device() -> None:
    data = archive({"init": Entry(b"#!/bin/sh\n", 0o755), "dev/console": Entry(mode=0o600, device=(5, 1))})
    assert records_of(data) == [
        ("dev", stat.S_IFDIR | 0o755, (0, 0), b""),
        ("dev/console", stat.S_IFCHR | 0o600, (5, 1), b""),
        ("init", stat.S_IFREG | 0o755, (0, 0), b"#!/bin/sh\n"),
        ("TRAILER!!!", 0, (0, 0), b""),
    ]


@pytest.mark.parametrize("size", range(6))
def test_every_length_of_name_and_content_is_padded(size: int) -> None:
    data = archive({"n" * (size + 1): Entry(b"c" * size), "z": Entry(b"last")})
    assert [(name, content) for name, _, _, content in records_of(data)[:-1]] == [
        ("n" * (size + 1), b"c" * size),
        ("z", b"last"),
    ]
    assert len(data) % 512 == 0


def test_directories_come_before_their_content_each_once() -> None:
    names = [name for name, *_ in records_of(archive({"a/b/c/d": Entry(), "a/b/e": Entry()}))]
    assert names == ["a", "a/b", "a/b/c", "a/b/c/d", "a/b/e", "TRAILER!!!"]


def test_order_of_the_entries_does_not_matter() -> None:
    entries = {"b": Entry(b"2"), "a": Entry(b"1"), "c/d": Entry(b"3")}
    assert archive(entries) == archive(dict(reversed(entries.items())))


@pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox is not installed")
def test_cpio_reads_it() -> None:
    data = archive({"bin/tool": Entry(b"x" * 1001, 0o755), "modules/order": Entry(b"a.ko\n")})
    listed = subprocess.run(["busybox", "cpio", "-t"], input=data, capture_output=True, check=True).stdout.decode()
    assert listed.split() == ["bin", "modules", "bin/tool", "modules/order"]
