"""The sockets that clients connect to: bound once, for the kernel's whole life."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import zmq

from ..errors import ConfigError
from ..wire.frames import MAX_MESSAGE_BYTES

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
KINDS = {"shell": zmq.ROUTER, "iopub": zmq.XPUB, "stdin": zmq.ROUTER, "control": zmq.ROUTER, "hb": zmq.REP}

#: ZeroMQ counts messages, for each client, and not bytes. In both directions a queue of ours follows that counts bytes.
QUEUED_MESSAGES = 32
#: A message over the tunnel's limit is answered with an error; a client that sends a part of over twice that is cut off.
MAX_PART_BYTES = 2 * MAX_MESSAGE_BYTES
LINGER_MS = 1000


@dataclass(frozen=True, kw_only=True)
class ClientEndpoints:
    """Where clients connect. For ``ipc``, ``ip`` is a path in a private directory; for ``tcp``, port 0 takes a free one."""

    transport: Literal["ipc", "tcp"]
    ip: str
    ports: dict[str, int] = field(default_factory=dict)
    curve_publickey: bytes | None = None
    curve_secretkey: bytes | None = None

    def port(self, channel: str) -> int:
        """The port, or for ``ipc`` the number in the file's name."""
        default = CHANNELS.index(channel) + 1 if self.transport == "ipc" else 0
        return self.ports.get(channel) or default


class BoundSockets:
    """The five bound sockets; raises :class:`~fc_kernel.errors.ConfigError` when one cannot be bound."""

    def __init__(self, context: zmq.Context[Any], endpoints: ClientEndpoints) -> None:
        self.endpoints = endpoints
        self.sockets: dict[str, zmq.Socket[Any]] = {}
        self.ports: dict[str, int] = {}
        try:
            for channel in CHANNELS:
                self.sockets[channel] = self._bind(context, channel)
            if endpoints.transport == "ipc":
                self.link()
        except BaseException:
            self.close()
            raise

    def _bind(self, context: zmq.Context[Any], channel: str) -> zmq.Socket[Any]:
        endpoints = self.endpoints
        socket: zmq.Socket[Any] = context.socket(KINDS[channel])
        try:
            socket.linger = LINGER_MS
            socket.sndhwm = socket.rcvhwm = QUEUED_MESSAGES
            socket.maxmsgsize = MAX_PART_BYTES
            if KINDS[channel] == zmq.ROUTER:
                # A client that reconnects keeps its identity; sending to an absent or full one raises an error.
                socket.router_handover = 1
                socket.router_mandatory = 1
            elif channel == "iopub":
                socket.xpub_verbose = 1
                socket.setsockopt(zmq.XPUB_NODROP, 1)
            if endpoints.curve_secretkey and endpoints.curve_publickey:
                socket.curve_secretkey = endpoints.curve_secretkey
                socket.curve_publickey = endpoints.curve_publickey
                socket.curve_server = True
            port = endpoints.port(channel)
            if endpoints.transport == "ipc":
                socket.bind(f"ipc://{self._private(channel)}")
                self._private(channel).chmod(0o600)
            else:
                socket.bind(f"tcp://{endpoints.ip}:{port or '*'}")
                port = int(socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2].rstrip("\0"))
            self.ports[channel] = port
        except zmq.ZMQError as error:
            socket.close(0)
            where = f"{endpoints.transport}://{endpoints.ip} port {endpoints.port(channel)}"
            raise ConfigError(f"cannot listen on {where} for {channel}: {error}") from error
        except BaseException:
            socket.close(0)
            raise
        return socket

    def _private(self, channel: str) -> Path:
        return Path(self.endpoints.ip).parent / f"s{CHANNELS.index(channel) + 1}"

    def _public(self, channel: str) -> Path:
        return Path(f"{self.endpoints.ip}-{self.endpoints.port(channel)}")

    def link(self) -> None:
        """Give the sockets their public names (again): ``KernelManager`` unlinks them at every restart.

        The sockets are bound to private names, so the connections of clients and the sockets themselves live on.
        """
        for channel in CHANNELS:
            public = self._public(channel)
            try:
                public.unlink(missing_ok=True)
                os.link(self._private(channel), public)
            except OSError as error:
                raise ConfigError(f"cannot make the socket {str(public)!r}: {error.strerror}") from error

    def close(self) -> None:
        """Close all sockets and remove their names."""
        for socket in self.sockets.values():
            socket.close()
        if self.endpoints.transport == "ipc":
            for channel in CHANNELS:
                for path in (self._public(channel), self._private(channel)):
                    with contextlib.suppress(OSError):
                        path.unlink()
