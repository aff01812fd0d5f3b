"""The kernel process in the guest, run by its path: Python 3.9, ipykernel.

This package is not on the kernel's path: in the kernel ``import fc_kernel`` gives ``in_kernel``, with ``wire`` in it.
"""

from __future__ import annotations

import importlib.util
import os
import sys


def provide_package(name: str, directory: str) -> None:
    """Make ``directory`` the package ``name`` of this process."""
    spec = importlib.util.spec_from_file_location(
        name, os.path.join(directory, "__init__.py"), submodule_search_locations=[directory]
    )
    if spec is None or spec.loader is None:
        raise ImportError(directory)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    # This file's directory: its modules would hide others from the user's code.
    here = os.path.abspath(sys.path.pop(0))
    # First, because modules of the package import it.
    provide_package("fc_kernel.wire", os.path.join(os.path.dirname(here), "wire"))
    provide_package("fc_kernel", os.path.join(here, "in_kernel"))
    importlib.import_module("fc_kernel.app").KernelApp.launch_instance()
