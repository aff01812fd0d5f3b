"""Firecracker's REST API over its Unix socket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx

from ...errors import MonitorApiError, OutcomeUnknown
from .requests import Request

#: Firecracker promises answers within 700 ms, except for snapshots, whose time grows with the memory.
REQUEST_TIMEOUT_S = 10.0
SNAPSHOT_TIMEOUT_S = 300.0
#: A fault message has some hundred bytes.
MAX_FAULT = 2000


class FirecrackerApi:
    """A client of one Firecracker process."""

    def __init__(self, socket: Path) -> None:
        # There is no TLS on this socket, and reading the system's certificates would take longer than the boot.
        transport = httpx.AsyncHTTPTransport(uds=str(socket), verify=False, trust_env=False)
        self._http = httpx.AsyncClient(
            transport=transport, base_url="http://localhost", timeout=REQUEST_TIMEOUT_S, trust_env=False
        )

    async def send(self, request: Request) -> None:
        """Send a request that is answered with success only.

        Raises :class:`~fc_kernel.errors.MonitorApiError` with the fault message, and
        :class:`~fc_kernel.errors.OutcomeUnknown` when the connection broke after the request had been sent.
        """
        await self._request(request.method, request.path, request.body)

    async def get(self, path: str) -> dict[str, Any]:
        """The object at ``path``."""
        return await self._request("GET", path, None)

    async def _request(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        timeout = SNAPSHOT_TIMEOUT_S if path.startswith("/snapshot/") else REQUEST_TIMEOUT_S
        try:
            response = await self._http.request(method, path, json=body, timeout=timeout)
        except httpx.ConnectError as error:
            raise MonitorApiError(f"{method} {path}: Firecracker does not listen: {error}") from error
        except httpx.HTTPError as error:
            raise OutcomeUnknown(f"{method} {path}: no answer: {type(error).__name__} {error}") from error
        if response.is_success:
            return _object(response.content)
        fault = _object(response.content).get("fault_message", response.text)
        raise MonitorApiError(f"{method} {path}: {str(fault)[:MAX_FAULT]}", status=response.status_code)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._http.aclose()


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content) if content else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
