"""The Jupyter server extension: kernels' machines and snapshots over REST, and what happens to them as events."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp


def _load_jupyter_server_extension(serverapp: ServerApp) -> None:
    """Called by the server at its start."""
    from .loading import load  # noqa: PLC0415 - whoever only looks for extensions needs no handlers

    load(serverapp)
