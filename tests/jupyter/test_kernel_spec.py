"""The kernel test suite that Jupyter's own project publishes, against the installed kernelspec."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupyter_kernel_test
import pytest

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module", autouse=True)
def real_vm(jupyter_path: Path) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("FC_KERNEL_MONITOR", "qemu")
    yield
    patch.undo()


class TestKernelSpec(jupyter_kernel_test.KernelTests):
    kernel_name = "fc-python3"
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    completion_samples = [{"text": "zi", "matches": {"zip"}}]  # noqa: RUF012
    complete_code_samples = ["1", "print('hello, world')", "def f(x):\n  return x*2\n\n"]  # noqa: RUF012
    incomplete_code_samples = ["print('''hello", "def f(x):\n  x*2"]  # noqa: RUF012
    invalid_code_samples = ["import = 7q"]  # noqa: RUF012
    code_page_something = "zip?"
    code_generate_error = "raise"
    code_execute_result = [{"code": "1+2+3", "result": "6"}]  # noqa: RUF012
    code_display_data = [  # noqa: RUF012
        {"code": "from IPython.display import HTML, display; display(HTML('<b>test</b>'))", "mime": "text/html"}
    ]
    code_history_pattern = "1?2*"
    supported_history_operations: Any = ("tail", "search")
    code_history_test = "1"
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"
