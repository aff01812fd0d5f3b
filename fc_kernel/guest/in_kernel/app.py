"""ipykernel's application, which waits for its one reader instead of dropping what that has not read.

ZeroMQ drops what a subscriber does not take in time, silently, and a thousand small prints can be ahead of a busy agent.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from functools import partial
from typing import Any, Optional

import zmq
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from ipykernel.zmqshell import ZMQInteractiveShell
from traitlets import default

from fc_kernel.wire.operations import AGENT_SOCKET_VARIABLE

from . import warm
from .agent_thread import AgentThread
from .magics import load_ipython_extension
from .output import GuardedOutStream, guard
from .requests import CellEnded

#: Messages between the kernel and the agent, and as many again in the agent, before the kernel waits. ZeroMQ counts messages,
#: not bytes, and a few of 8 MiB are all that a small guest has room for; more of them make nothing faster.
QUEUED_MESSAGES = 32


class Shell(ZMQInteractiveShell):
    """IPython's shell, which says nothing of a cell that ended because its machine was restored."""

    def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        """Show an error, unless it is none."""
        if isinstance((exc_tuple or sys.exc_info())[1], CellEnded):
            self._last_traceback = None
            return
        super().showtraceback(exc_tuple, *args, **kwargs)


class Kernel(IPythonKernel):
    """ipykernel's kernel, whose cells are interrupted between outputs and not within them."""

    #: The number of the cell that was begun last.
    cell_number = 0
    #: The id of the request that the main thread works at.
    serving: Optional[str] = None

    @default("shell_class")
    def _default_shell_class(self) -> type:
        return Shell

    def pre_handler_hook(self) -> None:
        """Before each request: from here on a SIGINT is a :class:`KeyboardInterrupt`."""
        self.saved_sigint_handler = guard.install()

    def set_parent(self, ident: Any, parent: dict[str, Any], channel: str = "shell") -> None:
        """Note whose request is next."""
        super().set_parent(ident, parent, channel)  # type: ignore[no-untyped-call]
        if channel == "shell" and threading.current_thread() is threading.main_thread():
            self.serving = parent["header"]["msg_id"]

    async def dispatch_shell(self, *args: Any, **kwargs: Any) -> None:
        """Serve a request, to its idle status."""
        try:
            await super().dispatch_shell(*args, **kwargs)
        finally:
            if threading.current_thread() is threading.main_thread():
                self.serving = None

    async def do_execute(
        self,
        code: str,
        silent: bool,
        store_history: bool = True,
        user_expressions: Optional[dict[str, str]] = None,
        allow_stdin: bool = False,
        *,
        cell_meta: Optional[dict[str, Any]] = None,
        cell_id: Optional[str] = None,
    ) -> dict[str, Any]:
        """Run a cell. What comes after it, its reply above all, is not interrupted."""
        on_main = threading.current_thread() is threading.main_thread()
        if store_history and not silent and self.shell is not None:
            self.cell_number = self.shell.execution_count
        try:
            content: dict[str, Any] = await super().do_execute(  # type: ignore[no-untyped-call]
                code, silent, store_history, user_expressions, allow_stdin, cell_meta=cell_meta, cell_id=cell_id
            )
        except KeyboardInterrupt:
            # It came when the cell itself had ended; without this there would be no reply at all.
            content = {"status": "error", "ename": "KeyboardInterrupt", "evalue": "", "traceback": []}
            content["execution_count"] = self.execution_count
        finally:
            if on_main:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
        if content.get("ename") == CellEnded.__name__:
            content = {"status": "ok", "execution_count": content["execution_count"], "payload": []}
            content["user_expressions"] = {}
        return content


class KernelApp(IPKernelApp):
    """The application with our kernel and streams, and a bounded iopub socket that blocks."""

    @default("kernel_class")
    def _default_kernel_class(self) -> type:
        return Kernel

    @default("outstream_class")
    def _default_outstream_class(self) -> str:
        return f"{GuardedOutStream.__module__}.{GuardedOutStream.__qualname__}"

    def init_iopub(self, context: zmq.Context[Any]) -> None:
        """Bind iopub, then limit it, on the thread that the socket belongs to."""
        super().init_iopub(context)  # type: ignore[no-untyped-call]
        socket = self.iopub_thread.socket

        def limit() -> None:
            socket.sndhwm = QUEUED_MESSAGES
            socket.setsockopt(zmq.XPUB_NODROP, 1)

        self.iopub_thread.schedule(limit)

    def init_extensions(self) -> None:
        """Load ours, and what is configured."""
        load_ipython_extension(self.shell)
        super().init_extensions()  # type: ignore[no-untyped-call]

    def start(self) -> None:
        """Run, and tell the agent so as soon as the loop does."""
        path = os.environ.get(AGENT_SOCKET_VARIABLE)
        if path:
            rehearsal = partial(warm.warm_up, self)
            self.agent_thread = AgentThread(path, self.kernel, rehearsal if warm.wanted() else None, rehearsal)
            self.agent_thread.start()
        super().start()  # type: ignore[no-untyped-call]
