"""The table of a session's phases: every pair, and what it means for a life."""

from __future__ import annotations

import itertools

import pytest

from fc_kernel.errors import StateError
from fc_kernel.sessions.phases import TRANSITIONS, Phase, following

#: What a kernel's life may do, said a second time: an edit of the table has to be meant.
ALLOWED = {
    ("IDLE", "STARTING"), ("IDLE", "CLOSED"),
    ("STARTING", "RUNNING"), ("STARTING", "IDLE"), ("STARTING", "CLOSED"),
    ("RUNNING", "IDLE"), ("RUNNING", "CLOSED"),
    ("CLOSED", "CLOSED"),
}  # fmt: skip


@pytest.mark.parametrize(("now", "then"), list(itertools.product(Phase, repeat=2)))
def test_every_pair(now: Phase, then: Phase) -> None:
    if (now.name, then.name) in ALLOWED:
        assert following(now, then) is then
    else:
        with pytest.raises(StateError, match=f"is {now.value}; it cannot become: {then.value}"):
            following(now, then)


def test_every_phase_can_be_closed_and_nothing_follows() -> None:
    assert set(TRANSITIONS) == set(Phase)
    assert all(Phase.CLOSED in after for after in TRANSITIONS.values())
    assert TRANSITIONS[Phase.CLOSED] == {Phase.CLOSED}
