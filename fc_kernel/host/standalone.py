"""Forks in a process without the server extension: kernels of this process, to which clients attach by a connection file.

A fork ends when its kernel process ends (at a client's shutdown request, say), or with this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_runtime_dir

from ..api.calls import ForkResult, OpenKernel, StartKernel
from ..api.events import ForkWanted
from ..api.models import ForkTicket
from ..errors import LaunchError
from .held import HeldKernel

SIGNATURE_SCHEME = "hmac-sha256"


@dataclass(frozen=True)
class _Fork:
    kernel: HeldKernel
    connection_file: Path


class StandaloneForks:
    """Starts forks, and keeps each until its kernel process ends."""

    def __init__(self, open_kernel: Callable[[OpenKernel], Awaitable[HeldKernel]], *, lease_s: float) -> None:
        self._open = open_kernel
        self._lease_s = lease_s
        self._forks: dict[str, _Fork] = {}

    async def make(self, wanted: ForkWanted) -> list[ForkResult]:
        """Start a kernel for each ticket; the result of one that fails has an ``error``."""
        made = await asyncio.gather(*(self._make(each) for each in wanted.tickets), return_exceptions=True)
        for each in made:
            if isinstance(each, asyncio.CancelledError):
                raise each
        return [
            ForkResult(ticket=ticket.ticket, error=str(each) or type(each).__name__)
            if isinstance(each, BaseException)
            else each
            for ticket, each in zip(wanted.tickets, made, strict=True)
        ]

    async def _make(self, ticket: ForkTicket) -> ForkResult:
        from ..settings.kernelspec import DEFAULT_NAME  # noqa: PLC0415 - slow to import, and few processes make forks

        kernel_id, key = str(uuid.uuid4()), secrets.token_hex(32)
        kernel = await self._open(
            OpenKernel(kernel_id=kernel_id, key=key.encode(), ticket=ticket.ticket, lease_s=self._lease_s)
        )
        try:
            settings = await kernel.start(StartKernel())
            endpoints = kernel.endpoints
            info: dict[str, Any] = {
                "transport": endpoints.transport,
                "ip": endpoints.ip,
                "key": key,
                "signature_scheme": SIGNATURE_SCHEME,
                # Tells clients the language. Kernels with a command of their own have a kernelspec that is not known here.
                **({} if settings.argv else {"kernel_name": DEFAULT_NAME}),
                **{f"{channel}_port": port for channel, port in endpoints.ports.items()},
            }
            path = _write(kernel_id, info)
        except BaseException:
            await kernel.close()
            raise
        kernel.keep()
        self._forks[kernel_id] = _Fork(kernel, path)
        if kernel.dead:
            # Its end was told before it was known whose it is.
            await self.ended(kernel_id)
            raise LaunchError("the fork ended as soon as it had started")
        return ForkResult(ticket=ticket.ticket, kernel_id=kernel_id, name=ticket.name, connection_file=str(path))

    async def ended(self, kernel_id: str) -> None:
        """The kernel process of a fork has ended; nothing happens for a kernel that is not one of these forks."""
        fork = self._forks.pop(kernel_id, None)
        if fork is not None:
            with contextlib.suppress(OSError):
                fork.connection_file.unlink(missing_ok=True)
            await fork.kernel.close()


def _write(kernel_id: str, info: dict[str, Any]) -> Path:
    """Write the connection file where clients look for it; only its owner can read it, because of the key."""
    directory = Path(jupyter_runtime_dir())
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / f"kernel-{kernel_id}.json"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(info, file)
    return path
