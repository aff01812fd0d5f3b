"""The phases of a kernel's life, and what may follow what: one table."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from ..errors import StateError


class Phase(Enum):
    """Where a session is in its life."""

    IDLE = "no kernel process"
    STARTING = "starting"
    RUNNING = "running"
    CLOSED = "closed"


#: All that can happen; whatever is not here is a mistake of ours and raises.
TRANSITIONS: Mapping[Phase, frozenset[Phase]] = {
    Phase.IDLE: frozenset({Phase.STARTING, Phase.CLOSED}),
    Phase.STARTING: frozenset({Phase.RUNNING, Phase.IDLE, Phase.CLOSED}),
    Phase.RUNNING: frozenset({Phase.IDLE, Phase.CLOSED}),
    # A close may be asked for twice.
    Phase.CLOSED: frozenset({Phase.CLOSED}),
}


def following(now: Phase, then: Phase) -> Phase:
    """``then``, if it may follow ``now``; raises :class:`~fc_kernel.errors.StateError`."""
    if then not in TRANSITIONS[now]:
        raise StateError(f"the session is {now.value}; it cannot become: {then.value}")
    return then
