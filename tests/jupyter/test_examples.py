"""The example notebooks do what they say, run as a reader would run them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest

import fc_kernel

EXAMPLES = Path(__file__).parents[2] / "examples"


def outputs(cell: Any) -> str:
    return "".join(
        output.get("text", "") or output.get("data", {}).get("text/plain", "")
        for output in cell.outputs
        if output.output_type in ("stream", "execute_result")
    )


@pytest.mark.vm
def test_what_was_spoilt_comes_back(jupyter_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FC_KERNEL_MONITOR", "qemu")
    notebook = nbformat.read(EXAMPLES / "snapshots.ipynb", 4)
    executed = fc_kernel.execute(notebook)
    cells = {cell.source: outputs(cell) for cell in executed.cells if cell.cell_type == "code"}
    by_start = {source.splitlines()[0]: said for source, said in cells.items()}
    reached = float(by_start["def steps(count, rate=1.0):"])
    assert reached < 0.2
    assert by_start["%restore half"] == "restored half\n"
    assert float(by_start["weights = -weights"]) > 1
    before, after = by_start['print("spoilt" in globals(), loss() == reached)'].splitlines()
    assert before == "False True"
    assert float(after) < reached
    assert "half" in by_start["%snapshots"]
