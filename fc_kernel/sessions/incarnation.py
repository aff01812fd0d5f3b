"""One kernel process in one machine: what a restart, a restore or the end of the machine replaces as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from ..machine.machine import Machine


@dataclass(frozen=True, kw_only=True)
class Incarnation:
    """The one place where a session keeps its machine and what belongs to the kernel process in it."""

    machine: Machine
    #: Counted up by every start and restore; both ends of a channel's tunnel know it.
    generation: int
    #: The guest's number for the kernel process; 0 before one was started.
    instance: int = 0
    #: The key that signs messages between the host and the kernel.
    key: bytes = b""
