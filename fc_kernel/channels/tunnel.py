"""The host's end of one channel's tunnel: a link and the socket that now carries it."""

from __future__ import annotations

import socket
from collections import deque
from typing import Any

import zmq

from ..wire.link import Link, MessageReceived
from .signing import Signer

#: As plain numbers: operations on the enumeration's members cost more than all else here.
POLLIN, POLLOUT = int(zmq.POLLIN), int(zmq.POLLOUT)
#: How many reads of one socket before the others get their turn.
BURST = 16
#: How much is held while no guest is there (it boots, or is away); more waits in the clients' own queues.
MAX_HELD_MESSAGES = 1000
MAX_HELD_BYTES = 16 << 20


class Tunnel:
    """Carries one channel. Messages that are sent while no guest is there wait, unsigned, for the next one."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self._link = Link(channel, dialer=True)
        self._socket: socket.socket | None = None
        self._signer = Signer(b"")
        self._held: deque[tuple[list[Any], int]] = deque()
        self._held_bytes = 0

    @property
    def connected(self) -> bool:
        """Whether it has a socket."""
        return self._socket is not None

    @property
    def established(self) -> bool:
        """Whether both ends have greeted each other."""
        return self._link.established

    def fileno(self) -> int:
        """The socket's descriptor; -1 without one."""
        return self._socket.fileno() if self._socket is not None else -1

    def events(self, *, reading: bool) -> int:
        """What to poll the socket for."""
        if self._socket is None:
            return 0
        return (POLLIN if reading else 0) | (POLLOUT if self._link.wants_to_send else 0)

    @property
    def takes_more(self) -> bool:
        """Whether a client's next message should be read now."""
        if self._socket is not None:
            return self._link.writable
        return len(self._held) < MAX_HELD_MESSAGES and self._held_bytes < MAX_HELD_BYTES

    def attach(self, sock: socket.socket, generation: int) -> None:
        """Carry on over a new socket; what was not acknowledged is sent again after the guest's greeting."""
        self.drop()
        sock.setblocking(False)
        self._socket = sock
        if generation != self._link.generation:
            self._link.new_generation(generation)
        self._link.connection_made()
        self._flush()

    def send(self, frames: list[Any], delimiter: int, signer: Signer) -> None:
        """Sign a message for the guest and send it, or hold it until there is one.

        Raises :class:`~fc_kernel.errors.LocalProtocolError` when it is over the limits of the tunnel.
        """
        if self._socket is None:
            self._held.append((frames, delimiter))
            self._held_bytes += sum(map(len, frames))
            return
        self._send(frames, delimiter, signer)
        self._flush()

    def _send(self, frames: list[Any], at: int, signer: Signer) -> None:
        frames[at + 1] = signer.sign(frames[at + 2 : at + 6])
        self._link.send(frames)

    def release(self, signer: Signer) -> None:
        """Send what was held; call it after every :meth:`attach`."""
        while self._held:
            self._send(*self._held.popleft(), signer)
        self._held_bytes = 0
        self._flush()

    def ready(self, events: int) -> list[list[Any]]:
        """Use the socket, which is ready; returns the guest's messages. Raises :class:`OSError` on a broken connection."""
        messages: list[list[Any]] = []
        sock = self._socket
        assert sock is not None  # noqa: S101 - polled only with a socket
        if events & ~POLLOUT:
            for _ in range(BURST):
                try:
                    count = sock.recv_into(self._link.get_buffer())
                except BlockingIOError:
                    break
                if not count:
                    if messages:
                        break
                    raise ConnectionResetError("closed by the guest")
                events_now = self._link.buffer_updated(count)
                messages += [event.parts for event in events_now if isinstance(event, MessageReceived)]
                if messages:
                    break
        self._flush()
        return messages

    def _flush(self) -> None:
        while self._socket is not None and self._link.wants_to_send:
            buffers = self._link.data_to_send()
            try:
                sent = self._socket.sendmsg(buffers)
            except BlockingIOError:
                return
            except OSError:
                # Reading fails as well, and its error is handled.
                return
            self._link.data_sent(sent)

    def drop(self) -> None:
        """Close the socket; what was not acknowledged is kept for the same generation."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self._link.connection_lost()

    def forget(self) -> None:
        """Forget what was held or not acknowledged: its guest is dead."""
        self._held.clear()
        self._held_bytes = 0
        self._link.new_generation(0)
