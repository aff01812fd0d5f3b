"""Executing a notebook without a browser, with the settings in its metadata."""

from __future__ import annotations

import os
from typing import Any

from nbclient import NotebookClient
from nbformat import NotebookNode

from .kernelspec import DEFAULT_NAME


def execute(
    notebook: NotebookNode,
    *,
    cwd: str | os.PathLike[str] | None = None,
    kernel_name: str | None = None,
    fc_kernel: dict[str, Any] | None = None,
    **options: Any,
) -> NotebookNode:
    """Execute a notebook in a microVM, in place, and return it.

    nbclient does not pass a notebook's metadata to the kernel's start; this does: ``metadata.fc_kernel``, over which
    ``fc_kernel`` wins. ``cwd`` is where the notebook lies, ``kernel_name`` a kernelspec in place of the notebook's own;
    ``options`` are :class:`nbclient.NotebookClient`'s (``timeout``, ``allow_errors`` …). Raises
    :class:`~fc_kernel.errors.FcKernelError` when the kernel cannot start, and nbclient's errors.
    """
    settings = {**notebook.metadata.get("fc_kernel", {}), **(fc_kernel or {})}
    if kernel_name is None:
        kernel_name = notebook.metadata.get("kernelspec", {}).get("name", DEFAULT_NAME)
    resources = {"metadata": {"path": os.fspath(cwd)}} if cwd else {}
    # An emulated guest needs longer for its first answer than a local kernel.
    options.setdefault("startup_timeout", 300)
    client = NotebookClient(notebook, kernel_name=kernel_name, resources=resources, **options)
    result: NotebookNode = client.execute(fc_kernel=settings)
    return result
