"""Fork tickets: each allows one kernel to start from a snapshot of another, once and for a limited time."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..api.models import ForkTicket
from ..errors import LimitError, StateError
from ..settings.resolve import Resolved
from ..snapshots.snapshot import Snapshot

#: How long a ticket can be used: ample time for a start.
TICKET_LIFE_S = 600.0
#: How many tickets may be open at a time, so that a browser page cannot fill the memory with them.
MAX_TICKETS = 256


@dataclass(frozen=True, kw_only=True)
class ForkParent:
    """What a fork inherits from its parent unless its starter gives something else."""

    kernel_id: str
    #: The scope of the parent's snapshots, and of those that the fork takes.
    scope: str
    resolved: Resolved
    env: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Issued:
    """What a ticket stands for."""

    ticket: ForkTicket
    parent: ForkParent


class TicketBook:
    """The tickets of one tenant. ``clock`` counts seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: By token: what it stands for, and when it becomes void; the oldest first.
        self._issued: dict[str, tuple[Issued, float]] = {}

    def issue(self, count: int, snapshot: Snapshot, parent: ForkParent) -> list[ForkTicket]:
        """Issue ``count`` tickets for a snapshot; raises :class:`~fc_kernel.errors.LimitError` when too many are open."""
        self._forget_void()
        room = MAX_TICKETS - len(self._issued)
        if count > room:
            raise LimitError("count", count, f"at most {room} now, because other forks are under way")
        tickets = [
            ForkTicket(
                ticket=secrets.token_hex(16),
                kernel_id=parent.kernel_id,
                snapshot_id=snapshot.id,
                vm_id=snapshot.manifest.vm_id,
                name=snapshot.name,
                scope=parent.scope,
            )
            for _ in range(count)
        ]
        void_at = self._clock() + TICKET_LIFE_S
        self._issued.update({each.ticket: (Issued(ticket=each, parent=parent), void_at) for each in tickets})
        return tickets

    def take(self, token: str) -> Issued:
        """Use up a ticket and return what it stands for; raises :class:`~fc_kernel.errors.StateError` for one that is void."""
        self._forget_void()
        found = self._issued.pop(token, None)
        if found is None:
            raise StateError("this fork ticket is void: it was used already, or it is too old")
        return found[0]

    def revoke(self, tickets: list[ForkTicket]) -> None:
        """Make these tickets void."""
        for each in tickets:
            self._issued.pop(each.ticket, None)

    def _forget_void(self) -> None:
        now = self._clock()
        self._issued = {token: each for token, each in self._issued.items() if each[1] > now}
