"""Dialling the guest through its hybrid-vsock socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path

from ..errors import AgentUnreachable, RemoteProtocolError
from ..wire.handshake import HandshakeClient, connect_request

#: While a guest boots nothing listens, and Firecracker does not answer at all; so each try has a deadline.
TRY_TIMEOUT_S = 1.0
RETRY_AFTER_S = 0.02


async def dial(uds_path: Path, port: int) -> socket.socket:
    """Connect to a port of the guest; returns the non-blocking socket, after the handshake.

    Raises :class:`OSError` when nothing listens, :class:`~fc_kernel.errors.RemoteProtocolError` for a malformed answer.
    """
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        await loop.sock_connect(sock, os.fspath(uds_path))
        await loop.sock_sendall(sock, connect_request(port))
        handshake = HandshakeClient()
        answer = None
        while answer is None:
            # One byte at a time: what follows the line belongs to the caller.
            byte = await loop.sock_recv(sock, 1)
            if not byte:
                raise ConnectionRefusedError(f"the guest does not listen on port {port}")
            answer = handshake.receive_data(byte)
    except BaseException:
        sock.close()
        raise
    return sock


async def dial_until(uds_path: Path, port: int) -> socket.socket:
    """Dial again and again until the guest answers; the caller sets the deadline."""
    while True:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(TRY_TIMEOUT_S):
                return await dial(uds_path, port)
        await asyncio.sleep(RETRY_AFTER_S)


async def dial_all(uds_path: Path, ports: dict[str, int]) -> dict[str, socket.socket]:
    """Dial all ports at once: one connection for each name, or none. Raises :class:`~fc_kernel.errors.AgentUnreachable`."""
    dialled = [asyncio.ensure_future(dial(uds_path, port)) for port in ports.values()]
    try:
        sockets = await asyncio.gather(*dialled)
    except BaseException as error:
        for each in dialled:
            each.cancel()
        for made in await asyncio.gather(*dialled, return_exceptions=True):
            if isinstance(made, socket.socket):
                made.close()
        if isinstance(error, OSError | RemoteProtocolError):
            raise AgentUnreachable(f"the guest agent does not answer: {error}") from error
        raise
    return dict(zip(ports, sockets, strict=True))
