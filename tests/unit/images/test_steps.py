"""Running the programs of a build: errors with their last lines, and no process that outlives its build."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fc_kernel.errors import ImageBuildError
from fc_kernel.images import steps
from fc_kernel.images.namespaces import root_namespaces
from fc_kernel.images.steps import LAST_LINES, CommandFailed, Runner, require_programs

DEADLINE_S = 60


def run(runner: Runner, script: str, said: list[str] | None = None) -> None:
    """Run a shell script; its lines that begin with ``#`` are its progress."""
    runner.run(
        "the step",
        ["sh", "-c", script],
        progress=(said if said is not None else []).append,
        detail=lambda line: line[1:] if line.startswith("#") else None,
    )


@pytest.fixture
def runner() -> Runner:
    return Runner([], "1700000000")


def test_a_failure_has_its_last_lines_without_the_progress(runner: Runner) -> None:
    said: list[str] = []
    with pytest.raises(CommandFailed) as caught:
        run(runner, "for i in 1 2 3 4 5 6 7 8 9; do echo line $i; echo '#at' $i >&2; done; echo; exit 3", said)
    assert caught.value.last_lines == " | ".join(f"line {i}" for i in range(10 - LAST_LINES, 10))
    assert said == [f"at {i}" for i in range(1, 10)]
    assert "3" in str(caught.value)


def test_a_silent_failure_has_its_status(runner: Runner) -> None:
    with pytest.raises(CommandFailed) as caught:
        run(runner, "exit 7")
    assert caught.value.last_lines == "exit status 7"


def test_output_that_is_no_text_and_has_no_end(runner: Runner) -> None:
    with pytest.raises(CommandFailed) as caught:
        run(runner, r"printf '\377\n'; head -c 1000000 /dev/zero | tr '\0' x; exit 1")
    assert len(caught.value.last_lines) < 1000


def test_the_callers_umask_and_stdin_are_not_the_programs(runner: Runner) -> None:
    before = os.umask(0o077)
    try:
        run(runner, "test $(umask) = 0022 && ! read line && test $SOURCE_DATE_EPOCH = 1700000000")
    finally:
        os.umask(before)


def test_temporaries_go_where_they_are_told(runner: Runner, tmp_path: Path) -> None:
    runner.keep_temporaries_in(tmp_path)
    run(runner, f'test "$TMPDIR" = {tmp_path}')


def processes_with(mark: str) -> list[psutil.Process]:
    return [process for process in psutil.process_iter(["cmdline"]) if mark in " ".join(process.info["cmdline"] or ())]


def none_is_left(mark: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while processes_with(mark):
        assert time.monotonic() < end, processes_with(mark)
        time.sleep(0.02)


class Interrupted(BaseException):
    """Stands for a ``KeyboardInterrupt`` or ``SystemExit`` at a chosen moment."""


@pytest.mark.parametrize("namespaces", [False, True])
def test_what_an_interrupted_program_started_ends(namespaces: bool, tmp_path: Path) -> None:
    runner = Runner(root_namespaces() if namespaces else [], "0")
    mark = f"sleep 600 # {tmp_path}"

    def interrupt(_: str) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        runner.run(
            "step",
            [*runner.as_root, "sh", "-c", f"sh -c '{mark}' & echo '#started'; wait"],
            progress=interrupt,
            detail=lambda line: line,
        )
    none_is_left(str(tmp_path))


KILLED = """
import sys
from fc_kernel.images.namespaces import root_namespaces
from fc_kernel.images.steps import Runner
runner = Runner(root_namespaces(), "0")
runner.run("step", [*runner.as_root, "sh", "-c", sys.argv[1]], progress=lambda line: print(line, flush=True), detail=str)
"""


def test_programs_of_a_killed_build_end(tmp_path: Path) -> None:
    """Also one that left its parent's session, because its namespace ends."""
    if not root_namespaces():
        pytest.skip("this root may not make namespaces")
    script = f"setsid sh -c 'sleep 600 # {tmp_path}' & echo started; wait"
    with subprocess.Popen([sys.executable, "-c", KILLED, script], stdout=subprocess.PIPE, text=True) as build:
        assert build.stdout is not None
        assert build.stdout.readline() == "started\n"
        assert processes_with(str(tmp_path))
        build.kill()
    none_is_left(str(tmp_path))


def test_root_in_namespaces_makes_files_of_other_users_and_removes_them(tmp_path: Path) -> None:
    runner = Runner(root_namespaces(), "0")
    tree = tmp_path / "tree"
    script = f"mkdir -p {tree}/private && touch {tree}/private/file && chown -R 42:43 {tree} && chmod 0 {tree}/private"
    runner.run("step", [*runner.as_root, "sh", "-c", script], progress=lambda _: None, detail=lambda _: None)
    assert tree.stat().st_uid != os.geteuid()
    runner.remove_tree(tree)
    assert not tree.exists()
    runner.remove_tree(tree)


def test_mounts_of_a_program_are_its_own(tmp_path: Path) -> None:
    runner = Runner(root_namespaces(), "0")
    if not runner.as_root:
        pytest.skip("this root may not make namespaces")
    script = f"mount -t tmpfs tmpfs {tmp_path} && touch {tmp_path}/inside && echo '#mounted'"
    said: list[str] = []
    runner.run("step", [*runner.as_root, "sh", "-c", script], progress=said.append, detail=lambda line: line)
    assert said == ["#mounted"]
    assert list(tmp_path.iterdir()) == []


def test_programs_that_are_missing_are_named_by_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "which", lambda name: None if name in ("mkfs.erofs", "mmdebstrap") else "/bin/" + name)
    with pytest.raises(ImageBuildError, match=r"apt-get install erofs-utils mmdebstrap$"):
        require_programs()
