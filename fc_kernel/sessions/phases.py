"""The phases of a kernel's session: one table of what may follow what.

A session outlives kernel processes and machines: it opens with its clients' sockets and ends when these are closed. In between
it is in one of these phases:

- ``EMPTY``: no kernel process and no machine. So it begins, and so it is after a start that failed or a machine that is gone.
- ``STARTING``: a machine is found or made, and a kernel process started in it.
- ``RUNNING``: a kernel process runs, and its cells too.
- ``PAUSING``: it is held still for a snapshot. When it runs again the phase is ``RUNNING``, while the snapshot is written.
- ``RESTORING``: it runs on until a machine that was loaded from a snapshot takes the place of its own.
- ``LINGERING``: the kernel process has ended; its machine is kept for a while, in case of a restart.
- ``CLOSING``: everything is being released. ``CLOSED``: everything is released.

Who causes what:

- The session's owner starts, pauses, restores; all three hold the session's lock until they are done, and so nothing but
  ``KERNEL_ENDED`` and the close comes between their first event and their last.
- The guest, the monitor or the watchdog ends the kernel, at any time and without the lock. A start that is under way finds out
  by itself, and so ``STARTING`` stays. After a pause or a restore that the end overtook, ``RESUMED`` comes late and changes
  nothing.
- The owner closes at any time, without the lock, and from then on nothing else changes anything.

Invariants: ``RUNNING``, ``PAUSING`` and ``RESTORING`` have a machine and a kernel process in it, ``LINGERING`` has a machine,
``EMPTY`` and ``CLOSED`` have none. Every phase can be closed, and nothing follows ``CLOSED``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from ..errors import StateError


class Phase(Enum):
    """Where a session is in its life; the value completes "the session is …"."""

    EMPTY = "without a kernel"
    STARTING = "starting"
    RUNNING = "running"
    PAUSING = "pausing"
    RESTORING = "restoring"
    LINGERING = "without a kernel since the last one ended"
    CLOSING = "closing"
    CLOSED = "closed"


class Cause(Enum):
    """What makes a session go from one phase to another; the value completes "it cannot …"."""

    START = "start a kernel"
    STARTED = "have started a kernel"
    START_FAILED = "have failed to start a kernel"
    PAUSE = "be paused"
    RESTORE = "be restored"
    RESUMED = "go on"
    KERNEL_ENDED = "have its kernel ended"
    MACHINE_GONE = "give up its machine"
    CLOSE = "be closed"
    RELEASED = "have released everything"


#: All that can happen. What is not here is refused: a caller's request, or a mistake of ours.
TRANSITIONS: Mapping[Phase, Mapping[Cause, Phase]] = {
    Phase.EMPTY: {
        Cause.START: Phase.STARTING,
        Cause.CLOSE: Phase.CLOSING,
    },
    Phase.STARTING: {
        Cause.STARTED: Phase.RUNNING,
        Cause.START_FAILED: Phase.EMPTY,
        Cause.KERNEL_ENDED: Phase.STARTING,
        Cause.MACHINE_GONE: Phase.STARTING,
        Cause.CLOSE: Phase.CLOSING,
    },
    Phase.RUNNING: {
        Cause.PAUSE: Phase.PAUSING,
        Cause.RESTORE: Phase.RESTORING,
        Cause.RESUMED: Phase.RUNNING,
        Cause.KERNEL_ENDED: Phase.LINGERING,
        Cause.CLOSE: Phase.CLOSING,
    },
    Phase.PAUSING: {
        Cause.RESUMED: Phase.RUNNING,
        Cause.KERNEL_ENDED: Phase.LINGERING,
        Cause.CLOSE: Phase.CLOSING,
    },
    Phase.RESTORING: {
        Cause.RESUMED: Phase.RUNNING,
        Cause.KERNEL_ENDED: Phase.LINGERING,
        Cause.CLOSE: Phase.CLOSING,
    },
    Phase.LINGERING: {
        Cause.START: Phase.STARTING,
        Cause.RESUMED: Phase.LINGERING,
        Cause.MACHINE_GONE: Phase.EMPTY,
        Cause.CLOSE: Phase.CLOSING,
    },
    Phase.CLOSING: {
        Cause.START_FAILED: Phase.CLOSING,
        Cause.RESUMED: Phase.CLOSING,
        Cause.KERNEL_ENDED: Phase.CLOSING,
        Cause.MACHINE_GONE: Phase.CLOSING,
        # A close may be asked for twice.
        Cause.CLOSE: Phase.CLOSING,
        Cause.RELEASED: Phase.CLOSED,
    },
    Phase.CLOSED: {
        Cause.RESUMED: Phase.CLOSED,
        Cause.CLOSE: Phase.CLOSED,
    },
}

#: What users see.
WORDS: Mapping[Phase, str] = {
    Phase.EMPTY: "dead",
    Phase.STARTING: "booting",
    Phase.RUNNING: "running",
    Phase.PAUSING: "pausing",
    Phase.RESTORING: "restoring",
    Phase.LINGERING: "dead",
    Phase.CLOSING: "closed",
    Phase.CLOSED: "closed",
}

#: A kernel process runs.
ALIVE = frozenset({Phase.RUNNING, Phase.PAUSING, Phase.RESTORING})
#: Nothing is begun any more.
OVER = frozenset({Phase.CLOSING, Phase.CLOSED})


def following(now: Phase, cause: Cause) -> Phase:
    """The phase after ``cause``; raises :class:`~fc_kernel.errors.StateError` where nothing follows."""
    try:
        return TRANSITIONS[now][cause]
    except KeyError:
        raise StateError(f"the session is {now.value}; it cannot {cause.value}") from None
