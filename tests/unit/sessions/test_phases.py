"""The table of a session's phases: every pair of a phase and a cause, and what it means for a life."""

from __future__ import annotations

import itertools

import pytest

from fc_kernel.errors import StateError
from fc_kernel.sessions.phases import ALIVE, OVER, TRANSITIONS, WORDS, Cause, Phase, following

#: What a kernel's life may do, said a second time: an edit of the table has to be meant.
ALLOWED = {
    ("EMPTY", "START"): "STARTING", ("EMPTY", "CLOSE"): "CLOSING",
    ("STARTING", "STARTED"): "RUNNING", ("STARTING", "START_FAILED"): "EMPTY", ("STARTING", "KERNEL_ENDED"): "STARTING",
    ("STARTING", "MACHINE_GONE"): "STARTING", ("STARTING", "CLOSE"): "CLOSING",
    ("RUNNING", "PAUSE"): "PAUSING", ("RUNNING", "RESTORE"): "RESTORING", ("RUNNING", "RESUMED"): "RUNNING",
    ("RUNNING", "KERNEL_ENDED"): "LINGERING", ("RUNNING", "CLOSE"): "CLOSING",
    ("PAUSING", "RESUMED"): "RUNNING", ("PAUSING", "KERNEL_ENDED"): "LINGERING", ("PAUSING", "CLOSE"): "CLOSING",
    ("RESTORING", "RESUMED"): "RUNNING", ("RESTORING", "KERNEL_ENDED"): "LINGERING", ("RESTORING", "CLOSE"): "CLOSING",
    ("LINGERING", "START"): "STARTING", ("LINGERING", "RESUMED"): "LINGERING", ("LINGERING", "MACHINE_GONE"): "EMPTY",
    ("LINGERING", "CLOSE"): "CLOSING",
    ("CLOSING", "START_FAILED"): "CLOSING", ("CLOSING", "RESUMED"): "CLOSING", ("CLOSING", "KERNEL_ENDED"): "CLOSING",
    ("CLOSING", "MACHINE_GONE"): "CLOSING", ("CLOSING", "CLOSE"): "CLOSING", ("CLOSING", "RELEASED"): "CLOSED",
    ("CLOSED", "RESUMED"): "CLOSED", ("CLOSED", "CLOSE"): "CLOSED",
}  # fmt: skip


@pytest.mark.parametrize(("now", "cause"), list(itertools.product(Phase, Cause)))
def test_every_pair(now: Phase, cause: Cause) -> None:
    if (now.name, cause.name) in ALLOWED:
        assert following(now, cause).name == ALLOWED[now.name, cause.name]
    else:
        with pytest.raises(StateError, match=f"is {now.value}; it cannot {cause.value}"):
            following(now, cause)


def test_every_phase_can_be_closed_and_nothing_follows() -> None:
    assert set(TRANSITIONS) == set(Phase)
    assert all(following(phase, Cause.CLOSE) in OVER for phase in Phase)
    assert all(set(TRANSITIONS[phase].values()) <= OVER for phase in OVER)
    assert set(TRANSITIONS[Phase.CLOSED].values()) == {Phase.CLOSED}


def test_a_kernel_can_end_at_any_time() -> None:
    assert all(following(phase, Cause.KERNEL_ENDED) is Phase.LINGERING for phase in ALIVE)


def test_a_kernel_that_runs_is_not_left_without_a_machine() -> None:
    assert not [phase for phase in ALIVE if Cause.MACHINE_GONE in TRANSITIONS[phase]]
    assert not [phase for phase in ALIVE if Cause.START in TRANSITIONS[phase]]


def test_every_phase_has_a_word() -> None:
    assert set(WORDS) == set(Phase)
    assert {WORDS[phase] for phase in OVER} == {"closed"}
    assert {phase for phase in Phase if WORDS[phase] == "dead"} == {Phase.EMPTY, Phase.LINGERING}
    assert [WORDS[phase] for phase in (Phase.STARTING, Phase.RUNNING, Phase.PAUSING, Phase.RESTORING)] == [
        "booting",
        "running",
        "pausing",
        "restoring",
    ]
