"""Answers in the kernel's place: to requests that died with a guest, or that a restore has left behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .delivery import Delivery
from .inflight import InFlight, Request
from .signing import Composer

#: What a request that waits for no cell of its own is answered with, when a restore came from outside.
RESTORED = "KernelRestored"


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """A kernel is put back to an earlier state while clients wait for it.

    ``asker`` is the id of the request whose cell asked for it: it succeeds, with ``text`` as its output, and what waited
    behind it is sent to the restored kernel. Without one all that wait are told ``reason``. What the restored kernel says
    of the request ``silenced``, in whose cell the snapshot was taken, concerns nobody any more. With ``rekeyed`` it has
    another key since, and what it had signed before is of the past, too.
    """

    reason: str
    text: str = ""
    asker: str | None = None
    execution_count: int = 0
    silenced: str | None = None
    rekeyed: bool = False


class Answers:
    """Composes and delivers them, on the switchboard's thread."""

    def __init__(self, composer: Composer, delivery: Mapping[str, Delivery]) -> None:
        self._compose = composer.message
        self._delivery = delivery

    def error(self, request: Request, ename: str, reason: str) -> None:
        """An error, and the idle status that ends the request."""
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
        """A cell that did what it should, with a line of output."""
        if not request.replied:
            if text:
                self._publish("stream", {"name": "stdout", "text": text}, request)
            content = {"status": "ok", "execution_count": execution_count, "user_expressions": {}, "payload": []}
            self._reply(request, content)
        self._idle(request)

    def roll_back(self, in_flight: InFlight, rollback: Rollback) -> list[Request]:
        """Answer what waits; returns what is to be sent to the restored kernel, in its order."""
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
