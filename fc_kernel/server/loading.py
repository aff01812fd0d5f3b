"""Loads the extension into a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jupyter_server.serverapp import ServerApp
from jupyter_server.utils import url_path_join

from .extension import Extension
from .routes import ROUTES

if TYPE_CHECKING:
    from ..host.client import HostClient


def load(serverapp: ServerApp, client: HostClient | None = None) -> Extension:
    """Load the extension into a server, and return it."""
    extension = Extension(serverapp, client, routes=ROUTES)
    base_url = serverapp.web_app.settings["base_url"]
    web_app: Any = serverapp.web_app
    web_app.add_handlers(
        ".*$",
        [(url_path_join(base_url, route.pattern), route.handler, {"extension": extension}) for route in ROUTES],
    )
    if not extension.gateway:
        extension.events.start()
    serverapp.log.debug("fc_kernel: the server extension is loaded")
    return extension
