"""Root file systems that others made: hostile tars and links, and the interpreter to boot with."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from fc_kernel.errors import ImageBuildError
from fc_kernel.images.rootfs import find_python, resolve_in, tar_command

PROGRAM = Path(sys.executable).resolve().read_bytes()[:64]


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    content = b"hostile" if kind == tarfile.REGTYPE else b""
    info.size = len(content)
    return info, content


def unpack(members: list[tuple[tarfile.TarInfo, bytes]], tmp_path: Path) -> tuple[int, Path]:
    """tar's exit status, and the staging directory; beside it lies what must stay as it is."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("mine")
    root = tmp_path / "staging/root"
    root.mkdir(parents=True)
    done = subprocess.run(tar_command(tmp_path / "a.tar", root), capture_output=True, check=False)
    return done.returncode, root


HOSTILE = {
    "dot dot": [member("../../outside/file")],
    "dot dot inside": [member("usr/../../../outside/file")],
    "symbolic link out": [member("out", tarfile.SYMTYPE, "../../outside"), member("out/file")],
    "symbolic link out, new file": [member("out", tarfile.SYMTYPE, "../../outside"), member("out/new")],
    "absolute link out": [member("out", tarfile.SYMTYPE, "{outside}"), member("out/file"), member("out/new")],
    "link to a file": [member("f", tarfile.SYMTYPE, "../../outside/file"), member("f")],
    "chain of links": [
        member("a", tarfile.SYMTYPE, "."),
        member("a/b", tarfile.SYMTYPE, ".."),
        member("a/b/c", tarfile.SYMTYPE, "../outside"),
        member("b/c/file"),
    ],
    "hard link out": [member("h", tarfile.LNKTYPE, "../../outside/file"), member("h")],
    "absolute hard link": [member("h", tarfile.LNKTYPE, "{outside}/file"), member("h")],
    "hard link to a link": [
        member("s", tarfile.SYMTYPE, "../../outside/file"),
        member("h", tarfile.LNKTYPE, "s"),
        member("h"),
    ],
    "absolute name": [member("{outside}/file"), member("{outside}/new")],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_is_written_outside_the_staging_directory(name: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    members = HOSTILE[name]
    for info, _ in members:
        info.name = info.name.replace("{outside}", str(outside))
        info.linkname = info.linkname.replace("{outside}", str(outside))
    _, root = unpack(members, tmp_path)
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"file": "mine"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "outside", "staging"]
    assert list((tmp_path / "staging").iterdir()) == [root]
    assert (outside / "file").stat().st_nlink == 1


def test_a_name_with_dot_dot_fails_the_build(tmp_path: Path) -> None:
    status, _ = unpack([member("usr/ok"), member("../x")], tmp_path)
    assert status != 0


@pytest.mark.parametrize("prefix", ["", "./", "/"])
def test_what_the_guest_makes_for_itself_is_left_out(prefix: str, tmp_path: Path) -> None:
    """``docker export`` writes names without, ``tar -C root .`` with a leading ``./``."""
    device = member(f"{prefix}dev/sda", tarfile.BLKTYPE)
    device[0].devmajor, device[0].devminor = 8, 0
    members = [member(f"{prefix}{name}/x") for name in ("proc", "sys/a", "run", "tmp", "usr/dev", "devices")]
    status, root = unpack([device, *members], tmp_path)
    assert status == 0
    found = sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())
    assert found == ["devices/x", "usr/dev/x"]


def test_a_file_name_is_never_a_host_name(tmp_path: Path) -> None:
    tar = tmp_path / "host:a.tar"
    with tarfile.open(tar, "w") as file:
        info, content = member("ok")
        file.addfile(info, io.BytesIO(content))
    (tmp_path / "root").mkdir()
    subprocess.run(tar_command(tar, tmp_path / "root"), check=True, capture_output=True)
    assert (tmp_path / "root/ok").is_file()


def tree(root: Path, places: str, python: str, content: bytes = PROGRAM) -> Path:
    for package in ("ipykernel", "zmq"):
        (root / places / package).mkdir(parents=True)
    path = root / python.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return root


@pytest.mark.parametrize(
    ("places", "python"),
    [
        ("usr/local/lib/python3.12/site-packages", "/usr/local/bin/python3"),
        ("usr/local/lib/python3.11/dist-packages", "/usr/bin/python3"),
        ("usr/lib/python3/dist-packages", "/usr/bin/python3"),
        ("opt/conda/lib/python3.13/site-packages", "/opt/conda/bin/python3"),
        ("opt/venv/lib/python3.11/site-packages", "/opt/venv/bin/python3"),
    ],
)
def test_the_interpreter_that_has_ipykernel(tmp_path: Path, places: str, python: str) -> None:
    assert find_python(tree(tmp_path, places, python)) == python


def test_no_interpreter_no_ipykernel_or_no_pyzmq(tmp_path: Path) -> None:
    places = "usr/lib/python3/dist-packages"
    tree(tmp_path, places, "/usr/bin/python3")
    (tmp_path / "usr/bin/python3").rename(tmp_path / "usr/bin/python2")
    with pytest.raises(ImageBuildError, match="install ipykernel"):
        find_python(tmp_path)
    (tmp_path / "usr/bin/python2").rename(tmp_path / "usr/bin/python3")
    (tmp_path / places / "zmq").rename(tmp_path / places / "zmq2")
    with pytest.raises(ImageBuildError, match="pyzmq"):
        find_python(tmp_path)


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", PROGRAM[:18] + b"\xb7\0" + PROGRAM[20:]])
def test_a_program_for_another_machine(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ImageBuildError, match="x86_64"):
        find_python(tree(tmp_path, "usr/lib/python3/dist-packages", "/usr/bin/python3", content))


def test_links_are_followed_inside_the_root_only(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/python3.11").write_bytes(PROGRAM)
    (tmp_path / "secret").write_text("outside")
    links = {
        "bin": "usr/bin",
        "usr/bin/python3": "python3.11",
        "usr/bin/absolute": "/usr/bin/python3",
        "usr/bin/up": "../../../../../usr/bin/python3",
        "usr/bin/out": "../../../secret",
        "usr/bin/away": str(tmp_path / "secret"),
        "usr/bin/loop": "loop",
        "usr/bin/ping": "pong",
        "usr/bin/pong": "ping",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    for name in ("/usr/bin/python3", "/bin/python3", "/usr/bin/absolute", "/usr/bin/up", "/bin/absolute"):
        assert resolve_in(root, name) == root / "usr/bin/python3.11", name
    for name in ("/usr/bin/out", "/usr/bin/away", "/usr/bin/loop", "/usr/bin/ping", "/usr/bin/none", "/usr/bin", "/"):
        assert resolve_in(root, name) is None, name
