"""Snapshots of the VM that this code runs in, from Python; the magics ``%snapshot`` and so on do the same.

In a guest this package is the whole of ``fc_kernel``; on the host, ``fc_kernel`` takes the hooks and the IPython extension
from here.
"""

from __future__ import annotations

from typing import Any

from .api import fork, restore, snapshot, snapshots, vm
from .hooks import on_restore, on_snapshot
from .requests import RequestError

__all__ = ["RequestError", "fork", "on_restore", "on_snapshot", "restore", "snapshot", "snapshots", "vm"]


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext fc_kernel``; the kernel of a microVM has loaded it already."""
    from .magics import load_ipython_extension as load

    load(shell)
