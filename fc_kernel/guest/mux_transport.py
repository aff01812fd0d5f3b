"""The guest's end of the multiplexer, on a virtio port. Python 3.9, standard library."""

from __future__ import annotations

import os
from typing import Callable, Optional

from ..errors import FcKernelError
from ..vsock import mux
from ..vsock.handshake import HandshakeServer, connect_answer
from .loop import POLLIN, POLLOUT, Loop

READ_BYTES = 128 << 10
#: How often a port is tried whose other side is not connected.
RETRY_S = 0.05

Accept = Callable[[int], Optional[object]]


class MuxStream:
    """One stream; the same interface towards handlers as a connected socket has."""

    def __init__(self, transport: MuxTransport, number: int) -> None:
        self._transport = transport
        self._number = number
        self._handshake: Optional[HandshakeServer] = HandshakeServer()
        self._handler: Optional[object] = None
        self.closed = False

    def send(self, buffers: list) -> int:
        """Queue what the window allows; fewer bytes than given means that ``writable()`` will be called."""
        total = 0
        for buffer in buffers:
            sent = self._transport.mux.send(self._number, buffer)
            total += sent
            if sent < len(buffer):
                break
        self._transport.flush()
        return total

    def received(self, data: memoryview) -> None:
        """Bytes from the host."""
        if self._handshake is not None:
            self._greet(bytes(data))
            return
        handler = self._handler
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
        self._handshake = None
        self._handler = handler
        self._transport.mux.send(self._number, connect_answer(port))
        handler.connected(self)

    def writable(self) -> None:
        """The window opened."""
        if self._handler is not None and not self.closed:
            self._handler.writable()

    def close(self, reason: str = "closed") -> None:
        """Reset the stream; the handler is told why."""
        if not self.closed:
            self.closed = True
            self._transport.forget(self._number)
            if self._handler is not None:
                self._handler.lost(reason)


class MuxTransport:
    """Serves the streams of one virtio port."""

    def __init__(self, loop: Loop, device: str, accept: Accept) -> None:
        self.accept = accept
        self._loop = loop
        self._buffer = bytearray(READ_BYTES)
        self._view = memoryview(self._buffer)
        self._port = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._events = 0
        self._start()

    def _start(self) -> None:
        self.mux = mux.Mux(client=False)
        self._streams: dict = {}
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
        while self.mux.wants_to_send:
            buffers = self.mux.data_to_send()
            try:
                sent = os.writev(self._port, buffers)
            except BlockingIOError:
                sent = 0
            self.mux.data_sent(sent)
            if sent < sum(map(len, buffers)):
                self._watch(POLLIN | POLLOUT)
                return
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
            stream = self._streams.get(number)
            if stream is None:
                continue
            if isinstance(event, mux.DataReceived):
                stream.received(event.data)
            elif isinstance(event, mux.StreamWritable):
                stream.writable()
            else:
                stream.close("closed by the host")

    def _disconnected(self) -> None:
        """The monitor's side of the port is closed: forget all streams, and look again after a while."""
        self._loop.unwatch(self._port)
        self._events = 0
        for stream in list(self._streams.values()):
            stream.close("the monitor closed the port")
        self._loop.call_later(RETRY_S, self._start)
