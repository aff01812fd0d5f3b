"""Forks that belong to this process and nobody else: any client can attach to their connection files."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from jupyter_core.paths import jupyter_runtime_dir

from ..api.events import Event, StateChanged
from ..base.paths import RunDir, new_vm_id
from ..channels.endpoints import CHANNELS, ClientEndpoints
from ..machine.start import KernelRequest
from ..sessions.fork import ForkInfo, ForkRequest
from ..sessions.session import KernelSession
from ..settings.kernelspec import DEFAULT_NAME
from ..settings.tenant import Tenant


class Opener(Protocol):
    """What this needs of the engine."""

    def open(
        self,
        tenant: Tenant,
        endpoints: ClientEndpoints,
        *,
        key: bytes,
        labels: dict[str, str],
        endpoint_dir: RunDir,
    ) -> KernelSession:
        """A session that has no kernel yet."""

    def subscribe(self, subscriber: Callable[[Event], None]) -> Callable[[], None]:
        """Be told of each event; returns what ends that."""


async def standalone(engine: Opener, tenant: Tenant, request: ForkRequest) -> ForkInfo:
    """Start one; on the engine's loop. It ends with its kernel process (a client's shutdown request), or with this process."""
    kernel_id = str(uuid.uuid4())
    key = secrets.token_hex(32)
    endpoint_dir = RunDir.create(tenant.run_dir, new_vm_id())
    ip = str(endpoint_dir.path / "k")
    session = engine.open(
        tenant,
        ClientEndpoints(transport="ipc", ip=ip),
        key=key.encode(),
        labels={"kernel_id": kernel_id, "fork_of": request.parent_kernel_id, "scope": request.scope},
        endpoint_dir=endpoint_dir,
    )
    try:
        resolved = request.resolved
        await session.start(KernelRequest(resolved=resolved, argv=resolved.argv, env=request.env))
        info: dict[str, Any] = {
            "transport": "ipc",
            "ip": ip,
            "key": key,
            "signature_scheme": "hmac-sha256",
            # By which a client finds the language; those of others are their owners' to name.
            **({} if request.resolved.argv else {"kernel_name": DEFAULT_NAME}),
            **{f"{channel}_port": session.ports[channel] for channel in CHANNELS},
        }
        path = _write(kernel_id, info)
    except BaseException:
        await session.aclose()
        raise

    def heard(event: Event) -> None:
        if isinstance(event, StateChanged) and event.kernel_id == kernel_id and event.state == "dead":
            unsubscribe()
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            session.abandon()

    unsubscribe = engine.subscribe(heard)
    return ForkInfo(kernel_id=kernel_id, name=request.snapshot.name, connection_file=str(path))


def _write(kernel_id: str, info: dict[str, Any]) -> Path:
    """The connection file, where clients look for it; only its owner can read the key in it."""
    directory = Path(jupyter_runtime_dir())
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / f"kernel-{kernel_id}.json"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(info, file)
    return path
