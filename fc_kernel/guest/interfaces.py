"""What the guest's transports and the handlers of their streams expect of each other. For type checkers: nothing imports it
at run time, because each import costs time before the first cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, Optional, Protocol, Union

Params = dict[str, Any]
#: Takes the result of a call, or the :class:`~fc_kernel.guest.control.RpcError` that it ended with.
Reply = Callable[[object], None]


class Stream(Protocol):
    """A connection of the host's."""

    closed: bool

    def send(self, buffers: Sequence[Union[bytes, memoryview]]) -> int:
        """Take what there is room for and say how much; if that is not all, ``writable()`` will be called."""

    def end(self) -> None:
        """Close in order: what ``send()`` has taken still arrives."""

    def close(self, reason: str = "closed") -> None:
        """Close at once; the handler is told why."""


class Handler(Protocol):
    """Who serves the streams of a port."""

    def connected(self, stream: Stream) -> None:
        """A new stream."""

    def get_buffer(self) -> memoryview:
        """Where the next bytes go."""

    def buffer_updated(self, count: int) -> None:
        """So many came; raises :class:`~fc_kernel.errors.FcKernelError` when they break the protocol."""

    def writable(self) -> None:
        """There is room again."""

    def lost(self, reason: str) -> None:
        """The stream is closed."""


#: Given a port, the handler for a new connection to it, or ``None`` where nothing listens.
Accept = Callable[[int], Optional[Handler]]


class Machine(Protocol):
    """What a restored machine must not share with others; raises :class:`OSError` for what the kernel refuses."""

    def add_entropy(self, seed: bytes) -> None:
        """Credit random bytes to the kernel, and reseed it."""

    def set_clock(self, now: float) -> None:
        """Step the wall clock."""

    def set_names(self, hostname: str, machine_id: str) -> None:
        """Give it another name and id."""


class Participant(Protocol):
    """A part of the agent that has something under way between host and kernel, and so takes part in a snapshot.

    While the kernel is brought to a stop each is asked to rest until none has moved anything. In a restored machine each
    forgets the past and is renewed while the kernel stands still; then the host makes its connections, and the kernel goes on.
    """

    def rest(self) -> bool:
        """Pass on what the kernel has said or written so far; whether there was anything."""

    def forget(self) -> None:
        """Drop the connection and all that is under way: it belongs to the machine that was saved."""

    def renew(self, generation: int) -> None:
        """Begin anew as this generation; connections of the host follow."""

    def release(self) -> None:
        """The kernel goes on; give it what was held back for it."""


class Service(Protocol):
    """What a guest serves."""

    @property
    def ports(self) -> Sequence[int]:
        """The ports that are served."""

    def accept(self, port: int) -> Optional[Handler]:
        """The handler for a new connection to a port, or ``None``."""
