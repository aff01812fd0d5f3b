"""The requests that wait for a reply or for their idle status, and which of them can be sent again. No I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

#: "Run all" of a long notebook queues some hundred; past the limit the oldest get no answer when the kernel dies.
MAX_REQUESTS = 10_000
#: Up to this size requests that wait for their turn are kept whole, to be sent again after a restore by a cell.
MAX_KEPT_BYTES = 16 << 20


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
    #: Whether the kernel has begun with it: it said that it is busy.
    begun: bool = False
    #: The whole message, empty if it was too large to keep, and what :func:`~fc_kernel.channels.signing.split` returned for it.
    frames: list[Any] = field(default_factory=list)
    delimiter: int = 0
    size: int = 0


def request_of(
    channel: str, identities: Sequence[bytes | memoryview], header: dict[str, Any], raw: bytes | memoryview
) -> Request | None:
    """The request that a message makes, from its header and the header's bytes; ``None`` if it expects no reply."""
    msg_id, kind = header.get("msg_id"), header.get("msg_type")
    if not isinstance(msg_id, str) or not isinstance(kind, str) or not kind.endswith("_request"):
        return None
    return Request(channel, [bytes(each) for each in identities], msg_id, kind.removesuffix("_request"), bytes(raw))


class InFlight:
    """Requests by message id, in the order of their arrival."""

    def __init__(self) -> None:
        self._requests: OrderedDict[str, Request] = OrderedDict()
        self._kept_bytes = 0
        self._forgot = False

    def __len__(self) -> int:
        return len(self._requests)

    def sent(self, request: Request, frames: list[Any] | None = None, delimiter: int = 0) -> None:
        """Note a request that a client sent; ``frames`` is the whole message if it should be kept."""
        if (twin := self._requests.pop(request.msg_id, None)) is not None:
            self._let_go(twin)
        self._requests[request.msg_id] = request
        if frames is not None:
            size = sum(map(len, frames))
            if self._kept_bytes + size <= MAX_KEPT_BYTES:
                request.frames, request.delimiter, request.size = frames, delimiter, size
                self._kept_bytes += size
        if len(self._requests) > MAX_REQUESTS:
            self._let_go(self._requests.popitem(last=False)[1])
            self._forgot = True

    def replied(self, parent: dict[str, Any]) -> bool:
        """Note the kernel's reply to the request with this header; returns whether a client waits for it."""
        request = self._of(parent)
        if request is None or request.replied:
            # It may be one of the requests that were forgotten.
            return request is None and self._forgot
        request.replied = True
        self._end(request)
        return True

    def busy(self, parent: dict[str, Any]) -> None:
        """Note that the kernel has begun with a request."""
        if (request := self._of(parent)) is not None and not request.begun:
            request.begun = True
            self._let_go(request)

    def idle(self, parent: dict[str, Any]) -> None:
        """Note the idle status for a request; the reply may come before or after it, on another channel."""
        if (request := self._of(parent)) is not None:
            request.idle = True
            self._end(request)

    def ended(self, parent: dict[str, Any]) -> bool:
        """Whether the request with this header is one that nobody waits for any more."""
        is_request = str(parent.get("msg_type")).endswith("_request")
        return is_request and not self._forgot and self._of(parent) is None

    def _of(self, parent: dict[str, Any]) -> Request | None:
        msg_id = parent.get("msg_id")
        return self._requests.get(msg_id) if isinstance(msg_id, str) else None

    def _end(self, request: Request) -> None:
        if request.replied and request.idle:
            del self._requests[request.msg_id]
            self._let_go(request)

    def _let_go(self, request: Request) -> None:
        self._kept_bytes -= request.size
        request.frames, request.size = [], 0

    def take_all(self) -> list[Request]:
        """Remove all requests and return them, oldest first."""
        requests = list(self._requests.values())
        self._requests.clear()
        self._kept_bytes = 0
        return requests
