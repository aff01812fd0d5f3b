"""How the host's connections reach the agent: AF_VSOCK listeners, or one Unix socket with the hybrid handshake.

A connection is handed to a *handler*, which has ``connected(stream)``, ``get_buffer()``, ``buffer_updated(n)``,
``writable()`` and ``lost(reason)``. Python 3.9, standard library.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Callable, Union

from ..errors import FcKernelError
from ..wire.handshake import HandshakeServer, connect_answer
from .loop import POLLIN, POLLOUT, Loop

if TYPE_CHECKING:
    from .interfaces import Accept, Handler

#: The host opens one connection for each port; a burst of more waits here, as at the host's bridge.
BACKLOG = 64


class SocketStream:
    """A connected socket, its handler, and the backpressure between them."""

    def __init__(self, loop: Loop, sock: socket.socket, handler: Handler) -> None:
        self._loop = loop
        self._sock = sock
        self._handler = handler
        self._blocked = False
        self.closed = False
        self._watch()
        handler.connected(self)

    def _watch(self) -> None:
        self._loop.watch(self._sock.fileno(), POLLIN | (POLLOUT if self._blocked else 0), self._ready)

    def send(self, buffers: Sequence[Union[bytes, memoryview]]) -> int:
        """Send what the socket takes now and return how much; if that is not all, ``writable()`` will be called."""
        try:
            sent = self._sock.sendmsg(buffers)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.close(error.strerror or "broken")
            return 0
        blocked = sent < sum(map(len, buffers))
        if blocked != self._blocked:
            self._blocked = blocked
            self._watch()
        return sent

    def _ready(self, events: int) -> None:
        if events & POLLOUT and not self.closed:
            self._blocked = False
            self._watch()
            self._handler.writable()
        if events & ~POLLOUT and not self.closed:
            self._read()

    def _read(self) -> None:
        try:
            count = self._sock.recv_into(self._handler.get_buffer())
        except BlockingIOError:
            return
        except OSError as error:
            self.close(error.strerror or "broken")
            return
        if not count:
            self.close("closed by the host")
            return
        try:
            self._handler.buffer_updated(count)
        except FcKernelError as error:
            self.close(str(error))

    def end(self) -> None:
        """Close after all that :meth:`send` has taken is sent."""
        self.close("ended")

    def close(self, reason: str = "closed") -> None:
        """Close once; the handler is told why."""
        if not self.closed:
            self.closed = True
            self._loop.unwatch(self._sock.fileno())
            self._sock.close()
            self._handler.lost(reason)


class _Greeting:
    """Serves a connection until it has said its port."""

    def __init__(self, loop: Loop, sock: socket.socket, accept: Accept) -> None:
        self._loop = loop
        self._sock = sock
        self._accept = accept
        self._handshake = HandshakeServer()
        loop.watch(sock.fileno(), POLLIN, self._ready)

    def _ready(self, _events: int) -> None:
        try:
            # The client waits for the answer, so no byte can follow the line yet.
            data = self._sock.recv(64)
            port = self._handshake.receive_data(data) if data else -1
        except (OSError, FcKernelError):
            port = -1
        if port is None:
            return
        self._loop.unwatch(self._sock.fileno())
        handler = self._accept(port) if port >= 0 and not self._handshake.rest else None
        if handler is None:
            self._sock.close()
            return
        self._sock.sendall(connect_answer(port))
        SocketStream(self._loop, self._sock, handler)


def accepting(loop: Loop, listener: socket.socket, accepted: Callable[[socket.socket], object]) -> None:
    """Listen on a bound socket, and call back with each connection."""
    listener.setblocking(False)
    listener.listen(BACKLOG)

    def ready(_events: int) -> None:
        try:
            connection, _ = listener.accept()
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return
        connection.setblocking(False)
        accepted(connection)

    loop.watch(listener.fileno(), POLLIN, ready)


def listen_hybrid(loop: Loop, path: str, accept: Accept) -> socket.socket:
    """Listen on a Unix socket as a monitor does for its guest; return the listener."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    accepting(loop, listener, lambda sock: _Greeting(loop, sock, accept))
    return listener


def listen_vsock(loop: Loop, ports: Sequence[int], accept: Accept) -> list[socket.socket]:
    """Listen on AF_VSOCK ports; the monitor does the handshake. Returns the listeners."""
    listeners = []
    for port in ports:
        listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        listener.bind((socket.VMADDR_CID_ANY, port))

        def accepted(sock: socket.socket, port: int = port) -> None:
            handler = accept(port)
            if handler is None:
                sock.close()
            else:
                SocketStream(loop, sock, handler)

        accepting(loop, listener, accepted)
        listeners.append(listener)
    return listeners
