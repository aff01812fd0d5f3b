"""The protocol between the agent and the kernel's process in the guest: operations that cells request, orders to the agent's
thread in the kernel, and environment variables.

The kernel connects to a Unix socket of the agent; both send one JSON object a line. A cell sends one of :data:`OPERATIONS` and
waits; the agent passes it on to the host. The agent's thread in the kernel sends :data:`THREAD_READY` once, then answers
orders. The kernel's process imports this file, too. Python 3.9, standard library only.
"""

from __future__ import annotations

from typing import Final

#: What a cell can ask the host for: the magics.
SNAPSHOT: Final = "snapshot"
SNAPSHOTS: Final = "snapshots"
RESTORE: Final = "restore"
FORK: Final = "fork"
VM: Final = "vm"
OPERATIONS: Final = (SNAPSHOT, SNAPSHOTS, RESTORE, FORK, VM)
#: Operations during which the machine may be copied; the cell in the copy is told that it is one.
COPYING: Final = (SNAPSHOT, FORK)
#: The role of the machine that goes on after :data:`COPYING`; in a copy it is one of :data:`~fc_kernel.wire.methods.ROLES`.
ROLE_SOURCE: Final = "source"

#: The thread runs, and so does the kernel.
THREAD_READY: Final = "ready"
#: Orders from the agent, and the thread's answers.
PREPARE: Final = "prepare"
PREPARED: Final = "prepared"
RENEW: Final = "renew"
RENEWED: Final = "renewed"
REHEARSE: Final = "rehearse"
REHEARSED: Final = "rehearsed"
GO_ON: Final = "go on"

#: Set by the agent: the path of its socket.
AGENT_SOCKET_VARIABLE: Final = "FC_KERNEL_AGENT_SOCKET"
#: Set by the host for the kernel of a template: modules to import, separated by commas.
TEMPLATE_IMPORTS_VARIABLE: Final = "FC_KERNEL_TEMPLATE_IMPORTS"
#: Set by the host, for the user's code to read.
TIER_VARIABLE: Final = "FC_KERNEL_TIER"
MONITOR_VARIABLE: Final = "FC_KERNEL_MONITOR"
VM_ID_VARIABLE: Final = "FC_KERNEL_VM_ID"
VCPU_COUNT_VARIABLE: Final = "FC_KERNEL_VCPU_COUNT"
MEM_SIZE_MIB_VARIABLE: Final = "FC_KERNEL_MEM_SIZE_MIB"
