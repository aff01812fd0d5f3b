"""What this server can do, what a notebook may say on it, and the description of the API itself."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from jupyter_server.auth.decorator import authorized
from tornado import web

from .. import __version__
from ..api.failures import without_host_paths
from ..api.models import MAX_FORKS, Limits, Status
from ..api.openapi import description
from ..errors import FcKernelError, SpecError
from ..settings.config import FcKernelConfig
from ..settings.schema import check_settings, defaults_of, limited_schema
from ..vmm.monitors import choose_monitor
from .base import Handler
from .hosting import in_thread


class StatusHandler(Handler):
    """The one route that also answers where kernels are on a gateway."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Version, tier and limits."""
        if self.extension.gateway:
            message = "kernels are on a gateway; their machines cannot be seen from here"
            self.answer(Status(version=__version__, tier=None, gateway=True, limits=None, message=message))
            return
        config = self.extension.config
        tier, message = await in_thread(best_tier, config)
        self.answer(
            Status(version=__version__, tier=tier, gateway=False, limits=limits_of(config), message=message or None)
        )


class SchemaHandler(Handler):
    """Settings of a notebook."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """The JSON Schema of ``metadata.fc_kernel``, with the administrator's limits."""
        _ = self.host
        self.answer(limited_schema(self.extension.config))

    @web.authenticated
    @authorized(action="read")  # type: ignore[untyped-decorator]
    async def post(self) -> None:
        """Look at settings as a start would; 204 when there is nothing to say against them."""
        _ = self.host
        check_settings(self.extension.config, settings_of(self.request.body))
        self.set_status(HTTPStatus.NO_CONTENT)
        self.finish()


class OpenApiHandler(Handler):
    """The API's description."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """OpenAPI 3.1."""
        from .routes import ROUTES  # noqa: PLC0415 - which is made of the handlers, this one among them

        self.answer(description(ROUTES, base_url=self.base_url))


def settings_of(body: bytes) -> dict[str, Any]:
    """Settings in a request; what is in them is for :func:`~fc_kernel.settings.kernel_settings.parse_settings` to say."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise SpecError("fc_kernel", body[:80], "valid JSON", source="request") from None
    if not isinstance(value, dict):
        raise SpecError("fc_kernel", value, "an object of names and values", source="request")
    return value


def best_tier(config: FcKernelConfig) -> tuple[str | None, str]:
    """The tier that a kernel with default settings gets, and where there is none the reason."""
    try:
        return str(choose_monitor(defaults_of(config), config).tier), ""
    except FcKernelError as error:
        return None, without_host_paths(str(error).partition("\n")[0])


def limits_of(config: FcKernelConfig) -> Limits:
    """The administrator's limits."""
    limits = config.limits()
    return Limits(
        max_vcpu_count=limits.max_vcpu_count,
        max_mem_size_mib=limits.max_mem_size_mib,
        max_start_timeout_s=limits.max_start_timeout_s,
        minimum_tier=str(limits.minimum_tier),
        allowed_images=None if limits.allowed_images is None else sorted(limits.allowed_images),
        networks=sorted(limits.networks),
        max_snapshots=config.max_snapshots,
        max_snapshot_bytes=config.max_snapshot_bytes,
        max_forks=min(MAX_FORKS, config.max_forks),
    )
