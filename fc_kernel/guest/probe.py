"""Finds out whether a kernel without our thread has served all its requests, by a request of the agent behind all others.

The key of such a kernel cannot be changed, so a request that waits in it when it is saved would run in every machine that is
loaded from the snapshot. So it is saved only when none waits. Python 3.9, pyzmq.
"""

from __future__ import annotations

import hmac
import json
import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Callable, Union

if TYPE_CHECKING:
    from .relay import Relay

#: Any kernel answers this at any time, and it changes nothing.
REQUEST = "kernel_info_request"
DELIMITER = b"<IDS|MSG>"
#: The delimiter is looked for among this many parts, as on the host.
MAX_IDENTITIES = 17


class Probe:
    """Asks on the shell channel; ``idle()`` is called when the kernel has answered. Clients see nothing of this."""

    def __init__(self, shell: Relay, iopub: Relay, key: str, idle: Callable[[], None]) -> None:
        self._id = secrets.token_hex(16)
        self._shell, self._iopub = shell, iopub
        self._idle = idle
        shell.intercept = self._reply
        iopub.intercept = self._status
        shell.ask(self._request(key))

    def _request(self, key: str) -> list[bytes]:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        header = {"msg_id": self._id, "session": self._id, "username": "agent", "date": now}
        parts = [json.dumps(each).encode() for each in ({**header, "msg_type": REQUEST, "version": "5.3"}, {}, {}, {})]
        mac = hmac.new(key.encode(), b"".join(parts), "sha256").hexdigest().encode() if key else b""
        return [DELIMITER, mac, *parts]

    def _reply(self, parts: Sequence[Union[bytes, memoryview]]) -> bool:
        ours = self._is_about_us(parts)
        if ours:
            self._shell.intercept = None
            self._idle()
        return ours

    def _status(self, parts: Sequence[Union[bytes, memoryview]]) -> bool:
        ours = self._is_about_us(parts)
        if ours and b'"idle"' in bytes(parts[-1][-100:]):
            self._iopub.intercept = None
        return ours

    def _is_about_us(self, parts: Sequence[Union[bytes, memoryview]]) -> bool:
        """Whether the parent header, three parts after the delimiter, names our request."""
        heads = [bytes(part[:16]) for part in parts[:MAX_IDENTITIES]]
        at = heads.index(DELIMITER) + 3 if DELIMITER in heads else len(parts)
        return at < len(parts) and self._id.encode() in bytes(parts[at])

    def close(self) -> None:
        """Stop waiting for the answer; if it still comes, clients do not see it."""
        self._idle = _nothing


def _nothing() -> None:
    pass
