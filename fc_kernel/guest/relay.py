"""The relay of one channel: the kernel's ZeroMQ socket on one side, the tunnel's link on the other.

The agent is the kernel's only client, so its connection to the kernel never drops, whatever happens to the tunnel. What
the kernel sends while the tunnel is down or slow waits in the kernel. Python 3.9, pyzmq.
"""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Optional

import zmq

from ..wire import frames
from ..wire.link import Established, Link
from .loop import POLLIN, Loop

if TYPE_CHECKING:
    from .interfaces import Stream

#: One identity on all sockets: the kernel sends input requests to the identity of the execute request.
IDENTITY = b"fc-agent"
#: How many messages of one socket are moved before others get their turn.
BURST = 32
#: The delimiter is looked for among this many parts, as on the host.
MAX_IDENTITIES = 17


#: How many outputs are read ahead of the tunnel from a kernel that waits for its reader; see ``in_kernel.app``.
QUEUED_MESSAGES = 32


class Relay:
    """Moves whole messages between a kernel's socket and a stream; a handler for the transports."""

    def __init__(self, loop: Loop, channel: str) -> None:
        self.channel = channel
        self._loop = loop
        self._link = Link(channel, dialer=False)
        self._socket: Optional[zmq.Socket[Any]] = None
        self._stream: Optional[Stream] = None
        self._polling = False
        self._waiting: deque[list[memoryview]] = deque()
        self._held = False
        #: Called with each message of the kernel; returns true for one that is not for the host.
        self.intercept: Optional[Callable[[list[memoryview]], bool]] = None

    def attach_kernel(self, context: zmq.Context[Any], endpoint: str, *, waits: bool = False) -> None:
        """Connect to a new kernel's socket instead of the old one's; ``waits`` says whether it waits for a slow reader."""
        self.detach_kernel()
        self.intercept = None
        kind = zmq.SUB if self.channel == "iopub" else zmq.DEALER
        socket = context.socket(kind)
        socket.linger = 0
        if kind == zmq.SUB:
            socket.subscribe(b"")
        else:
            socket.identity = IDENTITY
        # What the kernel would drop is kept here, however much memory it takes.
        socket.rcvhwm = QUEUED_MESSAGES if waits and kind == zmq.SUB else 0
        socket.sndhwm = 0
        socket.reconnect_ivl = 10
        socket.connect(endpoint)
        self._socket = socket
        self._poll()
        self.release()

    def hold(self) -> None:
        """Hold back what comes for the kernel, until :meth:`release`."""
        self._held = True

    def release(self) -> None:
        """Give the kernel what was held back, and what comes from now on."""
        self._held = False
        while self._waiting and self._socket is not None:
            _send(self._socket, self._waiting.popleft())

    def ask(self, parts: list[bytes]) -> None:
        """Send the kernel a message of the agent's own."""
        if self._socket is not None:
            self._socket.send_multipart(parts, zmq.NOBLOCK)

    def detach_kernel(self) -> None:
        """Close the kernel's socket."""
        if self._socket is not None:
            if self._polling:
                self._loop.unwatch(self._socket)
                self._polling = False
            self._socket.close()
            self._socket = None

    def connected(self, stream: Stream) -> None:
        """A new connection from the host replaces an older one."""
        if self._stream is not None:
            self._stream.close("replaced by a new connection")
        self._stream = stream
        self._link.connection_made()

    def lost(self, _reason: str) -> None:
        """The connection is gone; messages wait for the next."""
        self._stream = None
        self._link.connection_lost()
        self._poll()

    def get_buffer(self) -> memoryview:
        """The buffer that the stream receives into."""
        return self._link.get_buffer()

    def buffer_updated(self, count: int) -> None:
        """The stream received ``count`` bytes."""
        for event in self._link.buffer_updated(count):
            if isinstance(event, Established):
                self._waiting.clear() if not event.resumed else None
            elif self._socket is None or self._held:
                self._waiting.append(event.parts)
            else:
                _send(self._socket, event.parts)
        self.writable()

    def writable(self) -> None:
        """Send as much as the stream takes, then take more from the kernel."""
        link = self._link
        stream = self._stream
        while stream is not None and link.wants_to_send:
            buffers = link.data_to_send()
            sent = stream.send(buffers)
            if stream.closed:
                return
            link.data_sent(sent)
            if sent < sum(map(len, buffers)):
                break
        self._poll()

    def _poll(self) -> None:
        wanted = self._socket is not None and self._link.established and self._link.writable
        if wanted != self._polling:
            self._polling = wanted
            if self._socket is None:
                return
            if wanted:
                self._loop.watch(self._socket, POLLIN, self._from_kernel)
            else:
                self._loop.unwatch(self._socket)

    def rest(self) -> bool:
        """Move what the kernel has sent into the link, even beyond its window; returns whether there was anything."""
        moved = False
        while (parts := self._receive()) is not None:
            self._take(parts)
            moved = True
        self.writable()
        return moved

    def forget(self) -> None:
        """Drop the connection, and all messages in flight from and to the kernel: they belong to the saved machine."""
        if self._stream is not None:
            self._stream.close("the machine was restored")
        while self._receive() is not None:
            pass
        self._waiting.clear()

    def renew(self, generation: int) -> None:
        """Start afresh: nothing was sent or received in this generation."""
        self._link.new_generation(generation)

    def _receive(self) -> Optional[list[memoryview]]:
        """The kernel's next message, or ``None``."""
        if self._socket is None:
            return None
        try:
            while True:
                parts = [frame.buffer for frame in self._socket.recv_multipart(zmq.NOBLOCK, copy=False)]
                if self.intercept is None or not self.intercept(parts):
                    return parts
        except zmq.Again:
            return None

    def _take(self, parts: list[memoryview]) -> None:
        if problem := frames.oversize(parts):
            print(f"agent: dropped on {self.channel}: {problem}", flush=True)
            instead = _instead_of(parts, self.channel, problem)
            if instead is not None:
                self._link.send(instead)
        else:
            self._link.send(parts)

    def _from_kernel(self, _events: int) -> None:
        for _ in range(BURST):
            if not self._link.writable or (parts := self._receive()) is None:
                break
            self._take(parts)
        self.writable()


def _instead_of(parts: list[memoryview], channel: str, problem: str) -> Optional[list[frames.Buffer]]:
    """The message in place of one of the kernel's that was too large: a reply if a client waits for one, else an output.

    It keeps the old signature, which the host does not check. ``None`` for an input request, and for what is no Jupyter
    message.
    """
    if channel == "stdin":
        return None
    try:
        at = [bytes(part[:16]) for part in parts[:MAX_IDENTITIES]].index(b"<IDS|MSG>")
        header = json.loads(bytes(parts[at + 2]))
        kind = header["msg_type"]
        if channel != "iopub":
            content = {"status": "error", "ename": "MessageTooLarge", "evalue": problem, "traceback": [problem]}
        else:
            content = {"name": "stderr", "text": f"A message {kind} of the kernel was dropped: {problem}.\n"}
            header["msg_type"] = "stream"
        instead: list[frames.Buffer] = [
            *parts[: at + 2], json.dumps(header).encode(), parts[at + 3], b"{}", json.dumps(content).encode(),
        ]  # fmt: skip
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None
    return None if frames.oversize(instead) else instead


def _send(socket: zmq.Socket[Any], parts: list[memoryview]) -> None:
    socket.send_multipart(parts, zmq.NOBLOCK, copy=False)
