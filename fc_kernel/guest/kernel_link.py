"""The agent's link to the kernel's process: a Unix socket to which the agent's thread in the kernel connects, and so do cells
that request something from the host.

One JSON object per line, both ways (:mod:`fc_kernel.wire.operations`). What comes is from user code, and is checked as
strictly as what comes from the host. Python 3.9, pyzmq.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Callable, Optional

from ..errors import RemoteProtocolError
from ..wire.operations import OPERATIONS, THREAD_READY
from .transport import SocketStream, accepting

if TYPE_CHECKING:
    from .interfaces import Params, Stream
    from .loop import Loop

#: The largest request has a name and a description.
MAX_LINE_BYTES = 1 << 16
BUFFER_BYTES = 1 << 14
#: The thread, the waiting cell, and a few cells that are about to be refused.
MAX_CONNECTIONS = 8


class Connection:
    """One connection from the kernel's process."""

    def __init__(
        self, sock: socket.socket, lines: Callable[[Connection, Params], None], lost: Callable[[Connection], None]
    ) -> None:
        self._sock = sock
        self._lines = lines
        self._lost = lost
        self._buffer = bytearray(BUFFER_BYTES)
        self._line = bytearray()
        self._out: deque[memoryview] = deque()
        self._stream: Optional[Stream] = None
        #: Whether it comes from the kernel's own process, not from one that the kernel has started.
        self.is_kernel = False

    def connected(self, stream: Stream) -> None:
        """The connection is up."""
        self._stream = stream

    def get_buffer(self) -> memoryview:
        """The buffer that the stream receives into."""
        return memoryview(self._buffer)

    def buffer_updated(self, count: int) -> None:
        """The stream received ``count`` bytes."""
        self._line += self._buffer[:count]
        while b"\n" in self._line:
            line, _, self._line = self._line.partition(b"\n")
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                message = None
            if not isinstance(message, dict):
                raise RemoteProtocolError("not a JSON object")
            self._lines(self, message)
        if len(self._line) > MAX_LINE_BYTES:
            raise RemoteProtocolError(f"a line of more than {MAX_LINE_BYTES} bytes")

    def send(self, message: Params) -> None:
        """Send a message, now or when there is room."""
        if self._stream is not None:
            self._out.append(memoryview(json.dumps(message).encode() + b"\n"))
            self.writable()

    def writable(self) -> None:
        """Send as much as the stream takes."""
        while self._stream is not None and self._out:
            sent = self._stream.send([self._out[0]])
            if self._stream is None or not self._out:
                return
            if sent < len(self._out[0]):
                self._out[0] = self._out[0][sent:]
                return
            self._out.popleft()

    @property
    def left(self) -> bool:
        """Whether the other side has closed it, even if that was not read yet."""
        try:
            return self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self, reason: str = "closed") -> None:
        """Close the connection."""
        if self._stream is not None:
            self._stream.close(reason)

    def lost(self, _reason: str) -> None:
        """The connection is gone."""
        self._stream = None
        self._out.clear()
        self._lost(self)


class Request:
    """A request of a cell to the host, for whose answer the cell waits."""

    def __init__(self, connection: Connection, number: int, op: str, parent: Optional[str]) -> None:
        self.connection = connection
        self.number = number
        self.op = op
        self.parent = parent


class KernelLink:
    """The connections of one kernel. ``said(message)`` gets the thread's answers, ``asked(...)`` a cell's request."""

    def __init__(
        self,
        loop: Loop,
        path: str,
        *,
        changed: Callable[[], None],
        said: Callable[[Params], None],
        asked: Callable[[int, str, Params, Optional[str]], bool],
    ) -> None:
        self.path = path
        self.pid = 0
        self.pending: Optional[Request] = None
        self._changed = changed
        self._said = said
        self._asked = asked
        self._loop = loop
        self._number = 0
        self._thread: Optional[Connection] = None
        self._place = (0, 0)
        self._connections: set[Connection] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Created with the right mode, not changed to it: nobody else can connect in between.
        mask = os.umask(0o177)
        try:
            self._listener.bind(path)
        except BaseException:
            self._listener.close()
            raise
        finally:
            os.umask(mask)
        accepting(loop, self._listener, self._accept)

    @property
    def has_thread(self) -> bool:
        """Whether the agent's thread is connected: the kernel is up, and can be prepared."""
        return self._thread is not None

    @property
    def holds_lock(self) -> bool:
        """Whether the thread is in the read that keeps the interpreter's lock; true where Linux cannot tell."""
        tid, descriptor = self._place
        try:
            with open(f"/proc/{self.pid}/task/{tid}/syscall") as file:
                words = file.read().split()
        except OSError:
            return True
        return len(words) > 1 and words[1] == hex(descriptor)

    def tell(self, message: Params) -> None:
        """Send the thread a message."""
        if self._thread is not None:
            self._thread.send(message)

    def answer(self, message: Params, number: Optional[int] = None) -> None:
        """Answer the pending request, if ``number`` is its number or ``None``."""
        request = self.pending
        if request is not None and number in (None, request.number):
            self.pending = None
            request.connection.send(message)

    def close(self) -> None:
        """Close everything."""
        self._loop.unwatch(self._listener.fileno())
        self._listener.close()
        for connection in list(self._connections):
            connection.close()
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass

    def _accept(self, sock: socket.socket) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            sock.close()
            return
        connection = Connection(sock, self._line, self._lost)
        self._connections.add(connection)
        peer = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        connection.is_kernel = peer == self.pid
        SocketStream(self._loop, sock, connection)

    def _lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if self.pending is not None and self.pending.connection is connection:
            self.pending = None
        if connection is self._thread:
            self._thread = None
            self._changed()

    def _line(self, connection: Connection, message: Params) -> None:
        if connection is self._thread:
            self._said(message)
        elif message.get("op") == THREAD_READY and self._thread is None and connection.is_kernel:
            try:
                self._place = (int(message["tid"]), int(message["fd"]))
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise RemoteProtocolError(f"not a thread's greeting: {error!r}") from error
            self._thread = connection
            self._changed()
        else:
            self._request(connection, message)

    def _request(self, connection: Connection, message: Params) -> None:
        op, args, parent = message.get("op"), message.get("args"), message.get("parent")
        if op not in OPERATIONS or not isinstance(args, dict) or not (parent is None or isinstance(parent, str)):
            raise RemoteProtocolError("not a request")
        if self.pending is not None and self.pending.connection.left:
            # An interrupted cell has closed its connection; that arrived together with this request.
            self.pending.connection.close("withdrawn")
        if self.pending is not None:
            connection.send({"error": f"another %{self.pending.op} is under way"})
            return
        self._number += 1
        self.pending = Request(connection, self._number, op, parent)
        if not self._asked(self._number, op, args, parent):
            self.answer({"error": "the host does not listen; after a restore it does when the hooks have run"})
