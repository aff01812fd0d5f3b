"""Python packages for the guest: laid out as if its own pip had installed them, whoever's pip it was."""

from __future__ import annotations

import base64
import csv
import hashlib
from pathlib import Path

import pytest

from fc_kernel.errors import ImageBuildError
from fc_kernel.images import wheels
from fc_kernel.images.wheels import arrange, pip_command, progress_of

#: As pip writes it for an interpreter with a short path, and for one with a long path or spaces.
SHORT = b"#!/home/me/.venv/bin/python\n# -*- coding: utf-8 -*-\nprint(1)\n"
LONG = b"#!/bin/sh\n'''exec' \"/a long/path/python3\" \"$0\" \"$@\"\n' '''\n# -*- coding: utf-8 -*-\nprint(1)\n"
ARRANGED = b"#!/usr/bin/python3\n# -*- coding: utf-8 -*-\nprint(1)\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What ``pip install --target`` leaves."""
    packages = tmp_path / "lib/python3.11/dist-packages"
    files = {
        "bin/short": SHORT,
        "bin/long": LONG,
        "bin/shell": b"#!/bin/sh\necho\n",
        "bin/binary": b"\x7fELF#!python",
        "share/jupyter/x.json": b"{}",
        "tool/__init__.py": b"",
        "tool-1.dist-info/RECORD": b"../../bin/long,sha256=old,1\n../../bin/short,sha256=old,1\n"
        b"../../share/jupyter/x.json,sha256=RBNvo1WzZ4oRRq0W9-hknpT7T8If536DEMBg9hyq_4o,2\n"
        b"tool/__init__.py,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0\ntool-1.dist-info/RECORD,,\n",
    }
    for name, content in files.items():
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_bytes(content)
    (packages / "bin/short").chmod(0o755)
    return tmp_path


def test_scripts_and_data_are_in_the_prefix(tree: Path) -> None:
    arrange(tree)
    assert sorted(path.name for path in tree.iterdir()) == ["bin", "lib", "share"]
    assert (tree / "share/jupyter/x.json").read_bytes() == b"{}"
    assert sorted(path.name for path in (tree / wheels.DIST_PACKAGES.removeprefix("usr/local/")).iterdir()) == [
        "tool",
        "tool-1.dist-info",
    ]


def test_scripts_run_the_guests_interpreter(tree: Path) -> None:
    arrange(tree)
    assert (tree / "bin/short").read_bytes() == ARRANGED
    assert (tree / "bin/short").stat().st_mode & 0o777 == 0o755
    assert (tree / "bin/long").read_bytes() == ARRANGED
    assert (tree / "bin/shell").read_bytes() == b"#!/bin/sh\necho\n"
    assert (tree / "bin/binary").read_bytes() == b"\x7fELF#!python"


def test_the_record_is_true(tree: Path) -> None:
    """Every file that it names is there with the digest that it says, so that pip can remove the package."""
    arrange(tree)
    packages = tree / "lib/python3.11/dist-packages"
    rows = list(csv.reader((packages / "tool-1.dist-info/RECORD").read_text().splitlines()))
    assert len(rows) == 5
    for name, digest, size in rows:
        content = (packages / name).read_bytes()
        if digest:
            found = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            assert (digest, size) == (f"sha256={found}", str(len(content))), name


def test_arranging_twice_changes_nothing(tree: Path) -> None:
    arrange(tree)
    record = tree / "lib/python3.11/dist-packages/tool-1.dist-info/RECORD"
    before = record.read_bytes(), (tree / "bin/long").read_bytes()
    arrange(tree)
    assert (record.read_bytes(), (tree / "bin/long").read_bytes()) == before


def test_a_package_that_is_called_bin_stays(tmp_path: Path) -> None:
    packages = tmp_path / "lib/python3.11/dist-packages"
    (packages / "bin").mkdir(parents=True)
    (packages / "bin/__init__.py").touch()
    arrange(tmp_path)
    assert (packages / "bin/__init__.py").exists()


def test_only_wheels_for_the_guest_are_taken(tmp_path: Path) -> None:
    command = pip_command(["pip"], tmp_path, tmp_path / "requirements.txt")
    assert "--only-binary=:all:" in command
    assert command[command.index("--python-version") + 1] == wheels.PYTHON
    assert command[-2:] == ["--requirement", str(tmp_path / "requirements.txt")]
    assert "--platform=manylinux_2_37_x86_64" not in command


def test_an_environment_without_pip_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImageBuildError, match="ensurepip"):
        pip_command(["pip"], tmp_path, None)


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        ("Collecting numpy>=1 (from -r x)", "collecting numpy>=1"),
        ("Downloading numpy-2.whl (18.0 MB)", "downloading numpy-2.whl"),
        ("Requirement already satisfied: six", "…"),
        ("ERROR: No matching distribution found for x", None),
        ("WARNING: disk", None),
    ],
)
def test_progress_is_told_from_errors(line: str, detail: str | None) -> None:
    assert progress_of(line) == detail
