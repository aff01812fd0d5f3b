"""Executing a notebook without a browser, with the settings in its metadata."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from nbclient import NotebookClient
from nbformat import NotebookNode

from .errors import ConfigError, SpecError
from .kernelspec import DEFAULT_NAME

PROVISIONER = "fc-provisioner"


def execute(
    notebook: NotebookNode,
    *,
    cwd: str | os.PathLike[str] | None = None,
    kernel_name: str | None = None,
    fc_kernel: Mapping[str, Any] | None = None,
    **options: Any,
) -> NotebookNode:
    """Execute a notebook in a microVM, in place, and return it.

    nbclient does not pass a notebook's metadata to the kernel's start; this does: ``metadata.fc_kernel``, over which
    ``fc_kernel`` wins. ``cwd`` is where the notebook lies, ``kernel_name`` a kernelspec in place of the notebook's own
    (see :func:`microvm_kernel`); ``options`` are :class:`nbclient.NotebookClient`'s (``timeout``, ``allow_errors`` …).
    Raises :class:`~fc_kernel.errors.FcKernelError` when the kernel cannot start, and nbclient's errors.
    """
    named = kernel_name or microvm_kernel(notebook)
    require_microvm(named)
    resources = {"metadata": {"path": os.fspath(cwd)}} if cwd else {}
    # An emulated guest needs longer for its first answer than a local kernel.
    options.setdefault("startup_timeout", 300)
    client = NotebookClient(notebook, kernel_name=named, resources=resources, **options)
    start = {"fc_kernel_notebook": notebook_settings(notebook)}
    if fc_kernel is not None:
        start["fc_kernel"] = dict(fc_kernel)
    result: NotebookNode = client.execute(**start)
    return result


def notebook_settings(notebook: NotebookNode) -> dict[str, Any]:
    """``metadata.fc_kernel``; raises :class:`~fc_kernel.errors.SpecError` when it is no object."""
    values = notebook.metadata.get("fc_kernel")
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise SpecError("metadata.fc_kernel", values, "an object of names and values", source="notebook")
    return dict(values)


def microvm_kernel(notebook: NotebookNode) -> str:
    """The kernelspec for a notebook: its own if that is a microVM's, else the default one for a Python notebook.

    Raises :class:`~fc_kernel.errors.ConfigError` for a notebook in another language, which the default cannot run.
    """
    own = notebook.metadata.get("kernelspec", {})
    name = own.get("name") or DEFAULT_NAME
    if name == DEFAULT_NAME or _provisioner(name) == PROVISIONER:
        return str(name)
    language = str(notebook.metadata.get("language_info", {}).get("name") or own.get("language") or "python")
    if not language.lower().startswith("python"):
        raise ConfigError(
            f"the notebook is in {language!r} for the kernel {name!r}, which runs in no microVM; choose one that does"
        )
    return DEFAULT_NAME


def require_microvm(name: str) -> None:
    """Raise :class:`~fc_kernel.errors.ConfigError` unless this kernelspec starts microVMs.

    Whoever calls this module wants isolation; code must not run on the host by a mistake in a name.
    """
    provisioner = _provisioner(name)
    if provisioner is None:
        raise ConfigError(f"there is no kernelspec {name!r}; install it with: fc-kernel install --name {name}")
    if provisioner != PROVISIONER:
        raise ConfigError(f"the kernelspec {name!r} runs its kernel on this very host, in no microVM")


def _provisioner(name: str) -> str | None:
    """The provisioner of a kernelspec, ``""`` for Jupyter's own; ``None`` where there is no such kernelspec."""
    try:
        spec = KernelSpecManager().get_kernel_spec(name)
    except (NoSuchKernel, ValueError):
        return None
    return str(spec.metadata.get("kernel_provisioner", {}).get("provisioner_name", ""))
