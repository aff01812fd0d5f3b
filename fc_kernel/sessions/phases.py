"""The phases of a kernel's session, and one table of which may follow which.

A session outlives kernel processes and VMs: it opens with its clients' sockets and ends when these are closed. In between
it is in one of these phases:

- ``EMPTY``: no kernel process and no VM: at the beginning, after a failed start, and when the VM is gone.
- ``STARTING``: a VM is found or made, and a kernel process is started in it.
- ``RUNNING``: a kernel process runs and executes cells.
- ``PAUSING``: the kernel is paused for a snapshot. It is ``RUNNING`` again while the snapshot is written.
- ``RESTORING``: the kernel runs on until a VM that was loaded from a snapshot replaces its own.
- ``LINGERING``: the kernel process has ended; its VM is kept for a while, in case of a restart.
- ``CLOSING``: everything is being released. ``CLOSED``: everything is released.

Who causes what:

- The session's owner starts, pauses and restores. Each of these holds the session's lock until it is done, so only
  ``KERNEL_ENDED`` and the close can come between its first event and its last.
- The guest, the monitor or the watchdog ends the kernel, at any time and without the lock. A start that is under way
  notices by itself, so ``STARTING`` stays. When the end overtakes a pause or a restore, ``RESUMED`` comes late and changes
  nothing.
- The owner closes at any time, without the lock, and from then on nothing else changes anything.

Invariants: ``RUNNING``, ``PAUSING`` and ``RESTORING`` have a VM and a kernel process in it, ``LINGERING`` has a VM,
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
    STARTED = "note that a kernel has started"
    START_FAILED = "note that a start has failed"
    PAUSE = "be paused"
    RESTORE = "be restored"
    RESUMED = "resume"
    KERNEL_ENDED = "note that its kernel has ended"
    MACHINE_GONE = "give up its VM"
    CLOSE = "be closed"
    RELEASED = "note that everything is released"


#: All that can happen. Anything else is refused: it is a caller's wrong request, or our own mistake.
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

#: The state that users see.
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

#: Phases in which a kernel process runs.
ALIVE = frozenset({Phase.RUNNING, Phase.PAUSING, Phase.RESTORING})
#: Phases in which nothing new is begun.
OVER = frozenset({Phase.CLOSING, Phase.CLOSED})


def following(now: Phase, cause: Cause) -> Phase:
    """The phase after ``cause``; raises :class:`~fc_kernel.errors.StateError` when it is not allowed now."""
    try:
        return TRANSITIONS[now][cause]
    except KeyError:
        raise StateError(f"the session is {now.value}; it cannot {cause.value}") from None
