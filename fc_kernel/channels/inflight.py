"""Which requests wait for a reply or for their idle status. No I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: "Run all" of a long notebook queues some hundred; past the limit the oldest are no longer answered at a death.
MAX_REQUESTS = 10_000


@dataclass
class Request:
    """One request of a client."""

    channel: str
    identities: list[bytes]
    header: dict[str, Any]
    replied: bool = False
    idle: bool = False

    @property
    def kind(self) -> str:
        """``execute`` for an ``execute_request``."""
        return str(self.header["msg_type"]).removesuffix("_request")


class InFlight:
    """Requests by message id, in the order of their coming."""

    def __init__(self) -> None:
        self._requests: OrderedDict[str, Request] = OrderedDict()

    def __len__(self) -> int:
        return len(self._requests)

    def sent(self, channel: str, identities: Sequence[bytes | memoryview], header: dict[str, Any]) -> None:
        """A client sent a message; only requests are kept."""
        msg_id, kind = header.get("msg_id"), header.get("msg_type")
        if isinstance(msg_id, str) and isinstance(kind, str) and kind.endswith("_request"):
            self._requests[msg_id] = Request(channel, [bytes(identity) for identity in identities], header)
            if len(self._requests) > MAX_REQUESTS:
                self._requests.popitem(last=False)

    def replied(self, parent: dict[str, Any]) -> None:
        """The kernel replied to a request."""
        self._saw(parent, "replied")

    def idle(self, parent: dict[str, Any]) -> None:
        """The kernel's status for a request is idle; its reply may come before or after, on another channel."""
        self._saw(parent, "idle")

    def _saw(self, parent: dict[str, Any], what: str) -> None:
        msg_id = parent.get("msg_id", "")
        request = self._requests.get(msg_id)
        if request is not None:
            setattr(request, what, True)
            if request.replied and request.idle:
                del self._requests[msg_id]

    def take_all(self) -> list[Request]:
        """All that wait, oldest first; afterwards none does."""
        requests = list(self._requests.values())
        self._requests.clear()
        return requests
