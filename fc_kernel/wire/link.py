"""One end of a channel's tunnel. It outlives the connections that carry it.

Sans-io: bytes in, events out. Every message has a sequence number and is kept until the peer acknowledges it; after a
reset both ends say what they received last and send the rest again, once. A new generation starts from zero: the
peer is another one (a restored VM, a new kernel process), and what was queued for the old one is dropped. This file is
shipped into the guest: standard library only, Python 3.9.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Optional, Union

from ..errors import LocalProtocolError, RemoteProtocolError
from . import frames
from .frames import Buffer

#: How much may be unacknowledged before :attr:`Link.writable` is false: two messages of 8 MiB, so that one is on the wire
#: while the next is being read. It also bounds the memory that a silent peer can make us hold.
WINDOW_BYTES = 16 << 20
#: About what Python's objects for one part take beside its bytes, so that a window full of tiny messages is bounded, too.
PART_OVERHEAD_BYTES = 512
#: An acknowledgement is sent after this many messages or bytes; it only frees the sender's memory, so it is not urgent.
ACK_EVERY_MESSAGES = 32
ACK_EVERY_BYTES = 1 << 20
#: Pieces smaller than this are read through one scratch buffer, larger ones straight into their place.
SCRATCH_BYTES = 1 << 16
#: A part of this size or more gets memory that Linux reserves only as bytes arrive, so that a part that is announced but
#: not sent costs at most this. Smaller parts come from the heap, which is four times faster.
LAZY_BYTES = 16 << 20
#: How many buffers one ``sendmsg`` takes; the kernel's limit (UIO_MAXIOV) is 1024.
MAX_IOV = 256


class MessageReceived:
    """One whole message from the peer; messages come in order, each exactly once."""

    __slots__ = ("parts",)

    def __init__(self, parts: list[memoryview]) -> None:
        self.parts = parts


class Established:
    """Both ends have said HELLO; ``resumed`` is false when the generation is new to this end."""

    __slots__ = ("generation", "resumed")

    def __init__(self, generation: int, resumed: bool) -> None:
        self.generation = generation
        self.resumed = resumed


Event = Union[MessageReceived, Established]


class Link:
    """The state of one end. The ``dialer`` (the host) speaks first and chooses the generation."""

    def __init__(self, channel: str, *, generation: int = 0, dialer: bool) -> None:
        self.channel = channel
        self.generation = generation
        self._dialer = dialer
        self._scratch = bytearray(SCRATCH_BYTES)
        self._connected = False
        self._start_generation(generation)
        self._start_connection()

    def _start_generation(self, generation: int) -> None:
        self.generation = generation
        self._sent_seq = 0
        self._received_seq = 0
        self._unacked: deque[tuple[int, Sequence[Buffer], int]] = deque()
        self._unacked_bytes = 0

    def _start_connection(self) -> None:
        self.established = False
        self._out: deque[memoryview] = deque()
        self._head = bytearray()
        self._need = frames.HEADER.size
        self._frame: Optional[tuple[int, int, int, int, int]] = None
        self._sizes: tuple[int, ...] = ()
        self._parts: list[memoryview] = []
        self._target: Optional[memoryview] = None
        self._filled = 0
        self._direct = False
        self._owed_messages = 0
        self._owed_bytes = 0

    @property
    def writable(self) -> bool:
        """Whether :meth:`send` should be given more now; one message is always allowed."""
        return self._unacked_bytes < WINDOW_BYTES

    @property
    def wants_to_send(self) -> bool:
        """Whether :meth:`data_to_send` has something."""
        return bool(self._out)

    def new_generation(self, generation: int) -> None:
        """Forget all that was sent and received; only allowed while no connection is up."""
        if self._connected:
            raise LocalProtocolError("a generation begins between connections")
        self._start_generation(generation)

    def connection_made(self) -> None:
        """A connection is up; the dialer's HELLO is ready to be sent."""
        self._connected = True
        self._start_connection()
        if self._dialer:
            self._queue(frames.HELLO)

    def connection_lost(self) -> None:
        """The connection is gone: a partly received message is dropped, and what was not acknowledged is kept."""
        self._connected = False
        self._start_connection()

    def send(self, parts: Sequence[Buffer]) -> None:
        """Queue a message; it is kept until it is acknowledged. Parts must not be changed afterwards."""
        if not parts:
            raise LocalProtocolError("a message has at least one part")
        buffers = frames.encode(frames.DATA, self.generation, self._sent_seq + 1, self._received_seq, parts)
        self._sent_seq += 1
        size = sum(map(len, parts)) + PART_OVERHEAD_BYTES * len(parts)
        self._unacked.append((self._sent_seq, parts, size))
        self._unacked_bytes += size
        if self.established:
            self._out.extend(memoryview(part).cast("B") for part in buffers if len(part))
            self._owed_messages = self._owed_bytes = 0

    def data_to_send(self) -> list[memoryview]:
        """Buffers for one ``sendmsg``; call :meth:`data_sent` with the bytes that were sent."""
        if len(self._out) <= MAX_IOV:
            return list(self._out)
        return [self._out[i] for i in range(MAX_IOV)]

    def data_sent(self, count: int) -> None:
        """``count`` bytes of :meth:`data_to_send` were sent."""
        out = self._out
        while count:
            first = len(out[0])
            if count < first:
                out[0] = out[0][count:]
                return
            count -= first
            out.popleft()

    def get_buffer(self) -> memoryview:
        """The buffer to receive the next bytes into; then call :meth:`buffer_updated`."""
        target = self._target
        if target is not None and len(target) - self._filled >= SCRATCH_BYTES:
            self._direct = True
            return target[self._filled :]
        self._direct = False
        return memoryview(self._scratch)

    def buffer_updated(self, count: int) -> list[Event]:
        """``count`` bytes were received into :meth:`get_buffer`'s buffer; returns the events."""
        if not self._direct:
            return self.receive_data(memoryview(self._scratch)[:count])
        events: list[Event] = []
        self._filled += count
        if self._target is not None and self._filled == len(self._target):
            self._next_part(events)
        return events

    def receive_data(self, data: Buffer) -> list[Event]:
        """Take bytes from the peer and return events. Raises only :class:`~fc_kernel.errors.RemoteProtocolError`."""
        view = memoryview(data)
        events: list[Event] = []
        while view:
            if self._target is None:
                take = self._need - len(self._head)
                self._head += view[:take]
                view = view[take:]
                if len(self._head) == self._need:
                    self._head_complete(events)
            else:
                take = min(len(self._target) - self._filled, len(view))
                self._target[self._filled : self._filled + take] = view[:take]
                self._filled += take
                view = view[take:]
                if self._filled == len(self._target):
                    self._next_part(events)
        return events

    def _head_complete(self, events: list[Event]) -> None:
        head = memoryview(bytes(self._head))
        self._head.clear()
        if self._frame is None:
            self._frame = frames.decode_header(head)
            count = self._frame[1]
            self._check(self._frame)
            if count:
                self._need = 4 * count
            else:
                self._frame_complete(events)
        else:
            self._sizes = frames.decode_sizes(head, self._frame[1])
            self._next_part(events)

    def _next_part(self, events: list[Event]) -> None:
        """Allocate memory for the next part only."""
        while len(self._parts) < len(self._sizes):
            part = _room_for(self._sizes[len(self._parts)])
            self._parts.append(part)
            if len(part):
                self._target = part
                self._filled = 0
                return
        self._target = None
        self._frame_complete(events)

    def _check(self, frame: tuple[int, int, int, int, int]) -> None:
        kind, _count, generation, _seq, ack = frame
        if (kind == frames.HELLO) == self.established:
            raise RemoteProtocolError(f"frame of type {kind} {'after' if self.established else 'before'} the greeting")
        if kind == frames.HELLO and not self._dialer:
            return
        if generation != self.generation:
            raise RemoteProtocolError(f"generation {generation}; this link is in generation {self.generation}")
        if ack > self._sent_seq:
            raise RemoteProtocolError(f"message {ack} acknowledged; only {self._sent_seq} were sent")

    def _frame_complete(self, events: list[Event]) -> None:
        assert self._frame is not None  # noqa: S101
        kind, _count, generation, seq, ack = self._frame
        self._frame = None
        self._need = frames.HEADER.size
        if kind == frames.HELLO:
            self._greeted(generation, ack, events)
            return
        self._acknowledged(ack)
        if kind == frames.DATA:
            parts, self._parts, self._sizes = self._parts, [], ()
            if seq <= self._received_seq:
                return  # it had arrived before the reset, and was sent again
            if seq != self._received_seq + 1:
                raise RemoteProtocolError(f"message {seq} follows {self._received_seq}")
            self._received_seq = seq
            self._owed_messages += 1
            self._owed_bytes += sum(map(len, parts))
            if self._owed_messages >= ACK_EVERY_MESSAGES or self._owed_bytes >= ACK_EVERY_BYTES:
                self._queue(frames.ACK)
            events.append(MessageReceived(parts))

    def _greeted(self, generation: int, ack: int, events: list[Event]) -> None:
        resumed = generation == self.generation
        if not resumed:
            self._start_generation(generation)
        if ack > self._sent_seq:
            raise RemoteProtocolError(f"message {ack} acknowledged; only {self._sent_seq} were sent")
        if not self._dialer:
            self._queue(frames.HELLO)
        self.established = True
        self._acknowledged(ack)
        for seq, parts, _size in self._unacked:
            self._out.extend(
                memoryview(part).cast("B")
                for part in frames.encode(frames.DATA, self.generation, seq, self._received_seq, parts)
                if len(part)
            )
        events.append(Established(generation, resumed))

    def _acknowledged(self, ack: int) -> None:
        while self._unacked and self._unacked[0][0] <= ack:
            self._unacked_bytes -= self._unacked.popleft()[2]

    def _queue(self, kind: int) -> None:
        self._owed_messages = self._owed_bytes = 0
        self._out.extend(memoryview(part) for part in frames.encode(kind, self.generation, 0, self._received_seq, ()))


def _room_for(size: int) -> memoryview:
    if size < LAZY_BYTES:
        return memoryview(bytearray(size))
    import mmap  # noqa: PLC0415 - an extension module that a guest without large messages need not load

    return memoryview(mmap.mmap(-1, size))
