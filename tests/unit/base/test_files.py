"""Reading files that others may have made."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from fc_kernel.base.files import read_regular


def refusal(path: Path, most_bytes: int = 10, *, follow: bool = True) -> int | None:
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with pytest.raises(OSError) as caught:
        read_regular(path, most_bytes, follow=follow)
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208
    return caught.value.errno


@pytest.mark.parametrize("content", [b"", b"0123456789"])
def test_a_file_up_to_the_limit(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert read_regular(tmp_path / "file", 10) == content


def test_a_file_over_the_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789x")
    assert refusal(tmp_path / "file") == errno.EFBIG


def test_a_file_that_grows_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    fstat = os.fstat

    def grown(descriptor: int) -> os.stat_result:
        found = fstat(descriptor)
        with path.open("ab") as file:
            file.write(b"more")
        return found

    monkeypatch.setattr(os, "fstat", grown)
    assert refusal(path) == errno.EFBIG


def test_links(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_regular(tmp_path / "link", 10) == b"x"
    assert refusal(tmp_path / "link", follow=False) == errno.ELOOP
    assert read_regular(tmp_path / "file", 10, follow=False) == b"x"


def test_nothing_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert refusal(tmp_path / "fifo") == errno.EINVAL
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        assert refusal(tmp_path / "socket") == errno.ENXIO


def test_what_has_no_end(tmp_path: Path) -> None:
    assert refusal(Path("/dev/zero")) == errno.EINVAL
    assert refusal(tmp_path) in (errno.EISDIR, errno.EINVAL)
    assert refusal(tmp_path / "missing") == errno.ENOENT
