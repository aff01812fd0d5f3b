"""The agent's thread in the kernel process: it prepares the process for a snapshot, and renews it after a restore.

While a snapshot is taken, the thread waits for the agent's next order in a read that holds the interpreter's lock, so that no
Python code runs between the thread's answer and that order. The main thread is paused until this thread lets it go; other
threads may run for one switch interval once the lock is free again.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from typing import Any, Callable, Optional

from fc_kernel.wire import operations

from . import hooks, requests
from .main_thread import Call, MainThread
from .renewal import renew

READ_BYTES = 1 << 16
#: The share of the time for a freeze that the hooks may take; the rest is for what follows them.
SHARE_OF_HOOKS = 0.7
#: A function of the C library that is called with the interpreter's lock held.
_read = ctypes.PyDLL(None).read


class AgentThread:
    """Serves the agent until the process ends. ``kernel`` is the ``ipykernel`` kernel.

    ``first()`` runs before anything else, ``rehearsal()`` whenever the agent orders it.
    """

    def __init__(
        self,
        path: str,
        kernel: Any,
        first: Optional[Callable[[], None]] = None,
        rehearsal: Optional[Callable[[], None]] = None,
    ) -> None:
        self._kernel = kernel
        self._first = first
        self._rehearsal = rehearsal
        self._main = MainThread()
        self._main.install()
        self._parked: Optional[Call] = None
        self._received = bytearray()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)
        # This descriptor's own number tells the agent that a read of it is the one that holds the lock.
        self._held_fd = os.dup(self._socket.fileno())
        self._thread = threading.Thread(target=self._serve, name="fc_kernel", daemon=True)

    def start(self) -> None:
        """Tell the agent that the kernel is ready, and serve."""
        self._thread.start()

    def _serve(self) -> None:
        # Other threads take the process's signals: here, a signal would end the read below.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        if self._first is not None:
            self._first()
        self._send({"op": operations.THREAD_READY, "tid": threading.get_native_id(), "fd": self._held_fd})
        while True:
            orders = self._next()
            if orders is None:
                return
            if orders["op"] == operations.PREPARE:
                self._prepare(orders)
                continue
            if orders["op"] == operations.RENEW:
                self._renew(orders)
            self._let_go()
            if orders["op"] == operations.REHEARSE and self._rehearsal is not None:
                self._rehearsal()
                self._send({"op": operations.REHEARSED, "turn": orders["turn"]})

    def _send(self, message: dict[str, Any]) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _next(self, *, held: bool = False) -> Optional[dict[str, Any]]:
        """The agent's next line; ``held`` holds the interpreter's lock while waiting. ``None`` when the agent is gone."""
        buffer = ctypes.create_string_buffer(READ_BYTES) if held else None
        while b"\n" not in self._received:
            if buffer is not None:
                count = _read(self._held_fd, buffer, READ_BYTES)
                data = buffer.raw[:count] if count > 0 else b""
            else:
                data = self._socket.recv(READ_BYTES)
            if not data:
                return None
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        orders: dict[str, Any] = json.loads(line)
        return orders

    def _prepare(self, orders: dict[str, Any]) -> None:
        """Run the hooks, park the main thread, flush, answer, and wait for the next order with the lock held."""
        self._let_go()
        begin = time.monotonic()
        end = begin + SHARE_OF_HOOKS * float(orders["timeout_s"])
        run = hooks.on_snapshot.run if orders.get("hooks") else None
        call = self._parked = Call(run, then_park=True)
        self._main.start(call)
        if call.done.wait(max(0.0, end - time.monotonic())):
            errors = call.errors
        else:
            wanted = bool(run) and len(hooks.on_snapshot) > 0
            errors = ["on_snapshot: the hooks did not finish in time"] if wanted else []
        _flush(end)
        answer = {
            "op": operations.PREPARED,
            "turn": orders["turn"],
            "hook_errors": errors,
            "gil": _has_lock(),
            **self._position(),
        }
        self._send(answer)
        follow = self._next(held=True)
        requests.last_pause_s = time.monotonic() - begin
        if follow is not None and follow["op"] == operations.RENEW:
            self._renew(follow)
        self._let_go()

    def _position(self) -> dict[str, Any]:
        return {"execution_count": self._kernel.cell_number, "cell": self._kernel.serving}

    def _renew(self, orders: dict[str, Any]) -> None:
        """Renew the process, run the hooks on the main thread, let it go, and report the errors of the hooks."""
        interval = sys.getswitchinterval()
        # Meanwhile no thread gets a turn but those that were already waiting for one.
        sys.setswitchinterval(1.0)
        try:
            remarks = renew(getattr(self._kernel, "session", None), orders)
        except Exception as error:  # noqa: BLE001 - the kernel must continue, and the host be told of any error
            remarks = [f"renewal: {type(error).__name__}: {error}"]
        finally:
            sys.setswitchinterval(interval)
        if orders.get("hooks") and len(hooks.on_restore):
            call = Call(hooks.on_restore.run, then_park=False)
            if self._parked is not None and self._parked.done.is_set():
                self._let_go(call)
            else:
                self._let_go()
                self._main.start(call)
            if call.done.wait(float(orders["timeout_s"])):
                remarks += call.errors
            else:
                remarks.append("on_restore: the hooks did not finish in time")
        self._let_go()
        self._send({"op": operations.RENEWED, "turn": orders["turn"], "hook_errors": remarks})

    def _let_go(self, more: Optional[Call] = None) -> None:
        parked, self._parked = self._parked, None
        if parked is not None:
            parked.release(more)


def _has_lock() -> bool:
    """Whether this interpreter has a global lock at all."""
    enabled = getattr(sys, "_is_gil_enabled", None)
    return enabled is None or bool(enabled())


def _flush(end: float) -> None:
    """Send all output that was produced so far, unless the reader is too slow."""
    for stream in (sys.stdout, sys.stderr):
        sender = getattr(stream, "pub_thread", None)
        if sender is None or sender.thread is None or not sender.thread.is_alive():
            continue
        sent = threading.Event()
        sender.schedule(stream._flush)  # type: ignore[union-attr]
        sender.schedule(sent.set)
        sent.wait(max(0.0, end - time.monotonic()))
