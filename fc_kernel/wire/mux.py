"""Many streams over one: the yamux protocol (https://github.com/hashicorp/yamux/blob/master/spec.md), sans-io.

The host is the client and opens streams; the guest only answers. Both ends run this file: standard library only, Python
3.9, and no work for each byte, because one end may be emulated.

Beyond the specification the session can *rest*, so that a machine can be saved between two frames: the host's last frame is
HOLD, the guest's last is HELD, which says that it got everything before; then nothing is in flight in either direction.
RELEASE ends the rest; in a loaded machine NEW_SESSION does: the guest forgets all streams of the saved machine.
"""

from __future__ import annotations

import struct
from collections import deque
from itertools import islice
from typing import Union

from ..errors import LocalProtocolError, RemoteProtocolError

HEADER = struct.Struct("!BBHII")
DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
#: GO_AWAY has its code in the length field; the specification's codes 0 to 2 all end the session.
LAST_GO_AWAY = 2
HOLD, HELD, RELEASE, NEW_SESSION = range(0x100, 0x104)

#: The specification's initial window; both ends raise it at once to ours, which is enough for a few round trips.
INITIAL_WINDOW_BYTES = 256 << 10
WINDOW_BYTES = 1 << 20
#: How much one stream sends before the others get their turn; an 8 MiB message of one delays another by this much.
CHUNK_BYTES = 64 << 10
#: Five channels and a few more; a peer that opens more is broken.
MAX_STREAMS = 64
#: How many frames that answer the peer (to its pings, say) may wait to be sent.
MAX_PENDING_CONTROL = 256
#: How many buffers one ``sendmsg`` or ``writev`` takes; the kernel's limit (UIO_MAXIOV) is 1024.
MAX_IOV = 256


class Event:
    """Something that happened to a stream."""

    __slots__ = ("stream",)

    def __init__(self, stream: int) -> None:
        self.stream = stream


class StreamOpened(Event):
    """The peer opened a stream (seen by the server only)."""

    __slots__ = ()


class DataReceived(Event):
    """A stream received bytes; ``data`` is valid until the next call. :meth:`Mux.consumed` lets the peer send more."""

    __slots__ = ("data",)

    def __init__(self, stream: int, data: memoryview) -> None:
        super().__init__(stream)
        self.data = data


class StreamWritable(Event):
    """There is room to send again."""

    __slots__ = ()


class StreamEnded(Event):
    """The peer will send no more; it may still receive."""

    __slots__ = ()


class StreamReset(Event):
    """The stream is gone."""

    __slots__ = ()


class Rested(Event):
    """The guest has answered HOLD: nothing is in flight (seen by the client only)."""

    __slots__ = ()


class SessionStarted(Event):
    """The machine was loaded: all streams are gone, and their numbers may be used again (seen by the server only)."""

    __slots__ = ()


class _Stream:
    __slots__ = ("credit", "end_queued", "ended", "owed", "peer_ended", "queue", "queued", "window")

    def __init__(self) -> None:
        self.credit = INITIAL_WINDOW_BYTES
        self.window = INITIAL_WINDOW_BYTES
        self.owed = 0
        self.queue: deque[memoryview] = deque()
        self.queued = 0
        self.end_queued = False
        self.ended = False
        self.peer_ended = False


