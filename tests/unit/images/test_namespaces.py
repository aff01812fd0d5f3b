"""Namespaces for a build: had, refused, and no process left by an ``unshare`` that failed."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import psutil
import pytest

from fc_kernel.errors import ImageBuildError
from fc_kernel.images import namespaces
from fc_kernel.images.namespaces import namespace_command, refusal, root_namespaces


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ``unshare`` of the test's own; it has to be written before it is called."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "unshare"


DEADLINE_S = 60


def says(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_namespaces_that_can_be_had(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(program, f'echo "$@" >{program}.words')
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert root_namespaces() == namespace_command()
    assert "--user" not in Path(f"{program}.words").read_text()
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    assert root_namespaces() == namespace_command()
    assert "--user --map-root-user --map-auto -- true" in Path(f"{program}.words").read_text()


def test_root_does_without_where_they_are_refused(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(program, "exit 1")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert root_namespaces() == []


@pytest.mark.parametrize("uid", [1, 4_000_000_000])
def test_a_user_is_told_what_to_do(program: Path, uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one without a name."""
    says(program, "echo first; echo 'unshare: unshare failed: Operation not permitted' >&2; exit 1")
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    with pytest.raises(
        ImageBuildError, match=r"unshare failed: Operation not permitted\).*uidmap.*--add-subuids"
    ) as caught:
        root_namespaces()
    assert "\n" not in str(caught.value)


def test_a_failed_unshare_leaves_no_process(program: Path) -> None:
    """The real one leaves a child with its output open, waiting to write the map of the ids."""
    says(program, f"sleep 600 & echo $! >{program}.pid; echo refused >&2; exit 1")
    assert refusal() == "refused"
    pid = int(Path(f"{program}.pid").read_text())
    # It has been sent SIGKILL; ending takes as long as it takes.
    with contextlib.suppress(psutil.NoSuchProcess):
        assert psutil.Process(pid).wait(DEADLINE_S) is None


def test_an_unshare_that_hangs(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "DEADLINE_S", 0.2)
    says(program, "sleep 600")
    assert "did not end" in (refusal() or "")


def test_no_unshare_at_all(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(program.parent))
    assert "unshare" in (refusal() or "")
