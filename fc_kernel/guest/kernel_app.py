"""The kernel process in the guest, run by its path: Python 3.9, ipykernel.

This package is not on the kernel's path: there ``import fc_kernel`` gives ``in_kernel``, and nothing else of it.
"""

from __future__ import annotations

import importlib.util
import os
import sys


def provide_package(directory: str) -> None:
    """Make ``directory`` the package ``fc_kernel`` of this process."""
    spec = importlib.util.spec_from_file_location(
        "fc_kernel", os.path.join(directory, "__init__.py"), submodule_search_locations=[directory]
    )
    if spec is None or spec.loader is None:
        raise ImportError(directory)
    module = importlib.util.module_from_spec(spec)
    sys.modules["fc_kernel"] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    # The directory of this file, whose modules would hide others from the user's code.
    provide_package(os.path.join(os.path.abspath(sys.path.pop(0)), "in_kernel"))
    importlib.import_module("fc_kernel.app").KernelApp.launch_instance()
