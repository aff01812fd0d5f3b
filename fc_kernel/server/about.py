"""Routes about the server: its status, the schema of a notebook's settings, and the description of the API."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from jupyter_server.auth.decorator import authorized
from tornado import web

from .. import __version__
from ..api.calls import RawSettings
from ..api.models import Status
from ..api.openapi import description
from ..errors import SpecError
from .base import Handler


class StatusHandler(Handler):
    """The only route that also answers when the kernels run on a gateway."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Version, tier and limits."""
        if self.extension.gateway:
            message = "the kernels of this server run on a gateway; their microVMs cannot be seen from here"
            self.answer(Status(version=__version__, tier=None, gateway=True, limits=None, message=message))
            return
        self.answer(await self.host.status())


class SchemaHandler(Handler):
    """Settings of a notebook."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """The JSON Schema of ``metadata.fc_kernel``, with the administrator's limits."""
        self.answer(await self.host.schema())

    @web.authenticated
    @authorized(action="read")  # type: ignore[untyped-decorator]
    async def post(self) -> None:
        """Check settings as a start would; 204 when they are valid."""
        await self.host.check(RawSettings(notebook=settings_of(self.request.body)))
        self.set_status(HTTPStatus.NO_CONTENT)
        self.finish()


class OpenApiHandler(Handler):
    """The API's description."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """OpenAPI 3.1."""
        self.answer(description(self.extension.routes, base_url=self.base_url))


def settings_of(body: bytes) -> dict[str, Any]:
    """Settings in a request; :func:`~fc_kernel.settings.kernel_settings.parse_settings` checks what is in them."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise SpecError("fc_kernel", body[:80], "valid JSON", source="request") from None
    if not isinstance(value, dict):
        raise SpecError("fc_kernel", value, "an object of names and values", source="request")
    return value
