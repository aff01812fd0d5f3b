"""Finding a notebook's ``metadata.fc_kernel`` from what a client says when it starts a kernel.

JupyterLab and Notebook 7 give the path (``JPY_SESSION_NAME``); nbclient, papermill and ``jupyter execute`` do not. A notebook
that cannot be found or read gives no settings; bad settings in it are refused later, by name.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base.files import read_regular
from ..errors import SpecError
from .resolve import Source

log = logging.getLogger(__name__)

SOURCE_NAME = "notebook"
#: A notebook with outputs may be large; one that is larger than this is not read for a few numbers.
MAX_NOTEBOOK_BYTES = 256 << 20
#: VS Code on a remote server makes up a name beside the notebook's: ``nb-jvsc-<uuid>.ipynb``.
_VSCODE_SUFFIX = re.compile(r"-jvsc-[0-9a-f-]{36,}(?=\.ipynb$)")
_DRIVE = re.compile(r"^[A-Za-z][A-Za-z0-9_-]*:(?=[^/\\])")


async def notebook_source(
    environ: Mapping[str, str], cwd: str | os.PathLike[str] | None = None, contents_manager: Any = None
) -> Source | None:
    """The settings in the notebook that a kernel is started for; ``None`` when there are none.

    ``FC_KERNEL_NOTEBOOK`` names a file outright. ``contents_manager`` is the server's; it also knows notebooks that are
    not files. Raises :class:`~fc_kernel.errors.SpecError` when ``metadata.fc_kernel`` is not an object.
    """
    if chosen := environ.get("FC_KERNEL_NOTEBOOK"):
        return _settings(_read(Path(chosen)))
    name = environ.get("JPY_SESSION_NAME")
    if not name or not name.endswith(".ipynb"):
        return None
    name = _VSCODE_SUFFIX.sub("", name)
    for api_path in _api_paths(name, contents_manager):
        notebook = await _from_contents(contents_manager, api_path)
        if notebook is not None:
            return _settings(notebook)
    base = Path(cwd) if cwd else Path.cwd()
    for path in dict.fromkeys((base / _DRIVE.sub("", name), base / Path(name).name)):
        notebook = _read(path)
        if notebook is not None:
            return _settings(notebook)
    return None


def path_on_server(name: str, contents_manager: Any = None) -> str:
    """A session's name as a path below the server's root; unchanged where the contents manager does not know it."""
    name = _VSCODE_SUFFIX.sub("", name)
    return next(iter(_api_paths(name, contents_manager)), name)


def _api_paths(name: str, contents_manager: Any) -> list[str]:
    """Names under which the contents manager may know the notebook."""
    if contents_manager is None:
        return []
    plain = _DRIVE.sub("", name)
    root = getattr(contents_manager, "root_dir", "") or ""
    paths = []
    if root and Path(name).is_absolute() and Path(name).is_relative_to(root):
        paths.append(Path(name).relative_to(root).as_posix())
    elif not Path(plain).is_absolute():
        paths.append(plain)
    return paths


async def _from_contents(contents_manager: Any, api_path: str) -> Any:
    async def ask() -> Any:
        model = contents_manager.get(api_path, type="notebook", content=True)
        return (await model if inspect.isawaitable(model) else model)["content"]

    try:
        # In a task of its own: AnyIO binds the thread that reads the file to the task that asks, and a server that is stopped
        # while a kernel starts would wait for that thread for ever.
        return await asyncio.ensure_future(ask())
    except Exception as error:  # noqa: BLE001 - contents managers are plug-ins; not finding a notebook is no failure
        log.debug("no notebook %r in the contents manager: %s", api_path, error)
        return None


def _read(path: Path) -> Any:
    try:
        return json.loads(read_regular(path, MAX_NOTEBOOK_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        log.debug("no notebook at %s: %s", path, error)
        return None


def _settings(notebook: Any) -> Source | None:
    metadata = notebook.get("metadata") if isinstance(notebook, Mapping) else None
    values = metadata.get("fc_kernel") if isinstance(metadata, Mapping) else None
    if values is None:
        return None
    if not isinstance(values, Mapping):
        raise SpecError("metadata.fc_kernel", values, "an object of names and values", source=SOURCE_NAME)
    return Source(SOURCE_NAME, values)