class Mux:
    """One end of a session."""

    def __init__(self, *, client: bool, loaded: bool = False) -> None:
        """``loaded`` is for the client of a loaded machine: it rests at first, and its first frame is NEW_SESSION."""
        self._client = client
        self._first = NEW_SESSION if loaded else RELEASE
        #: Whether we send nothing.
        self._holding = loaded
        #: HOLDs that the guest has not answered, more than one after a RELEASE that did not wait for it.
        self._unanswered = 0
        self._next_id = 1 if client else 2
        self._streams: dict[int, _Stream] = {}
        self._head = bytearray()
        self._payload = 0
        self._into = 0
        self._ends = False
        self._control: deque[bytes] = deque()
        self._active: deque[int] = deque()
        self._out: deque[memoryview] = deque()

    def open_stream(self) -> int:
        """Open a stream; returns its id."""
        if len(self._streams) >= MAX_STREAMS:
            raise LocalProtocolError(f"{MAX_STREAMS} streams are open")
        stream = self._next_id
        self._next_id += 2
        self._streams[stream] = _Stream()
        self._grant(stream, WINDOW_BYTES - INITIAL_WINDOW_BYTES, SYN)
        return stream

    def send_room(self, stream: int) -> int:
        """How many bytes :meth:`send` takes now; 0 for a stream that is gone."""
        state = self._streams.get(stream)
        return 0 if state is None or state.end_queued else max(0, state.credit - state.queued)

    def send(self, stream: int, data: Union[bytes, memoryview]) -> int:
        """Queue as much of ``data`` as there is room for and return its length; ``data`` must not change afterwards."""
        room = self.send_room(stream)
        if not room:
            return 0
        view = memoryview(data)[:room]
        state = self._streams[stream]
        if len(view):
            if not state.queue:
                self._active.append(stream)
            state.queue.append(view)
            state.queued += len(view)
        return len(view)

    def consumed(self, stream: int, count: int) -> None:
        """``count`` received bytes were processed; the peer may send as many more."""
        state = self._streams.get(stream)
        if state is None or not count:
            return
        state.owed += count
        if state.owed >= WINDOW_BYTES // 4:
            self._grant(stream, state.owed, 0)
            state.owed = 0

    def end(self, stream: int) -> None:
        """Send what is queued on this stream, and then no more."""
        state = self._streams.get(stream)
        if state is not None and not state.end_queued:
            state.end_queued = True
            if not state.queue:
                self._control.append(self._ended(stream, state))

    def reset(self, stream: int) -> None:
        """Drop a stream at once."""
        if self._streams.pop(stream, None) is not None:
            self._control.append(HEADER.pack(0, WINDOW_UPDATE, RST, stream, 0))

    def hold(self) -> None:
        """Send no new frame, and ask the same of the guest; :class:`Rested` follows when nothing is in flight."""
        self._unanswered += 1
        self._hold(HOLD)

    def release(self) -> None:
        """End the rest, whether the guest has answered HOLD or not."""
        if self._holding:
            self._holding = False
            self._out.append(memoryview(_go_away(self._first)))
            self._first = RELEASE

    @property
    def at_rest(self) -> bool:
        """Whether nothing is in flight in either direction."""
        return self._holding and not self._unanswered and not self._out

    def _hold(self, code: int) -> None:
        """Finish the frames that are queued; the streams' bytes wait."""
        self._holding = True
        self._out.extend(map(memoryview, self._control))
        self._control.clear()
        self._out.append(memoryview(_go_away(code)))

    @property
    def wants_to_send(self) -> bool:
        """Whether :meth:`data_to_send` has something."""
        return bool(self._out or (not self._holding and (self._control or self._active)))

    def data_to_send(self) -> list[memoryview]:
        """Buffers for one ``sendmsg``; call :meth:`data_sent` with the bytes that were sent."""
        if not self._out and not self._holding:
            self._fill()
        return list(islice(self._out, MAX_IOV))

    def data_sent(self, count: int) -> None:
        """``count`` bytes of :meth:`data_to_send` were sent."""
        out = self._out
        while count:
            size = len(out[0])
            if count < size:
                out[0] = out[0][count:]
                return
            count -= size
            out.popleft()

    def _fill(self) -> None:
        """Queue all control frames, then one chunk of every stream that has data."""
        out = self._out
        while self._control:
            out.append(memoryview(self._control.popleft()))
        for _ in range(len(self._active)):
            stream = self._active.popleft()
            state = self._streams.get(stream)
            if state is None:
                continue
            views = []
            size = 0
            while state.queue and size < CHUNK_BYTES:
                view = state.queue.popleft()
                if size + len(view) > CHUNK_BYTES:
                    rest = CHUNK_BYTES - size
                    state.queue.appendleft(view[rest:])
                    view = view[:rest]
                views.append(view)
                size += len(view)
            state.queued -= size
            state.credit -= size
            out.append(memoryview(HEADER.pack(0, DATA, 0, stream, size)))
            out.extend(views)
            if state.queue:
                self._active.append(stream)
            elif state.end_queued:
                out.append(memoryview(self._ended(stream, state)))

    def _ended(self, stream: int, state: _Stream) -> bytes:
        """The frame that ends our side of a stream."""
        state.ended = True
        self._forget_if_done(stream, state)
        return HEADER.pack(0, WINDOW_UPDATE, FIN, stream, 0)

    def _forget_if_done(self, stream: int, state: _Stream) -> None:
        if state.ended and state.peer_ended:
            self._streams.pop(stream, None)

    def _grant(self, stream: int, count: int, flags: int) -> None:
        self._streams[stream].window += count
        self._control.append(HEADER.pack(0, WINDOW_UPDATE, flags, stream, count))

    def receive_data(self, data: Union[bytes, memoryview]) -> list[Event]:
        """Take bytes from the peer and return events. Raises only :class:`~fc_kernel.errors.RemoteProtocolError`."""
        view = memoryview(data)
        events: list[Event] = []
        while view:
            if self._client and self._holding and not self._unanswered:
                raise RemoteProtocolError("the guest sends although it said that it would rest")
            if self._payload:
                take = min(self._payload, len(view))
                if self._into in self._streams:
                    events.append(DataReceived(self._into, view[:take]))
                self._payload -= take
                view = view[take:]
                if not self._payload and self._ends:
                    self._peer_ended(self._into, events)
                continue
            need = HEADER.size - len(self._head)
            self._head += view[:need]
            view = view[need:]
            if len(self._head) == HEADER.size:
                head = HEADER.unpack(self._head)
                self._head.clear()
                self._frame(head, events)
        return events

    def _frame(self, head: tuple[int, int, int, int, int], events: list[Event]) -> None:
        version, kind, flags, stream, length = head
        if version != 0 or kind > GO_AWAY:
            raise RemoteProtocolError(f"not a yamux frame: version {version}, type {kind}")
        if kind == PING:
            if flags & SYN:
                self._answer(HEADER.pack(0, PING, ACK, 0, length))
            return
        if kind == GO_AWAY:
            self._went_away(length, events)
            return
        if flags & SYN:
            self._opened(stream, events)
        if flags & RST:
            self._gone(stream, events)
        if kind == DATA:
            self._data(stream, length)
        elif length:
            self._granted(stream, length, events)
        if flags & FIN:
            self._ends = True
        if self._ends and not self._payload:
            self._peer_ended(stream, events)

    def _went_away(self, code: int, events: list[Event]) -> None:
        if code <= LAST_GO_AWAY:
            for gone in list(self._streams):
                self._gone(gone, events)
        elif self._client:
            if code != HELD or not self._unanswered:
                raise RemoteProtocolError(f"nobody asked for GO_AWAY with code {code:#x}")
            self._unanswered -= 1
            if self._holding and not self._unanswered:
                events.append(Rested(0))
        elif code == HOLD:
            self._hold(HELD)
        elif code == RELEASE:
            self._holding = False
        elif code == NEW_SESSION:
            self._holding = False
            for forgotten in (self._streams, self._control, self._active, self._out):
                forgotten.clear()
            events.append(SessionStarted(0))
        else:
            raise RemoteProtocolError(f"GO_AWAY with code {code:#x}")

    def _data(self, stream: int, length: int) -> None:
        """A data frame begins; it is skipped if its stream is gone (it crossed our reset)."""
        if length > WINDOW_BYTES:
            raise RemoteProtocolError(f"a data frame of {length} bytes; at most {WINDOW_BYTES}")
        state = self._streams.get(stream)
        if state is not None:
            if state.peer_ended and length:
                raise RemoteProtocolError(f"{length} bytes on stream {stream} after its end")
            if length > state.window:
                raise RemoteProtocolError(f"{length} bytes on stream {stream}; its window has {state.window}")
            state.window -= length
        self._into, self._payload = stream, length

    def _granted(self, stream: int, length: int, events: list[Event]) -> None:
        state = self._streams.get(stream)
        if state is None:
            return
        had_room = self.send_room(stream)
        state.credit += length
        if state.credit > WINDOW_BYTES:
            # The peer's window decides how much memory we queue.
            raise RemoteProtocolError(f"a window of {state.credit} bytes on stream {stream}; at most {WINDOW_BYTES}")
        if not had_room and not state.end_queued:
            events.append(StreamWritable(stream))

    def _opened(self, stream: int, events: list[Event]) -> None:
        if self._client:
            # Only the host opens streams.
            if stream in self._streams:
                raise RemoteProtocolError(f"stream {stream} is open already")
            self._answer(HEADER.pack(0, WINDOW_UPDATE, RST, stream, 0))
            return
        if stream % 2 == 0 or stream in self._streams or len(self._streams) >= MAX_STREAMS:
            raise RemoteProtocolError(f"stream {stream} cannot be opened")
        self._streams[stream] = _Stream()
        events.append(StreamOpened(stream))
        self._grant(stream, WINDOW_BYTES - INITIAL_WINDOW_BYTES, ACK)

    def _peer_ended(self, stream: int, events: list[Event]) -> None:
        self._ends = False
        state = self._streams.get(stream)
        if state is not None and not state.peer_ended:
            state.peer_ended = True
            events.append(StreamEnded(stream))
            self._forget_if_done(stream, state)

    def _gone(self, stream: int, events: list[Event]) -> None:
        if self._streams.pop(stream, None) is not None:
            events.append(StreamReset(stream))

    def _answer(self, frame: bytes) -> None:
        """Queue a frame that answers the peer, which may ask as often as it likes."""
        if len(self._control) > MAX_PENDING_CONTROL:
            raise RemoteProtocolError("a flood of frames that have to be answered")
        self._control.append(frame)


def _go_away(code: int) -> bytes:
    return HEADER.pack(0, GO_AWAY, 0, 0, code)
