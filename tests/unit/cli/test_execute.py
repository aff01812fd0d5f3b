"""``fc-kernel execute`` on the fake monitor: outputs, files, and one line for whatever goes wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest

from fc_kernel.settings.kernelspec import Profile, install

from ..calling import Called, call


@pytest.fixture(autouse=True)
def kernelspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(Profile(), prefix=str(tmp_path))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share/jupyter"))
    monkeypatch.setenv("FC_KERNEL_MONITOR", "fake")


def notebook(path: Path, *sources: str, **metadata: Any) -> Path:
    """A notebook with these code cells, each with an output of an earlier run."""
    old = nbformat.v4.new_output("stream", name="stdout", text="of an earlier run\n")
    cells = [nbformat.v4.new_code_cell(source, outputs=[old], execution_count=7) for source in sources]
    made = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    nbformat.write(made, path / "a.ipynb")
    return path / "a.ipynb"


def outputs(path: Path) -> list[str]:
    cells = nbformat.read(path, as_version=4).cells
    return ["".join(output.get("text", output.output_type) for output in cell.outputs) for cell in cells]


def check_one_line(called: Called, line: str) -> None:
    assert called.status == 1
    own = [written for written in called.err.splitlines() if written.startswith("fc-kernel execute")]
    assert len(own) == 1
    assert line in own[0]
    assert "Traceback" not in called.err


def test_outputs_are_printed_and_nothing_is_written(tmp_path: Path) -> None:
    path = notebook(tmp_path, "print('one')", "21 * 2", fc_kernel={"vcpu_count": 1})
    before = path.read_bytes()
    called = call("execute", str(path))
    assert (called.status, called.out) == (0, "one\n42\n")
    assert path.read_bytes() == before


def test_the_executed_notebook_is_written(tmp_path: Path) -> None:
    path = notebook(tmp_path, "print('one')")
    called = call("execute", str(path), "--quiet", "--output", str(tmp_path / "done.ipynb"))
    assert (called.status, called.out) == (0, "")
    assert outputs(tmp_path / "done.ipynb") == ["one\n"]
    assert outputs(path) == ["of an earlier run\n"]
    assert call("execute", str(path), "--inplace").status == 0
    assert outputs(path) == ["one\n"]


def test_a_cell_that_raises_ends_it(tmp_path: Path) -> None:
    path = notebook(tmp_path, "print('one')", "1 / 0", "print('three')")
    called = call("execute", str(path), "--inplace")
    check_one_line(called, "a.ipynb: ZeroDivisionError: division by zero")
    assert called.out == "one\nZeroDivisionError: division by zero\n"
    assert outputs(path) == ["one\n", "error", ""]


def test_unless_errors_are_allowed(tmp_path: Path) -> None:
    called = call("execute", str(notebook(tmp_path, "1 / 0", "print('two')")), "--allow-errors")
    assert called.status == 0
    assert called.out.endswith("two\n")


def test_a_kernel_that_dies(tmp_path: Path) -> None:
    check_one_line(call("execute", str(notebook(tmp_path, "import os; os._exit(3)"))), "ended with status 3")


def test_a_cell_that_takes_too_long(tmp_path: Path) -> None:
    called = call("execute", str(notebook(tmp_path, "import time; time.sleep(600)")), "--timeout", "1")
    check_one_line(called, "a cell took longer than 1 s (--timeout)")


def test_bad_settings_in_the_notebook(tmp_path: Path) -> None:
    called = call("execute", str(notebook(tmp_path, "1", fc_kernel={"vcpu_count": "many"})))
    check_one_line(called, "vcpu_count (from notebook) is 'many'; allowed: a whole number")
    assert called.out == ""


def test_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    called = call("execute", str(notebook(tmp_path, "print('one')")), "--output", str(tmp_path / "no/such/a.ipynb"))
    check_one_line(called, "cannot write")
    assert called.out == "one\n"


def test_what_the_guest_prints_does_not_steer_the_terminal(tmp_path: Path) -> None:
    evil = r"'\x1b]0;title\x07\x1b[2J[bold]text[/bold]\u202e'"
    path = notebook(
        tmp_path, f"print({evil})", f"class A:\n    def __repr__(self): return {evil}\nA()", f"1 / 0, {evil}"
    )
    called = call("execute", str(path), "--allow-errors")
    assert called.out.splitlines()[:2] == ["[bold]text[/bold]"] * 2
    assert "\x1b" not in called.out
