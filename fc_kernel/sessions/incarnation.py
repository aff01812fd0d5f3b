"""One kernel process in one machine: what a restart, a restore or the end of the machine replaces as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from ..machine.machine import Machine


@dataclass(frozen=True, kw_only=True)
class Incarnation:
    """The one place where a session keeps its machine and what belongs to the kernel process in it."""

    machine: Machine
    #: Raised by every start and restore; both ends of a channel's tunnel know it.
    generation: int
    #: The number that the guest has for the kernel process; 0 while none was started.
    instance: int = 0
    #: Signs the kernel's messages between here and the guest.
    key: bytes = b""
