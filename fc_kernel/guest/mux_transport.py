"""The guest's end of the multiplexer, on a virtio port. Python 3.9, standard library."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional, Union

from ..errors import FcKernelError
from ..wire import mux
from ..wire.handshake import HandshakeServer, connect_answer
from .loop import POLLIN, POLLOUT, Loop

if TYPE_CHECKING:
    from .interfaces import Accept, Handler

READ_BYTES = 128 << 10
#: How often to try a port whose other side is not connected.
RETRY_S = 0.05


class MuxStream:
    """One stream, with the same interface for handlers as a connected socket."""

    def __init__(self, transport: MuxTransport, number: int) -> None:
        self._transport = transport
        self._number = number
        self._handshake = HandshakeServer()
        self._handler: Optional[Handler] = None
        self.closed = False

    def send(self, buffers: Sequence[Union[bytes, memoryview]]) -> int:
        """Queue what the window allows and return how much; if that is not all, ``writable()`` will be called."""
        total = 0
        if self.closed:
            return total
        for buffer in buffers:
            sent = self._transport.mux.send(self._number, buffer)
            total += sent
            if sent < len(buffer):
                break
        self._transport.flush()
        return total

    def received(self, data: memoryview) -> None:
        """Bytes from the host."""
        handler = self._handler
        if handler is None:
            self._greet(bytes(data))
            return
        size = len(data)
        while len(data) and not self.closed:
            room = handler.get_buffer()
            count = min(len(room), len(data))
            room[:count] = data[:count]
            data = data[count:]
            try:
                handler.buffer_updated(count)
            except FcKernelError as error:
                self.close(str(error))
        self._transport.mux.consumed(self._number, size)

    def _greet(self, data: bytes) -> None:
        try:
            port = self._handshake.receive_data(data)
        except FcKernelError:
            self.close("a bad handshake")
            return
        if port is None:
            return
        handler = self._transport.accept(port) if not self._handshake.rest else None
        if handler is None:
            self.close("nothing listens")
            return
        self._handler = handler
        self._transport.mux.send(self._number, connect_answer(port))
        handler.connected(self)

    def writable(self) -> None:
        """The window has opened."""
        if self._handler is not None and not self.closed:
            self._handler.writable()

    def vanish(self, reason: str) -> None:
        """The stream is gone with its session; the host is told nothing."""
        handler, self._handler = self._handler, None
        if handler is not None:
            handler.lost(reason)

    def end(self) -> None:
        """Close after all that :meth:`send` has taken is sent; the stream is forgotten when the host ends it too."""
        if not self.closed:
            self.closed = True
            self._transport.mux.end(self._number)
            self._transport.flush()
            if self._handler is not None:
                self._handler.lost("ended")

    def close(self, reason: str = "closed") -> None:
        """Reset the stream; the handler is told why."""
        if not self.closed:
            self.closed = True
            self._transport.forget(self._number)
            if self._handler is not None:
                self._handler.lost(reason)


def open_port(device: str) -> int:
    """A descriptor of a virtio port for :class:`MuxTransport`."""
    return os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


class MuxTransport:
    """Serves the streams of one virtio port, given as an open non-blocking descriptor; see :func:`open_port`."""

    def __init__(self, loop: Loop, port: int, accept: Accept) -> None:
        self.accept = accept
        self._loop = loop
        self._buffer = bytearray(READ_BYTES)
        self._view = memoryview(self._buffer)
        self._port = port
        self._events = 0
        self._start()

    def _start(self) -> None:
        self._up = True
        self.mux = mux.Mux(client=False)
        self._streams: dict[int, MuxStream] = {}
        self._watch(POLLIN)

    def _watch(self, events: int) -> None:
        if events != self._events:
            self._events = events
            self._loop.watch(self._port, events, self._ready)

    def forget(self, number: int) -> None:
        """Drop a stream."""
        self._streams.pop(number, None)
        self.mux.reset(number)
        self.flush()

    def flush(self) -> None:
        """Write what the port takes."""
        while self._up and self.mux.wants_to_send:
            buffers = self.mux.data_to_send()
            try:
                sent = os.writev(self._port, buffers)
            except BlockingIOError:
                sent = 0
            self.mux.data_sent(sent)
            if sent < sum(map(len, buffers)):
                self._watch(POLLIN | POLLOUT)
                return
        if self._up:
            self._watch(POLLIN)

    def _ready(self, events: int) -> None:
        if events & ~POLLOUT:
            try:
                count = os.readv(self._port, [self._buffer])
            except BlockingIOError:
                count = -1
            if count == 0:
                self._disconnected()
                return
            if count > 0:
                self._received(self._view[:count])
        self.flush()

    def _received(self, data: memoryview) -> None:
        for event in self.mux.receive_data(data):
            number = event.stream
            if isinstance(event, mux.StreamOpened):
                self._streams[number] = MuxStream(self, number)
                continue
            if isinstance(event, mux.SessionStarted):
                self._forget_all()
                continue
            stream = self._streams.get(number)
            if stream is None:
                continue
            if isinstance(event, mux.DataReceived):
                stream.received(event.data)
            elif isinstance(event, mux.StreamWritable):
                stream.writable()
            else:
                stream.close("closed by the host")
                self._streams.pop(number, None)

    def _forget_all(self) -> None:
        """The machine was loaded from a snapshot: drop all streams. New streams may already use the same numbers."""
        gone = [stream for stream in self._streams.values() if not stream.closed]
        self._streams.clear()
        # Before any handler is told, because a handler may use another's stream.
        for stream in gone:
            stream.closed = True
        for stream in gone:
            stream.vanish("the machine was loaded from a snapshot")

    def _disconnected(self) -> None:
        """The monitor's side of the port is closed: forget all streams, and try again after a while."""
        self._up = False
        self._loop.unwatch(self._port)
        self._events = 0
        for stream in list(self._streams.values()):
            stream.close("the monitor closed the port")
        self._loop.call_later(RETRY_S, self._start)
