"""A Jupyter kernel in a microVM of its own.

Importing this package is cheap: the public names are loaded on first use, because a part of the package is also
shipped into the guest, where every import costs time before the first cell.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .errors import FcKernelError as FcKernelError
    from .headless import execute as execute
    from .spec import VmSpec as VmSpec

_EXPORTS = {
    "FcKernelError": ".errors",
    "VmSpec": ".spec",
    "execute": ".headless",
}

__all__ = ["FcKernelError", "VmSpec", "__version__", "execute"]


def __getattr__(name: str) -> object:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    """Where the built JupyterLab extension is, for ``jupyter-builder develop``."""
    return [{"src": "labextension", "dest": "fc-kernel"}]


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    """What a Jupyter server loads when this package is among its extensions."""
    return [{"module": "fc_kernel.server"}]
