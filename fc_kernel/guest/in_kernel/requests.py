"""A cell's requests to the host, through the guest agent: one connection, one line there, one line back."""

from __future__ import annotations

import json
import os
import socket
from typing import Any, Optional

from fc_kernel.wire.operations import AGENT_SOCKET_VARIABLE, ROLE_SOURCE

NOT_HERE = "this kernel does not run in a microVM; choose the kernel “Python (microVM)”"
READ_BYTES = 1 << 16
#: Far more than a list of many snapshots takes, which is some kilobytes.
MAX_ANSWER_BYTES = 16 << 20

#: How long the kernel was paused for the last snapshot, in seconds by its own clock.
last_pause_s = 0.0


class RequestError(RuntimeError):
    """The host refused, or there is no host; the message is one line and says why."""


class CellEnded(BaseException):
    """Ends a cell whose VM was restored from a snapshot that the cell itself had taken. It is not an error.

    The rest of the cell has run already, in the VM that the snapshot was taken of.
    """

    def _render_traceback_(self) -> list[str]:
        return []


def request(op: str, *, timeout_s: Optional[float] = None, **args: Any) -> dict[str, Any]:
    """The host's answer; raises :class:`RequestError`. An interrupt while waiting withdraws the request."""
    path = os.environ.get(AGENT_SOCKET_VARIABLE)
    if not path:
        raise RequestError(NOT_HERE)
    line = json.dumps({"op": op, "args": args, "parent": _parent_id()}).encode() + b"\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.connect(path)
            sock.sendall(line)
            received = bytearray()
            # While this waits, other threads and the channels run, and an interrupt ends it.
            while not received.endswith(b"\n"):
                data = sock.recv(READ_BYTES)
                if not data or len(received) > MAX_ANSWER_BYTES:
                    raise RequestError("the guest agent did not answer")
                received += data
        except OSError as error:
            # Timeouts are OSErrors too.
            raise RequestError(f"the guest agent cannot be reached: {error.strerror or error}") from error
    answer = json.loads(received)
    if "error" in answer:
        raise RequestError(" ".join(str(answer["error"]).split()))
    result: dict[str, Any] = answer["result"]
    if result.get("role", ROLE_SOURCE) != ROLE_SOURCE:
        raise CellEnded(result.get("name"))
    return result


def _parent_id() -> Optional[str]:
    """The ID of the request that is being executed."""
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    kernel: Any = getattr(shell, "kernel", None)
    try:
        msg_id = kernel.get_parent("shell")["header"]["msg_id"]
    except (AttributeError, KeyError, TypeError):
        return None
    return msg_id if isinstance(msg_id, str) else None
