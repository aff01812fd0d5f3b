"""Arguments and answers of :class:`~fc_kernel.host.service.KernelHost` that are not models of the REST API."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .models import ForkTicket, Snapshot

#: A name for the ports and for the files of ``ipc`` sockets.
Channel = Literal["shell", "iopub", "stdin", "control", "hb"]
#: Whether a subscriber starts the forks that cells ask for: never, only if no other subscriber does, or always.
ForkClaim = Literal["none", "fallback", "claim"]


class Data(BaseModel):
    """Plain data in both directions; bytes are base64 in JSON."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        defer_build=True,
        ser_json_bytes="base64",
        val_json_bytes="base64",
        ser_json_inf_nan="constants",
    )


class Listen(Data):
    """Where clients will connect. For ``ipc`` the host chooses the directory, and a port is the number in a socket's name."""

    transport: Literal["ipc", "tcp"] = "ipc"
    ip: str = Field("", description="for tcp: the address to bind")
    ports: dict[Channel, int] = Field({}, description="for tcp; 0 or a missing port means any free one")
    curve_publickey: bytes | None = None
    curve_secretkey: bytes | None = None


class Endpoints(Data):
    """Where clients connect, for as long as the kernel is open."""

    transport: Literal["ipc", "tcp"]
    ip: str = Field(description="an address; for ipc, the beginning of the sockets' paths")
    ports: dict[Channel, int]


class OpenKernel(Data):
    """A kernel to open: its sockets are bound, and nothing runs yet.

    The kernel is closed when its lease runs out: ``lease_s`` after the last of the opening, the end of a start, and a renewal.
    """

    kernel_id: str = Field(min_length=1, max_length=256)
    key: bytes = Field(description="key that signs the messages of clients; empty means that they are not signed")
    signature_scheme: str = "hmac-sha256"
    listen: Listen = Listen()
    notebook: str = Field("", description="the session's name: the value of JPY_SESSION_NAME")
    scope: str = Field("", description="the scope in which its snapshots are named; a ticket's scope takes precedence")
    labels: dict[str, str] = Field({}, description="shown in lists of VMs")
    ticket: str = Field("", description="for a fork: the first start restores the ticket's snapshot")
    lease_s: float = Field(gt=0, allow_inf_nan=False)


class RawSettings(Data):
    """A kernel's settings as each source has them; the host merges and checks them and applies the limits.

    ``None`` means that a source has no settings.
    """

    profile: Any = Field(None, description="the kernelspec's metadata.kernel_provisioner.config")
    environment: dict[str, str] = Field({}, description="the FC_KERNEL_* variables of the request")
    notebook: Any = Field(None, description="the notebook's metadata.fc_kernel")
    call: Any = Field(None, description="the argument fc_kernel of start_kernel")


class StartKernel(Data):
    """A kernel process to start: in the present VM if it is healthy and has these settings, else in a fresh VM."""

    settings: RawSettings = RawSettings()
    env: dict[str, str] = Field({}, description="the environment variables that the guest gets")


class Settings(Data):
    """The settings of a kernel, as the host has resolved them."""

    image: str
    monitor: str
    minimum_tier: str
    network: str
    vcpu_count: int | None
    mem_size_mib: int | None
    start_timeout_s: float
    argv: list[str] | None = Field(
        description="the kernel's command in the guest; null means the guest's own ipykernel"
    )


class Started(Data):
    """A kernel process was started."""

    seq: int = Field(description="number of the last event before the kernel process was started")
    settings: Settings


class TakeSnapshot(Data):
    """A snapshot to take now."""

    name: str | None = None
    description: str = ""
    notebook: bytes | None = Field(None, description="the notebook document to save with it")


class ForkOrder(Data):
    """Tickets for forks. The caller starts a kernel with each, and reports the results with ``forked``."""

    request: str = Field(description="ID of the order, which the report repeats")
    snapshot: Snapshot
    tickets: list[ForkTicket]


class ForkResult(Data):
    """The result of a ticket: a kernel, or the ``error`` for which it did not start."""

    ticket: str
    kernel_id: str = Field("", description="empty if no kernel was started")
    name: str = ""
    connection_file: str = ""
    url: str | None = None
    path: str | None = None
    session_id: str | None = None
    error: str = ""


class DiskUse(Data):
    """Disk space of the tenant's snapshots."""

    used_bytes: int = Field(description="space that all take; shared files count once")
    room_bytes: int = Field(description="space that the disk and the quota leave for more")
