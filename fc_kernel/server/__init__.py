"""The Jupyter server extension: a REST API for kernels in microVMs and their snapshots, and events about them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp


def _load_jupyter_server_extension(serverapp: ServerApp) -> None:
    """Called by the server at its start."""
    from .loading import load  # noqa: PLC0415 - whoever only looks for extensions needs no handlers

    load(serverapp)
