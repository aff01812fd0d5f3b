"""Warming a kernel up before a template is made of it, so that no cell after a restore has to wait for it.

Requests like those of a notebook go through the whole kernel once. That performs the imports that wait for their first use,
which take seconds under emulation. It leaves no trace in the namespace, the history or the execution counter, and no output.
The completer is left cold: what jedi loads on its first use takes longer than the whole start.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from typing import Any

import zmq
from IPython.core.getipython import get_ipython

from fc_kernel.wire.operations import TEMPLATE_IMPORTS_VARIABLE

#: For each reply; large modules take long to import in an emulated guest.
TIMEOUT_MS = 120_000
CELL = "__import__('fc_kernel.warm').warm.within_a_cell()"


def wanted() -> bool:
    """Whether a template will be made of this kernel: the variable is set, even if it is empty."""
    return TEMPLATE_IMPORTS_VARIABLE in os.environ


def warm_up(app: Any) -> None:
    """Send the requests and wait for the replies; on a thread of its own, while the kernel's loop runs."""
    publishing = app.iopub_thread
    publishing._really_send = lambda *_args, **_kwargs: None
    try:
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.linger = 0
            socket.connect(f"{app.transport}://{app.ip}-{app.shell_port}")
            session = type(app.session)(key=app.session.key)
            cell = {"code": CELL, "silent": False, "store_history": False, "user_expressions": {}}
            for kind, content in (
                ("kernel_info_request", {}),
                ("execute_request", {**cell, "allow_stdin": False, "stop_on_error": True}),
                ("is_complete_request", {"code": "1"}),
            ):
                session.send(socket, kind, content)
                if not socket.poll(TIMEOUT_MS):
                    print(f"no reply to the first {kind}", file=sys.__stderr__)
                    return
                socket.recv_multipart()
        # The last message of a request, that the kernel is idle, comes after its reply.
        for schedule in (app.kernel.io_loop.add_callback, publishing.schedule):
            done = threading.Event()
            schedule(done.set)
            done.wait()
    finally:
        del publishing._really_send


def within_a_cell() -> str:
    """Runs on the main thread, as a cell; nobody sees what it returns."""
    shell: Any = get_ipython()
    import_modules()
    try:
        raise KeyError("the first traceback loads what formats all tracebacks")
    except KeyError:
        shell.InteractiveTB.structured_traceback(*sys.exc_info())
    shell.events.register("post_execute", _forget)
    return ""


def import_modules() -> None:
    """Import the modules that the template is to have; each that fails is named on stderr."""
    for name in filter(None, map(str.strip, os.environ.pop(TEMPLATE_IMPORTS_VARIABLE, "").split(","))):
        error = _import(name)
        if error:
            print(f"could not import {name}: {error}", file=sys.__stderr__, flush=True)


def _import(name: str) -> str:
    try:
        importlib.import_module(name)
    except BaseException as error:  # noqa: BLE001 - a module may do anything, and the kernel works without it
        return f"{type(error).__name__}: {error}"
    return ""


def _forget() -> None:
    """Take the cell's result out of the namespace again."""
    shell: Any = get_ipython()
    shell.events.unregister("post_execute", _forget)
    for number in list(shell.user_ns["_oh"]):
        del shell.user_ns["_oh"][number]
        shell.user_ns.pop(f"_{number}", None)
