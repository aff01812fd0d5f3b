"""A Jupyter kernel in a microVM of its own.

Importing this package is cheap: public names are loaded on first use. A part of the package also runs in the guest, where
every import delays the first cell.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .errors import FcKernelError as FcKernelError
    from .guest.in_kernel import load_ipython_extension as load_ipython_extension
    from .guest.in_kernel import on_restore as on_restore
    from .guest.in_kernel import on_snapshot as on_snapshot
    from .headless import execute as execute
    from .settings.spec import VmSpec as VmSpec

_EXPORTS = {
    "FcKernelError": ".errors",
    "VmSpec": ".settings.spec",
    "execute": ".headless",
    "load_ipython_extension": ".guest.in_kernel",
    "on_restore": ".guest.in_kernel",
    "on_snapshot": ".guest.in_kernel",
}

__all__ = [
    "FcKernelError",
    "VmSpec",
    "__version__",
    "execute",
    "load_ipython_extension",
    "on_restore",
    "on_snapshot",
]


def __getattr__(name: str) -> object:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    """The directory of the built JupyterLab extension, for ``jupyter-builder develop``."""
    return [{"src": "labextension", "dest": "fc-kernel"}]


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    """The module that a Jupyter server loads as its extension."""
    return [{"module": "fc_kernel.server"}]
