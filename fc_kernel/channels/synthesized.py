"""Answers in the kernel's place to requests that were lost with a guest, or that a restore has left behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .delivery import Delivery
from .inflight import InFlight, Request
from .signing import Composer

#: The error name in answers to the requests that a restore has left behind.
RESTORED = "KernelRestored"


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """How to answer the clients that wait for a kernel when it is restored.

    ``asker`` is the id of the request whose cell asked for it: it succeeds, with ``text`` as its output, and what waited
    behind it is sent to the restored kernel. Without one all waiting requests fail with ``reason``. ``silenced`` is the id
    of the request in whose cell the snapshot was taken; what the restored kernel says of it is dropped. With ``rekeyed``
    the restored kernel has a new key, and what it had signed before is dropped, too.
    """

    reason: str
    text: str = ""
    asker: str | None = None
    execution_count: int = 0
    silenced: str | None = None
    rekeyed: bool = False


class Answers:
    """Composes these answers and delivers them, on the switchboard's thread."""

    def __init__(self, composer: Composer, delivery: Mapping[str, Delivery]) -> None:
        self._compose = composer.message
        self._delivery = delivery

    def error(self, request: Request, ename: str, reason: str) -> None:
        """Answer a request with an error, and with the idle status that ends it."""
        error: dict[str, Any] = {"ename": ename, "evalue": reason, "traceback": [f"{ename}: {reason}"]}
        if not request.replied:
            content = {"status": "error", **error}
            if request.kind == "execute":
                self._publish("error", error, request)
                content.update(execution_count=0, user_expressions={}, payload=[])
            elif request.kind == "shutdown":
                content = {"status": "ok", "restart": False}
            self._reply(request, content)
        self._idle(request)

    def success(self, request: Request, text: str, execution_count: int) -> None:
        """Answer a cell's request with success and with ``text`` as its output."""
        if not request.replied:
            if text:
                self._publish("stream", {"name": "stdout", "text": text}, request)
            content = {"status": "ok", "execution_count": execution_count, "user_expressions": {}, "payload": []}
            self._reply(request, content)
        self._idle(request)

    def roll_back(self, in_flight: InFlight, rollback: Rollback) -> list[Request]:
        """Answer the waiting requests; returns those to send to the restored kernel, in their order."""
        behind = False
        again = []
        for request in in_flight.take_all():
            if request.msg_id == rollback.asker and request.kind == "execute":
                self.success(request, rollback.text, rollback.execution_count)
                behind = True
            elif behind and request.channel == "shell" and request.frames and not request.begun:
                again.append(request)
            else:
                self.error(request, RESTORED, rollback.reason)
        return again

    def _reply(self, request: Request, content: dict[str, Any]) -> None:
        reply = self._compose(f"{request.kind}_reply", content, request.header, request.identities)
        self._delivery[request.channel].send(reply)

    def _publish(self, kind: str, content: dict[str, Any], request: Request) -> None:
        self._delivery["iopub"].send(self._compose(kind, content, request.header, [kind.encode()]))

    def _idle(self, request: Request) -> None:
        self._publish("status", {"execution_state": "idle"}, request)
