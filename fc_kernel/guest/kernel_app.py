"""The kernel process in the guest: ipykernel, which waits for its one reader instead of dropping what that has not read.

ZeroMQ drops what a subscriber does not take in time, silently, and a thousand small prints can be ahead of a busy agent. Run
by its path, in a process of its own: this package is not on the kernel's path. Python 3.9, ipykernel.
"""

from __future__ import annotations

import sys
from typing import Any

if __name__ == "__main__":
    # The directory of this file, whose modules would hide others from the user's code.
    del sys.path[0]

import zmq
from ipykernel.kernelapp import IPKernelApp

#: Messages between the kernel and the agent, and as many again in the agent, before the kernel waits. ZeroMQ counts messages,
#: not bytes, and a few of 8 MiB are all that a small guest has room for; more of them make nothing faster.
QUEUED_MESSAGES = 32


class KernelApp(IPKernelApp):
    """ipykernel's application with a bounded iopub socket that blocks."""

    def init_iopub(self, context: zmq.Context[Any]) -> None:
        """Bind iopub, then limit it, on the thread that the socket belongs to."""
        super().init_iopub(context)  # type: ignore[no-untyped-call]
        socket = self.iopub_thread.socket

        def limit() -> None:
            socket.sndhwm = QUEUED_MESSAGES
            socket.setsockopt(zmq.XPUB_NODROP, 1)

        self.iopub_thread.schedule(limit)


if __name__ == "__main__":
    KernelApp.launch_instance()
