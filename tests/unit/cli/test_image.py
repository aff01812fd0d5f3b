"""``fc-kernel image``: what a person reads, what a script reads, and the exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fc_kernel.cli.image import _spread

from ..images.test_store import staged


class Called:
    """One call of the command line."""

    def __init__(self, data_dir: Path, *words: str) -> None:
        environment = {
            **os.environ,
            "FC_KERNEL_DATA_DIR": str(data_dir),
            "FC_KERNEL_CACHE_DIR": str(data_dir / "cache"),
        }
        done = subprocess.run(
            [sys.executable, "-m", "fc_kernel.cli", *words],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        self.status, self.out, self.err = done.returncode, done.stdout, done.stderr

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """With a sound image and a damaged one."""
    images = tmp_path / "images"
    images.mkdir()
    staged(images / "default")
    (images / "broken").mkdir()
    (images / "broken/manifest.json").write_text("{")
    (images / ".building-x").mkdir()
    return tmp_path


def test_list_shows_the_sound_and_the_damaged(data_dir: Path) -> None:
    called = Called(data_dir, "image", "list")
    assert called.status == 0
    assert "default" in called.out
    assert "broken" in called.err
    assert "damaged" in called.err
    entries = Called(data_dir, "image", "list", "--json").json
    assert [entry.get("name", entry.get("error", ""))[:14] for entry in entries] == ["image 'broken'", "x"]


def test_show_verifies(data_dir: Path) -> None:
    shown = Called(data_dir, "image", "show").json
    assert {part["role"] for part in shown["parts"]} == {"kernel", "initrd", "rootfs"}
    (data_dir / "images/default/vmlinux").write_text("flipped")
    called = Called(data_dir, "image", "show", "--json")
    assert called.status == 1
    assert called.json["error"]["type"] == "ImageCorrupt"
    assert "vmlinux" in called.json["error"]["message"]


def test_rm_removes_all_or_nothing(data_dir: Path) -> None:
    called = Called(data_dir, "image", "rm", "default", "missing")
    assert called.status == 1
    assert called.err.count("\n") == 1
    assert "missing" in called.err
    assert (data_dir / "images/default").exists()
    called = Called(data_dir, "image", "rm", "default", "broken", "default", "--json")
    assert called.status == 0
    assert called.json == {"removed": ["default", "broken"]}
    assert sorted(path.name for path in (data_dir / "images").iterdir()) == [".building-x"]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("rm",), 2, "one or more"),
        (("show", "a", "b"), 2, "at most one"),
        (("show", "../x"), 1, "allowed"),
        (("build", "--name", "../x"), 1, "allowed"),
        (("build", "--package", "a;b"), 1, "a;b"),
        (("build", "--requirements", "/nowhere"), 1, "/nowhere"),
        (("build", "--from", "/nowhere"), 1, "/nowhere"),
        (("build",), 1, "--replace"),
        (("build", "word"), 2, "word"),
    ],
)
def test_a_wrong_call_is_one_line(data_dir: Path, words: tuple[str, ...], status: int, message: str) -> None:
    called = Called(data_dir, "image", *words)
    assert called.status == status
    assert message in called.err
    assert called.err.count("\n") == 1
    assert called.out == ""


@pytest.mark.parametrize(
    ("given", "spread"),
    [
        (["--package", "a", "b", "--name", "x"], ["--package=a", "--package=b", "--name", "x"]),
        (["--package=a", "--package", "b"], ["--package=a", "--package=b"]),
        (["--name", "x", "--package"], ["--name", "x"]),
        ([], []),
    ],
)
def test_several_packages_after_one_option(given: list[str], spread: list[str]) -> None:
    assert _spread("--package", given) == spread


LOGGING = """
from fc_kernel.cli.command import Command
from fc_kernel.errors import ImageNotFound
class Logging(Command):
    def run(self):
        try:
            raise {error}("the message")
        except Exception:
            self.log.exception("logged")
            raise
Logging.launch_instance([])
"""


@pytest.mark.parametrize(("error", "traceback"), [("ImageNotFound", False), ("ValueError", True)])
def test_a_clear_error_is_not_logged_as_well(error: str, traceback: bool) -> None:
    """Only what nobody foresaw has a traceback."""
    done = subprocess.run(
        [sys.executable, "-c", LOGGING.format(error=error)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "the message" in done.stderr
    assert ("Traceback" in done.stderr) is traceback


WAITING = """
import sys, time
from fc_kernel.cli.command import Command
class Waiting(Command):
    def run(self):
        try:
            print("ready", flush=True)
            time.sleep(600)
        finally:
            print("undone", flush=True)
Waiting.launch_instance([])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_command_that_is_told_to_end_undoes_what_it_began(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAITING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, err = process.communicate()
    assert out == "undone\n"
    assert process.returncode == 128 + number
    assert "Traceback" not in err
