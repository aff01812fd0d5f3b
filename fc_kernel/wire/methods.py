"""The protocol of the control connection: JSON-RPC 2.0 between host and guest agent, one JSON object a line.

The host calls methods; the agent answers, and sends two kinds of notification. Both sides, and every guest that a test puts
in the agent's place, use these names. Python 3.9, standard library only.

A kernel's life in a machine that is saved, and in each machine that comes from the snapshot:

    running ─freeze─► frozen ─(the snapshot is taken)─ thaw ─────────────────────► running      the source
                      frozen ─renew─► renewed ─(its connections are made)─ thaw ─► running      a restored machine
"""

from __future__ import annotations

from typing import Final

#: The first call: the host sends the protocol's version, the time and entropy; the agent describes its machine.
HELLO: Final = "hello"
#: Answered at once, whatever the kernel is doing.
PING: Final = "ping"
KERNEL_START: Final = "kernel.start"
KERNEL_SIGNAL: Final = "kernel.signal"
KERNEL_KILL: Final = "kernel.kill"
KERNEL_STATUS: Final = "kernel.status"
#: Stops the kernel and all the processes that it has started.
FREEZE: Final = "freeze"
#: Lets the kernel run again. In a renewed machine the kernel is first renewed, and the user's hooks run.
THAW: Final = "thaw"
#: Gives a restored machine its own generation, entropy, clock, names and key. Its kernel stays frozen.
RENEW: Final = "renew"
#: Makes the kernel run once what its first cell will need, without a trace.
REHEARSE: Final = "rehearse"
#: The host's answer to :data:`KERNEL_REQUEST`.
ANSWER: Final = "answer"
SYSTEM_SHUTDOWN: Final = "system.shutdown"
METHODS: Final = (
    HELLO, PING, KERNEL_START, KERNEL_SIGNAL, KERNEL_KILL, KERNEL_STATUS, FREEZE, THAW, RENEW, REHEARSE, ANSWER,
    SYSTEM_SHUTDOWN,
)  # fmt: skip

#: Notification: the kernel's process has ended.
KERNEL_EXITED: Final = "kernel.exited"
#: Notification: a cell asks for one of :data:`~fc_kernel.wire.operations.OPERATIONS`.
KERNEL_REQUEST: Final = "kernel.request"
NOTIFICATIONS: Final = (KERNEL_EXITED, KERNEL_REQUEST)

#: Codes of errors. The first three are JSON-RPC's own.
NOT_A_REQUEST: Final = -32600
NO_SUCH_METHOD: Final = -32601
BAD_PARAMETERS: Final = -32602
#: The kernel failed, or its state does not allow the call.
KERNEL_ERROR: Final = -32000
#: The guest's Linux has refused the host's entropy.
ENTROPY_REFUSED: Final = -32001
#: A kernel without a thread of ours can be saved only between two requests, and it is busy.
KERNEL_BUSY: Final = -32002

#: What a restored machine is: a template that a kernel is started from, a session put back, or a fork.
ROLE_STARTED: Final = "started"
ROLE_RESTORED: Final = "restored"
ROLE_FORK: Final = "fork"
ROLES: Final = (ROLE_STARTED, ROLE_RESTORED, ROLE_FORK)

#: The largest request carries an environment, the largest answer a list of snapshots; both are far smaller.
MAX_LINE_BYTES: Final = 1 << 20
#: For ``RNDADDENTROPY``: the entropy pool of the guest's Linux has 256 bits.
SEED_BYTES: Final = 32
#: What a guest may report of its hooks: the number of errors, and the length of each.
MAX_HOOK_ERRORS: Final = 20
MAX_HOOK_ERROR_CHARS: Final = 500
