"""Kernels of their own that go on from a snapshot: what to attach to, and who keeps them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_core.paths import jupyter_runtime_dir

from ..base.paths import RunDir, new_vm_id
from ..channels.endpoints import CHANNELS, ClientEndpoints
from ..host.engine import Engine
from ..machine.start import KernelRequest
from ..settings.kernelspec import DEFAULT_NAME
from ..settings.resolve import Resolved
from ..snapshots.snapshot import Snapshot
from ..supply.supply import Supply

if TYPE_CHECKING:
    from .session import KernelSession

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ForkRequest:
    """What a fork is to be."""

    snapshot: Snapshot
    #: Of the kernel that was forked, with ``restore_from`` naming the snapshot.
    resolved: Resolved
    env: Mapping[str, str] = field(default_factory=dict)
    parent_kernel_id: str = ""
    #: The snapshots that the fork takes belong where its parent's do.
    scope: str = ""


@dataclass(frozen=True, kw_only=True)
class ForkInfo:
    """A fork that runs, or the ``error`` that kept it from running."""

    kernel_id: str
    name: str
    connection_file: str = ""
    url: str | None = None
    path: str | None = None
    session_id: str | None = None
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


#: Makes a kernel from a snapshot, on the engine's loop.
Forker = Callable[[ForkRequest], Awaitable[ForkInfo]]


async def standalone(
    engine: Engine, supply: Supply, open_session: type[KernelSession], request: ForkRequest
) -> ForkInfo:
    """A kernel that belongs to this process and nobody else: any client can attach to its connection file.

    It ends with its kernel process (a client's shutdown request), or with this process.
    """
    kernel_id = str(uuid.uuid4())
    key = secrets.token_hex(32)
    endpoint_dir = RunDir.create(supply.tenant.run_dir, new_vm_id())
    ip = str(endpoint_dir.path / "k")
    session = open_session(
        engine,
        supply,
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

    def observed(kind: str, payload: Mapping[str, Any]) -> None:
        if kind == "state" and payload.get("state") in ("dead", "closed"):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            session.abandon()

    session.observe(observed)
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
