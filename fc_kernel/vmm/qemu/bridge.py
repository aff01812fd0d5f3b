"""The hybrid-vsock socket of a QEMU VM: each connection is a stream of the multiplexer on the guest's virtio port.

The bridge only copies bytes; the guest's end answers the handshake, or resets the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path

from ...errors import LocalProtocolError, RemoteProtocolError
from ...wire import mux

log = logging.getLogger(__name__)

READ_BYTES = 256 << 10
BACKLOG = 64
#: The pause after an accept failed for want of descriptors, as in asyncio's own servers.
ACCEPT_RETRY_S = 1.0
#: How long a serving guest may take to finish its frames; on a busy host an emulated guest may stall for a while.
REST_DEADLINE_S = 5.0
#: The same for a guest that has sent nothing yet: it is still booting, or serves nobody.
UNHEARD_DEADLINE_S = 0.5


class _Connection:
    """One client's socket and its stream."""

    def __init__(self, bridge: MuxBridge, sock: socket.socket, stream: int) -> None:
        self._bridge = bridge
        self._loop = bridge.loop
        self._sock = sock
        self._stream = stream
        self._waiting: deque[memoryview] = deque()
        self._reading = False
        self._ended = False
        self._peer_ended = False
        self._closed = False
        self.read_if_room()

    def read_if_room(self) -> None:
        """Read from the client while the stream's window has room."""
        if self._closed:
            return
        wanted = not self._ended and self._bridge.mux.send_room(self._stream) > 0
        if wanted and not self._reading:
            self._loop.add_reader(self._sock, self._readable)
        elif not wanted and self._reading:
            self._loop.remove_reader(self._sock)
        self._reading = wanted

    def _readable(self) -> None:
        room = min(READ_BYTES, self._bridge.mux.send_room(self._stream))
        if room:
            try:
                data = self._sock.recv(room)
            except BlockingIOError:
                return
            except OSError:
                self._bridge.drop(self._stream, reset=True)
                return
            if data:
                self._bridge.mux.send(self._stream, data)
            else:
                self._ended = True
                self._bridge.mux.end(self._stream)
            self._bridge.flush()
        self.read_if_room()
        self._close_if_done()

    def received(self, data: memoryview) -> None:
        """Bytes from the guest."""
        sent = 0
        if not self._waiting:
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                pass
            except OSError:
                self._bridge.drop(self._stream, reset=True)
                return
            self._bridge.mux.consumed(self._stream, sent)
        if sent < len(data):
            # Bounded by the stream's window: the guest gets no more credit until this is sent.
            if not self._waiting:
                self._loop.add_writer(self._sock, self._writable)
            self._waiting.append(memoryview(bytes(data[sent:])))

    def _writable(self) -> None:
        while self._waiting:
            try:
                sent = self._sock.send(self._waiting[0])
            except BlockingIOError:
                break
            except OSError:
                self._bridge.drop(self._stream, reset=True)
                return
            self._bridge.mux.consumed(self._stream, sent)
            if sent < len(self._waiting[0]):
                self._waiting[0] = self._waiting[0][sent:]
                break
            self._waiting.popleft()
        if not self._waiting:
            self._loop.remove_writer(self._sock)
            self._finish()
        self._bridge.flush()

    def peer_ended(self) -> None:
        """The guest will send no more."""
        self._peer_ended = True
        self._finish()

    def _finish(self) -> None:
        if self._peer_ended and not self._waiting:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
            self._close_if_done()

    def _close_if_done(self) -> None:
        if self._ended and self._peer_ended and not self._waiting:
            self._bridge.drop(self._stream, reset=False)

    def close(self) -> None:
        """Release the socket."""
        self._closed = True
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()


