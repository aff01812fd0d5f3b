"""ipykernel's application, changed to wait for its one reader instead of dropping messages.

ZeroMQ silently drops what a subscriber does not take in time, and a thousand small prints can outrun a busy agent.
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

#: The kernel waits when so many messages are on their way to the agent, and as many again in the agent. ZeroMQ counts messages,
#: not bytes, and a small guest has room for only a few of 8 MiB; a longer queue makes nothing faster.
QUEUED_MESSAGES = 32


class Shell(ZMQInteractiveShell):
    """IPython's shell, silent about a cell that ended because its VM was restored."""

    def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        """Show an error, but not :class:`CellEnded`, which is none."""
        if isinstance((exc_tuple or sys.exc_info())[1], CellEnded):
            self._last_traceback = None
            return
        super().showtraceback(exc_tuple, *args, **kwargs)


class Kernel(IPythonKernel):
    """ipykernel's kernel, whose cells are interrupted between outputs, not in the middle of one."""

    #: The number of the last cell that was begun.
    cell_number = 0
    #: The ID of the request that the main thread is working on.
    serving: Optional[str] = None

    @default("shell_class")
    def _default_shell_class(self) -> type:
        return Shell

    def pre_handler_hook(self) -> None:
        """Called before each request: from here on SIGINT raises :class:`KeyboardInterrupt`."""
        self.saved_sigint_handler = guard.install()

    def set_parent(self, ident: Any, parent: dict[str, Any], channel: str = "shell") -> None:
        """Note which request is next."""
        super().set_parent(ident, parent, channel)  # type: ignore[no-untyped-call]
        if channel == "shell" and threading.current_thread() is threading.main_thread():
            self.serving = parent["header"]["msg_id"]

    async def dispatch_shell(self, *args: Any, **kwargs: Any) -> None:
        """Serve a request, up to its idle status."""
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
        """Run a cell. What follows it, above all its reply, is not interrupted."""
        on_main = threading.current_thread() is threading.main_thread()
        if store_history and not silent and self.shell is not None:
            self.cell_number = self.shell.execution_count
        try:
            content: dict[str, Any] = await super().do_execute(  # type: ignore[no-untyped-call]
                code, silent, store_history, user_expressions, allow_stdin, cell_meta=cell_meta, cell_id=cell_id
            )
        except KeyboardInterrupt:
            # The interrupt came after the cell had ended; without this there would be no reply at all.
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
    """The application with this package's kernel and streams, and a bounded iopub socket that blocks."""

    @default("kernel_class")
    def _default_kernel_class(self) -> type:
        return Kernel

    @default("outstream_class")
    def _default_outstream_class(self) -> str:
        return f"{GuardedOutStream.__module__}.{GuardedOutStream.__qualname__}"

    def init_iopub(self, context: zmq.Context[Any]) -> None:
        """Bind iopub, then limit its queue on the thread that owns the socket."""
        super().init_iopub(context)  # type: ignore[no-untyped-call]
        socket = self.iopub_thread.socket

        def limit() -> None:
            socket.sndhwm = QUEUED_MESSAGES
            socket.setsockopt(zmq.XPUB_NODROP, 1)

        self.iopub_thread.schedule(limit)

    def init_extensions(self) -> None:
        """Load the magics, then the extensions that are configured."""
        load_ipython_extension(self.shell)
        super().init_extensions()  # type: ignore[no-untyped-call]

    def start(self) -> None:
        """Run; the agent is told as soon as the loop runs."""
        path = os.environ.get(AGENT_SOCKET_VARIABLE)
        if path:
            rehearsal = partial(warm.warm_up, self)
            self.agent_thread = AgentThread(path, self.kernel, rehearsal if warm.wanted() else None, rehearsal)
            self.agent_thread.start()
        super().start()  # type: ignore[no-untyped-call]
