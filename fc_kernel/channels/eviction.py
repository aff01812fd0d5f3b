"""Cutting off a client that does not read: ZeroMQ has no call for it, so its connection is shut down underneath.

ZeroMQ then drops what it had queued for that client, and the client connects again when it comes back to life.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import struct
import termios
from pathlib import Path


def evict_stalled(endpoint: str) -> int:
    """Shut down the connections to a bound ZeroMQ endpoint that hold bytes which their peer has not taken.

    ``endpoint`` has the form of ``LAST_ENDPOINT`` (``ipc://PATH`` or ``tcp://IP:PORT``). Returns how many were cut off. Call it
    only after a while in which nothing was sent, so that clients that read have taken everything.
    """
    evicted = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            number = int(entry.name)
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            # A copy: the descriptor's owner may close it at any moment, and its number may then be reused.
            with socket.socket(fileno=os.dup(number)) as connection:
                if _is_stalled(connection, endpoint):
                    connection.shutdown(socket.SHUT_RDWR)
                    evicted += 1
        except OSError:
            continue
    return evicted


def _is_stalled(connection: socket.socket, endpoint: str) -> bool:
    if connection.type != socket.SOCK_STREAM or _endpoint_of(connection) != endpoint:
        return False
    if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    waiting: int = struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0" * 4))[0]
    return waiting > 0


def _endpoint_of(connection: socket.socket) -> str:
    name = connection.getsockname()
    if connection.family == socket.AF_UNIX:
        return f"ipc://{name}"
    if connection.family == socket.AF_INET:
        return f"tcp://{name[0]}:{name[1]}"
    if connection.family == socket.AF_INET6:
        return f"tcp://[{name[0]}]:{name[1]}"
    return ""
