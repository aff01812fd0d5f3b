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
        request = self._requests.get(parent.get("msg_id", ""))
        if request is not None:
            request.replied = True

    def idle(self, parent: dict[str, Any]) -> None:
        """The kernel is done with a request: its status is idle."""
        msg_id = parent.get("msg_id", "")
        request = self._requests.get(msg_id)
        if request is not None and request.replied:
            del self._requests[msg_id]
        elif request is not None:
            # The reply may come after the idle status, on another channel.
            self._requests.move_to_end(msg_id, last=False)

    def take_all(self) -> list[Request]:
        """All that wait, oldest first; afterwards none does."""
        requests = list(self._requests.values())
        self._requests.clear()
        return requests
