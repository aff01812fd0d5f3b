"""The interfaces between the guest's transports and the handlers of their streams. For type checkers: nothing imports this
file at run time, because each import costs time before the first cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, Optional, Protocol, Union

Params = dict[str, Any]
#: Takes the result of a call, or its :class:`~fc_kernel.guest.control.RpcError`.
Reply = Callable[[object], None]


class Stream(Protocol):
    """A connection from the host."""

    closed: bool

    def send(self, buffers: Sequence[Union[bytes, memoryview]]) -> int:
        """Take what there is room for and return how much; if that is not all, ``writable()`` will be called."""

    def end(self) -> None:
        """Close after all that ``send()`` has taken is sent."""

    def close(self, reason: str = "closed") -> None:
        """Close at once; the handler is told why."""


class Handler(Protocol):
    """Serves the streams of a port."""

    def connected(self, stream: Stream) -> None:
        """A new stream."""

    def get_buffer(self) -> memoryview:
        """The buffer for the next bytes."""

    def buffer_updated(self, count: int) -> None:
        """``count`` bytes came; raises :class:`~fc_kernel.errors.FcKernelError` when they break the protocol."""

    def writable(self) -> None:
        """There is room again."""

    def lost(self, reason: str) -> None:
        """The stream is closed."""


#: Given a port, the handler for a new connection to it, or ``None`` where nothing listens.
Accept = Callable[[int], Optional[Handler]]


class Machine(Protocol):
    """Changes what a restored machine must not share with others; raises :class:`OSError` for what its Linux refuses."""

    def add_entropy(self, seed: bytes) -> None:
        """Credit random bytes to Linux's entropy pool, and reseed it."""

    def set_clock(self, now: float) -> None:
        """Step the wall clock."""

    def set_names(self, hostname: str, machine_id: str) -> None:
        """Give the machine another host name and machine id."""


class Participant(Protocol):
    """A part of the agent that moves data between host and kernel, and so takes part in a snapshot.

    While the kernel is being stopped, each is asked to rest until none has moved anything. In a restored machine each
    forgets the past and is renewed while the kernel is frozen; then the host makes its connections, and the kernel runs.
    """

    def rest(self) -> bool:
        """Pass on what the kernel has sent so far; returns whether there was anything."""

    def forget(self) -> None:
        """Drop the connection and all data in flight: they belong to the machine that was saved."""

    def renew(self, generation: int) -> None:
        """Start afresh in this generation; the host connects next."""

    def release(self) -> None:
        """The kernel runs again; give it what was held back."""


class Service(Protocol):
    """Serves ports of the guest: the agent, or what a test puts in its place."""

    @property
    def ports(self) -> Sequence[int]:
        """The ports that are served."""

    def accept(self, port: int) -> Optional[Handler]:
        """The handler for a new connection to a port, or ``None``."""
