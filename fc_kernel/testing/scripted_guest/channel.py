"""The relay of one channel in a scripted guest: the tunnel's link on one side, the kernel in the same process on the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...errors import RemoteProtocolError
from ...wire.frames import Buffer
from ...wire.link import Established, Link

if TYPE_CHECKING:
    from ...guest.interfaces import Stream

#: How many messages wait for the link before the kernel has to wait.
QUEUED_MESSAGES = 32


class Channel:
    """A handler for the guest's transport; ``received`` gets messages, ``drained`` is called when there is room again."""

    def __init__(self, name: str, received: Callable[[list[bytes]], None], drained: Callable[[], None]) -> None:
        self._link = Link(name, dialer=False)
        self._received = received
        self._drained = drained
        self._stream: Stream | None = None
        self._waiting: deque[list[Buffer]] = deque()
        #: A host that attaches with an older generation does not know that this guest was restored.
        self.least_generation = 0

    @property
    def full(self) -> bool:
        """Whether the kernel has to wait."""
        return len(self._waiting) >= QUEUED_MESSAGES

    def send(self, parts: list[Buffer]) -> None:
        """Send a message, or keep it until the link takes it."""
        self._waiting.append(parts)
        self._move()

    def settle(self) -> None:
        """Move all of the kernel's messages into the link, whatever its window: they are no longer the kernel's."""
        while self._waiting:
            self._link.send(self._waiting.popleft())
        self._flush()

    def forget(self) -> None:
        """Drop what the kernel said before a restore."""
        self._waiting.clear()

    def renew(self, generation: int) -> None:
        """From now on, accept only connections of this generation or a later one."""
        self.least_generation = generation

    def connected(self, stream: Stream) -> None:
        """A new connection of the host; an older one is replaced."""
        if self._stream is not None:
            self._stream.close("replaced by a new connection")
        self._stream = stream
        self._link.connection_made()

    def lost(self, _reason: str) -> None:
        """The connection is gone; messages wait for the next."""
        self._stream = None
        self._link.connection_lost()

    def get_buffer(self) -> memoryview:
        """For the stream to receive into."""
        return self._link.get_buffer()

    def buffer_updated(self, count: int) -> None:
        """The stream received ``count`` bytes."""
        for event in self._link.buffer_updated(count):
            if not isinstance(event, Established):
                self._received([bytes(part) for part in event.parts])
            elif event.generation < self.least_generation:
                raise RemoteProtocolError(
                    f"generation {event.generation}; this guest was restored as {self.least_generation}"
                )
        self.writable()

    def writable(self) -> None:
        """Send what the stream takes, then take more from the kernel."""
        self._flush()
        self._move()

    def _move(self) -> None:
        was_full = self.full
        while self._waiting and self._link.established and self._link.writable:
            self._link.send(self._waiting.popleft())
        self._flush()
        if was_full and not self.full:
            self._drained()

    def _flush(self) -> None:
        link = self._link
        while self._stream is not None and link.wants_to_send:
            buffers = link.data_to_send()
            sent = self._stream.send(buffers)
            if self._stream is None or self._stream.closed:
                return
            link.data_sent(sent)
            if sent < sum(map(len, buffers)):
                return
