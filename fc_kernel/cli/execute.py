"""``fc-kernel execute notebook.ipynb``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from jupyter_core.application import base_aliases, base_flags
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from traitlets import Bool, Integer, Unicode

from ..base.text import without_controls
from ..errors import ConfigError
from ..headless import execute, read_notebook
from .command import Command


class ExecuteCommand(Command):
    """Execute a notebook in a microVM, sized by the notebook's own ``metadata.fc_kernel`` within the limits."""

    description = __doc__
    examples = """
    fc-kernel execute analysis.ipynb                      print the outputs
    fc-kernel execute analysis.ipynb --output done.ipynb  write the executed notebook
    fc-kernel execute analysis.ipynb --inplace
    """
    command_word = "execute"
    words = (1, 1)
    words_shown = "one notebook"
    aliases = {
        **base_aliases,
        "output": "ExecuteCommand.output",
        "timeout": "ExecuteCommand.timeout_s",
        "kernel": "ExecuteCommand.kernel_name",
    }
    flags = {
        **base_flags,
        "inplace": ({"ExecuteCommand": {"inplace": True}}, "overwrite the notebook with the executed one"),
        "allow-errors": ({"ExecuteCommand": {"allow_errors": True}}, "go on after a cell that raised"),
        "quiet": ({"ExecuteCommand": {"quiet": True}}, "do not print the outputs"),
    }

    output = Unicode("", help="where to write the executed notebook").tag(config=True)
    inplace = Bool(False, help="overwrite the notebook").tag(config=True)
    allow_errors = Bool(False, help="go on after an error").tag(config=True)
    quiet = Bool(False, help="do not print the outputs").tag(config=True)
    timeout_s = Integer(0, help="deadline for one cell in seconds; 0 = none").tag(config=True)
    kernel_name = Unicode("", help="kernelspec to use instead of the notebook's").tag(config=True)

    def run(self) -> int:
        """Execute, print, write."""
        path = Path(self.extra_args[0])
        notebook = read_notebook(path)
        for cell in notebook.cells:
            # What is printed and written afterwards comes from this run alone, even if it ends early.
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        printed: set[int] = set()

        def print_outputs(cell: Any, cell_index: int, **_: Any) -> None:
            if not self.quiet and cell_index not in printed:
                printed.add(cell_index)
                self._print_outputs(cell)

        starting = self.err.status("starting the microVM")
        failure = ""
        try:
            if self.err.is_terminal:
                starting.start()
            execute(
                notebook,
                cwd=path.parent,
                kernel_name=self.kernel_name or None,
                timeout=self.timeout_s or None,
                allow_errors=self.allow_errors,
                on_cell_start=lambda **_: starting.stop(),
                on_cell_executed=print_outputs,
            )
        except CellExecutionError as error:
            failure = f"{error.ename}: {error.evalue}"
        except CellTimeoutError:
            failure = f"a cell took longer than {self.timeout_s} s (--timeout)"
        except RuntimeError as error:
            # nbclient raises it for a kernel that died or did not answer.
            failure = str(error)
        finally:
            starting.stop()
        # The outputs of a cell that did not finish.
        for index, cell in enumerate(notebook.cells):
            print_outputs(cell, index)
        if self.inplace or self.output:
            target = self.output or path
            try:
                nbformat.write(notebook, target)
            except OSError as error:
                raise ConfigError(f"cannot write {str(target)!r}: {error.strerror}") from error
        if failure:
            self.err.print(f"fc-kernel execute: {path}: {without_controls(failure)}", style="red", markup=False)
            return 1
        return 0

    def _print_outputs(self, cell: Any) -> None:
        for output in cell.get("outputs", ()):
            kind = output["output_type"]
            if kind == "stream":
                self.out.print(without_controls(output["text"]), end="", markup=False)
            elif kind == "error":
                self.out.print(without_controls(f"{output['ename']}: {output['evalue']}"), markup=False)
            else:
                text = without_controls(output["data"].get("text/plain", ""))
                images = [f"{mime}, {len(data)} characters" for mime, data in output["data"].items() if "image" in mime]
                self.out.print(text, *(f"[{image}]" for image in images), markup=False)