class MuxBridge:
    """Listens on ``uds_path`` and carries connections over ``port``, the connected socket of the VM's virtio port."""

    def __init__(
        self, port: socket.socket, uds_path: Path, on_lost: Callable[[str], None], *, loaded: bool = False
    ) -> None:
        """``on_lost(reason)`` is called once, when the port breaks or the guest breaks the protocol.

        ``loaded`` is for a guest from a snapshot: nothing is sent to it before :meth:`release`.
        """
        self.loop = asyncio.get_running_loop()
        self.mux = mux.Mux(client=True, loaded=loaded)
        #: Whether the guest has ever sent anything.
        self._heard = loaded
        self._rested = asyncio.Event()
        self._on_lost = on_lost
        self._connections: dict[int, _Connection] = {}
        self._buffer = bytearray(READ_BYTES)
        self._view = memoryview(self._buffer)
        self._blocked = False
        self._closed = False
        self._port = port
        port.setblocking(False)
        self._uds_path = uds_path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._listener.bind(os.fspath(uds_path))
            uds_path.chmod(0o600)
            self._listener.listen(BACKLOG)
        except BaseException:
            self._listener.close()
            raise
        self._listen()
        self.loop.add_reader(port, self._readable)

    def _listen(self) -> None:
        if not self._closed:
            self.loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            log.warning("%s accepts no connections for a while: %s", self._uds_path, error)
            self.loop.remove_reader(self._listener)
            self.loop.call_later(ACCEPT_RETRY_S, self._listen)
            return
        sock.setblocking(False)
        try:
            stream = self.mux.open_stream()
        except LocalProtocolError:
            sock.close()
            return
        self._connections[stream] = _Connection(self, sock, stream)
        self.flush()

    def _readable(self) -> None:
        try:
            count = self._port.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(str(error))
            return
        if not count:
            self._lost("the monitor closed the guest's port")
            return
        self._heard = True
        try:
            events = self.mux.receive_data(self._view[:count])
        except RemoteProtocolError as error:
            self._lost(str(error))
            return
        for event in events:
            if isinstance(event, mux.Rested):
                self._rested.set()
                continue
            connection = self._connections.get(event.stream)
            if connection is None:
                continue
            if isinstance(event, mux.DataReceived):
                connection.received(event.data)
            elif isinstance(event, mux.StreamWritable):
                connection.read_if_room()
            elif isinstance(event, mux.StreamEnded):
                connection.peer_ended()
            else:
                self.drop(event.stream, reset=False)
        self.flush()

    def flush(self) -> None:
        """Send as much as the port takes."""
        if self._closed:
            return
        while self.mux.wants_to_send:
            buffers = self.mux.data_to_send()
            try:
                sent = self._port.sendmsg(buffers)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._lost(str(error))
                return
            self.mux.data_sent(sent)
            if sent < sum(map(len, buffers)):
                if not self._blocked:
                    self._blocked = True
                    self.loop.add_writer(self._port, self.flush)
                return
        if self._blocked:
            self._blocked = False
            self.loop.remove_writer(self._port)
        for connection in list(self._connections.values()):
            connection.read_if_room()

    async def rest(self) -> bool:
        """Bring the session to rest until :meth:`release`; returns false when the guest does not answer in time.

        Connections stay open, and what clients send meanwhile waits.
        """
        if not self.at_rest:
            self._rested.clear()
            self.mux.hold()
            self.flush()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REST_DEADLINE_S if self._heard else UNHEARD_DEADLINE_S):
                    await self._rested.wait()
        return self.at_rest

    @property
    def at_rest(self) -> bool:
        """Whether nothing is in flight between host and guest, and nothing will be before :meth:`release`."""
        return not self._closed and self.mux.at_rest

    def release(self) -> None:
        """Let data flow again; after a load, make the guest begin a new session."""
        self.mux.release()
        self.flush()

    def drop(self, stream: int, *, reset: bool) -> None:
        """Close a connection; with ``reset`` the guest is told."""
        connection = self._connections.pop(stream, None)
        if connection is not None:
            connection.close()
        if reset:
            self.mux.reset(stream)
            self.flush()

    def _lost(self, reason: str) -> None:
        if not self._closed:
            self.close()
            self._on_lost(reason)

    def close(self) -> None:
        """Close all connections, the port and the listener; may be called twice."""
        if self._closed:
            return
        self._closed = True
        self._rested.set()
        for stream in list(self._connections):
            self.drop(stream, reset=False)
        for sock in (self._listener, self._port):
            self.loop.remove_reader(sock)
            self.loop.remove_writer(sock)
            sock.close()
        self._uds_path.unlink(missing_ok=True)
