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
    msg_id: str
    #: ``execute`` for an ``execute_request``.
    kind: str
    #: The header part as the client sent it: an answer carries it back unchanged.
    header: bytes
    replied: bool = False
    idle: bool = False


def request_of(
    channel: str, identities: Sequence[bytes | memoryview], header: dict[str, Any], raw: bytes | memoryview
) -> Request | None:
    """The request that a message is, by its header and that header's bytes; ``None`` if it expects no reply."""
    msg_id, kind = header.get("msg_id"), header.get("msg_type")
    if not isinstance(msg_id, str) or not isinstance(kind, str) or not kind.endswith("_request"):
        return None
    return Request(channel, [bytes(each) for each in identities], msg_id, kind.removesuffix("_request"), bytes(raw))


class InFlight:
    """Requests by message id, in the order of their coming."""

    def __init__(self) -> None:
        self._requests: OrderedDict[str, Request] = OrderedDict()

    def __len__(self) -> int:
        return len(self._requests)

    def sent(self, request: Request) -> None:
        """A client sent a request."""
        self._requests[request.msg_id] = request
        if len(self._requests) > MAX_REQUESTS:
            self._requests.popitem(last=False)

    def replied(self, parent: dict[str, Any]) -> None:
        """The kernel replied to the request with this header."""
        self._saw(parent, reply=True)

    def idle(self, parent: dict[str, Any]) -> None:
        """The kernel's status for a request is idle; its reply may come before or after, on another channel."""
        self._saw(parent, reply=False)

    def _saw(self, parent: dict[str, Any], *, reply: bool) -> None:
        msg_id = parent.get("msg_id")
        request = self._requests.get(msg_id) if isinstance(msg_id, str) else None
        if request is None:
            return
        if reply:
            request.replied = True
        else:
            request.idle = True
        if request.replied and request.idle:
            del self._requests[request.msg_id]

    def take_all(self) -> list[Request]:
        """All that wait, oldest first; afterwards none does."""
        requests = list(self._requests.values())
        self._requests.clear()
        return requests
