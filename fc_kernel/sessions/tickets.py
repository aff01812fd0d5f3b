"""Tickets of forks: leave to start one kernel where another one is, once and within a while."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..api.models import ForkTicket
from ..errors import LimitError, StateError
from ..settings.resolve import Resolved
from ..snapshots.snapshot import Snapshot

#: A fork's start takes as long as any; a ticket that nobody used until then is void.
TICKET_LIFE_S = 600.0
#: Of tickets that are neither used nor void; a page of a browser cannot fill the memory with them.
MAX_TICKETS = 256


@dataclass(frozen=True, kw_only=True)
class ForkParent:
    """What a fork gets of the kernel that was forked, when its starter says nothing else."""

    kernel_id: str
    #: The snapshots that the fork takes belong where its parent's do.
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
        """``count`` tickets for a snapshot; raises :class:`~fc_kernel.errors.LimitError` when too many are out."""
        self._forget_void()
        room = MAX_TICKETS - len(self._issued)
        if count > room:
            raise LimitError("count", count, f"at most {room} now; other forks are under way")
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
        """What a ticket stands for, once; raises :class:`~fc_kernel.errors.StateError` for one that is used or void."""
        self._forget_void()
        found = self._issued.pop(token, None)
        if found is None:
            raise StateError("this ticket of a fork is void: it was used already, or it is too old")
        return found[0]

    def revoke(self, tickets: list[ForkTicket]) -> None:
        """Nobody can use these any more."""
        for each in tickets:
            self._issued.pop(each.ticket, None)

    def _forget_void(self) -> None:
        now = self._clock()
        self._issued = {token: each for token, each in self._issued.items() if each[1] > now}
