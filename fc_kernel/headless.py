"""Executing a notebook without a browser, with the settings in its metadata."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets import TraitError

from .errors import ConfigError, SpecError
from .settings.kernelspec import DEFAULT_NAME, PROVISIONER, provisioner_of


def execute(
    notebook: NotebookNode,
    *,
    cwd: str | os.PathLike[str] | None = None,
    kernel_name: str | None = None,
    fc_kernel: Mapping[str, Any] | None = None,
    **options: Any,
) -> NotebookNode:
    """Execute a notebook in a microVM, in place, and return it.

    nbclient does not pass a notebook's metadata to the start of the kernel; this function passes ``metadata.fc_kernel``, and
    the argument ``fc_kernel`` takes precedence over it. ``cwd`` is the notebook's directory, ``kernel_name`` a kernelspec in
    place of the notebook's own (see :func:`microvm_kernel`); ``options`` are those of :class:`nbclient.NotebookClient`
    (``timeout``, ``allow_errors`` …).
    Raises :class:`~fc_kernel.errors.FcKernelError` when the kernel cannot start, and nbclient's errors.
    """
    named = kernel_name or microvm_kernel(notebook)
    require_microvm(named)
    resources = {"metadata": {"path": os.fspath(cwd)}} if cwd else {}
    # An emulated guest needs longer for its first answer than a local kernel.
    options.setdefault("startup_timeout", 300)
    client = NotebookClient(notebook, kernel_name=named, resources=resources, **options)
    start: dict[str, Any] = {"fc_kernel_notebook": notebook_settings(notebook)}
    if fc_kernel is not None:
        start["fc_kernel"] = fc_kernel
    result: NotebookNode = client.execute(**start)
    return result


def read_notebook(path: Path) -> NotebookNode:
    """A notebook from a file, as nbformat 4; raises :class:`~fc_kernel.errors.ConfigError` if the file is not a notebook."""
    try:
        notebook: NotebookNode = nbformat.read(path, as_version=4)
    except Exception as error:
        # Besides its own errors, nbformat raises whatever its conversions run into.
        first = str(error).partition("\n")[0]
        raise ConfigError(f"cannot read the notebook {str(path)!r}: {type(error).__name__}: {first[:200]}") from error
    cells = notebook.get("cells")
    if not isinstance(notebook.get("metadata"), dict) or not isinstance(cells, list):
        raise ConfigError(f"{str(path)!r} is not a notebook: its metadata or its cells are missing")
    for number, cell in enumerate(cells):
        if not (
            isinstance(cell, dict) and isinstance(cell.get("cell_type"), str) and isinstance(cell.get("source"), str)
        ):
            raise ConfigError(f"{str(path)!r} is not a notebook: cells[{number}] has no cell_type or no source")
    return notebook


def notebook_settings(notebook: NotebookNode) -> dict[str, Any]:
    """``metadata.fc_kernel``; raises :class:`~fc_kernel.errors.SpecError` when it is not an object."""
    return dict(_object(notebook, "fc_kernel"))


def _object(notebook: NotebookNode, name: str) -> Mapping[str, Any]:
    values = notebook.metadata.get(name)
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise SpecError(f"metadata.{name}", values, "an object of names and values", source="notebook")
    return values


def microvm_kernel(notebook: NotebookNode) -> str:
    """The kernelspec for a notebook: its own if that starts microVMs, else the default one if it is a Python notebook.

    Raises :class:`~fc_kernel.errors.ConfigError` for a notebook in another language, which the default cannot run, and
    :class:`~fc_kernel.errors.SpecError` for malformed metadata.
    """
    own = _object(notebook, "kernelspec")
    name = own.get("name") or DEFAULT_NAME
    if not isinstance(name, str):
        raise SpecError("metadata.kernelspec.name", name, "a string", source="notebook")
    if name == DEFAULT_NAME or _provisioner(name) == PROVISIONER:
        return name
    language = str(_object(notebook, "language_info").get("name") or own.get("language") or "python")
    if not language.lower().startswith("python"):
        raise ConfigError(
            f"the notebook's language is {language!r}, and its kernel {name!r} does not run in a microVM; choose one that does"
        )
    return DEFAULT_NAME


def require_microvm(name: str) -> None:
    """Raise :class:`~fc_kernel.errors.ConfigError` unless this kernelspec starts microVMs.

    Callers of this module want isolation; a mistake in a name must not run code on the host.
    """
    provisioner = _provisioner(name)
    if provisioner is None:
        raise ConfigError(f"there is no kernelspec {name!r}; install it with: fc-kernel install --name {name}")
    if provisioner != PROVISIONER:
        raise ConfigError(f"the kernelspec {name!r} runs its kernel on this host, not in a microVM")


def _provisioner(name: str) -> str | None:
    """The provisioner of a kernelspec, ``""`` for Jupyter's own; ``None`` if there is no valid kernelspec of that name."""
    try:
        spec = KernelSpecManager().get_kernel_spec(name)
    except (NoSuchKernel, ValueError, TypeError, TraitError, OSError):
        return None
    return provisioner_of(spec)
