"""The agent's end in the kernel's process: a thread that gets the process ready for a snapshot, and renews it after a restore.

While a snapshot is taken it waits for the agent's word in a read that keeps the interpreter's lock, so that no Python code
runs between the answer to the agent and that word. The main thread stands still until the thread lets it go; other threads
may run for a switch interval when the lock is free again.
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
#: Of the time for a freeze, what is kept for all that follows the hooks.
SHARE_OF_HOOKS = 0.7
#: A function of the C library that is called with the interpreter's lock held.
_read = ctypes.PyDLL(None).read


class AgentThread:
    """Serves the agent until the process ends. ``kernel`` is the ``ipykernel`` kernel.

    ``first()`` runs before all else, ``rehearsal()`` whenever the agent says so.
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
        # By its own number the agent tells the read with the lock from all others.
        self._held_fd = os.dup(self._socket.fileno())
        self._thread = threading.Thread(target=self._serve, name="fc_kernel", daemon=True)

    def start(self) -> None:
        """Tell the agent that the kernel is ready, and serve."""
        self._thread.start()

    def _serve(self) -> None:
        # Other threads take the process's signals: one would end the read below.
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
        """The agent's next line; ``held`` keeps the interpreter's lock meanwhile. ``None`` when the agent is gone."""
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
        """Run the hooks, park the main thread, flush, answer, and wait with the lock held for what comes next."""
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
            errors = ["on_snapshot: the hooks did not end in time"] if wanted else []
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
        requests.last_standstill_s = time.monotonic() - begin
        if follow is not None and follow["op"] == operations.RENEW:
            self._renew(follow)
        self._let_go()

    def _position(self) -> dict[str, Any]:
        return {"execution_count": self._kernel.cell_number, "cell": self._kernel.serving}

    def _renew(self, orders: dict[str, Any]) -> None:
        """Renew the process, let the main thread go by way of the hooks, and say how they fared."""
        interval = sys.getswitchinterval()
        # Nobody gets a turn meanwhile, but for those who had been waiting for one.
        sys.setswitchinterval(1.0)
        try:
            remarks = renew(getattr(self._kernel, "session", None), orders)
        except Exception as error:  # noqa: BLE001 - whatever it is, the kernel must go on, and the host hear of it
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
                remarks.append("on_restore: the hooks did not end in time")
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
    """Have what was printed and shown sent, unless the reader is too slow."""
    for stream in (sys.stdout, sys.stderr):
        sender = getattr(stream, "pub_thread", None)
        if sender is None or sender.thread is None or not sender.thread.is_alive():
            continue
        sent = threading.Event()
        sender.schedule(stream._flush)  # type: ignore[union-attr]
        sender.schedule(sent.set)
        sent.wait(max(0.0, end - time.monotonic()))
