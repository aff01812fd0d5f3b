"""What the calls of :class:`~fc_kernel.host.service.KernelHost` take and answer, beyond the models of the REST API."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .models import ForkTicket, Snapshot

#: A name for the ports and for the files of ``ipc`` sockets.
Channel = Literal["shell", "iopub", "stdin", "control", "hb"]
#: Who starts the forks that a cell asks for: not this subscriber, this one where no other does, this one.
ForkClaim = Literal["none", "fallback", "claim"]


class Data(BaseModel):
    """Plain data in both directions; bytes are base64 in JSON."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="constants"
    )


class Listen(Data):
    """Where clients are to connect. For ``ipc`` the host chooses the directory; a port is then the number in a file's name."""

    transport: Literal["ipc", "tcp"] = "ipc"
    ip: str = Field("", description="for tcp: the address to bind")
    ports: dict[Channel, int] = Field({}, description="for tcp, 0 or none is any free one")
    curve_publickey: bytes | None = None
    curve_secretkey: bytes | None = None


class Endpoints(Data):
    """Where clients connect, for as long as the kernel is open."""

    transport: Literal["ipc", "tcp"]
    ip: str = Field(description="an address, or for ipc the beginning of the sockets' paths")
    ports: dict[Channel, int]


class OpenKernel(Data):
    """A kernel to open: its sockets are bound, and nothing runs yet.

    The kernel is closed when its lease runs out: ``lease_s`` after the opening, the end of a start, or the last renewal.
    """

    kernel_id: str = Field(min_length=1, max_length=256)
    key: bytes = Field(description="signs the messages of clients; empty is none")
    signature_scheme: str = "hmac-sha256"
    listen: Listen = Listen()
    notebook: str = Field("", description="the session's name, as JPY_SESSION_NAME has it")
    scope: str = Field("", description="what the names of its snapshots are unique in; a ticket's scope goes first")
    labels: dict[str, str] = Field({}, description="shown in lists of VMs")
    ticket: str = Field("", description="of a fork: the first start goes on from the ticket's snapshot")
    lease_s: float = Field(gt=0, allow_inf_nan=False)


class RawSettings(Data):
    """What each source says of a kernel's settings; the host merges them and applies the limits.

    ``None`` is a source that says nothing. What is in them is for the host to check.
    """

    profile: Any = Field(None, description="the kernelspec's metadata.kernel_provisioner.config")
    environment: dict[str, str] = Field({}, description="FC_KERNEL_* variables of the request")
    notebook: Any = Field(None, description="the notebook's metadata.fc_kernel")
    call: Any = Field(None, description="fc_kernel of start_kernel's caller")


class StartKernel(Data):
    """A kernel process to start, in the VM that is there if it is healthy and as asked for, else in a fresh one."""

    settings: RawSettings = RawSettings()
    env: dict[str, str] = Field({}, description="what the guest sees of the starter's environment")


class Settings(Data):
    """What a kernel gets, as the host has resolved it."""

    image: str
    monitor: str
    minimum_tier: str
    network: str
    vcpu_count: int | None
    mem_size_mib: int | None
    start_timeout_s: float
    argv: list[str] | None = Field(description="the kernel's command in the guest; null is the guest's own ipykernel")


class Started(Data):
    """A kernel process runs."""

    seq: int = Field(description="of the last event that is older than the kernel process")
    settings: Settings


class TakeSnapshot(Data):
    """A snapshot to take now."""

    name: str | None = None
    description: str = ""
    notebook: bytes | None = Field(None, description="the notebook document, to be saved with it")


class ForkOrder(Data):
    """Tickets for forks that the caller is to start, and then to report with ``forked``."""

    request: str = Field(description="what the report names")
    snapshot: Snapshot
    tickets: list[ForkTicket]


class ForkResult(Data):
    """What came of a ticket: a kernel, or the ``error`` that kept it from running."""

    ticket: str
    kernel_id: str = Field("", description="empty where none runs")
    name: str = ""
    connection_file: str = ""
    url: str | None = None
    path: str | None = None
    session_id: str | None = None
    error: str = ""


class DiskUse(Data):
    """The tenant's snapshots on the disk."""

    used_bytes: int = Field(description="what all take, shared files once")
    room_bytes: int = Field(description="what the disk and the quota leave for more")
