"""The guest's end of the control connection: what the host asks, and what it may send by mistake."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fc_kernel.errors import RemoteProtocolError
from fc_kernel.guest.control import Control, RpcError
from fc_kernel.wire.methods import MAX_LINE_BYTES


class Stream:
    """Takes what there is room for."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.sent = b""
        self.closed = False
        self.reason = ""

    def send(self, buffers: Any) -> int:
        data = b"".join(buffers)[: self.room]
        self.sent += data
        self.room -= len(data)
        return len(data)

    def end(self) -> None:
        self.close("ended")

    def close(self, reason: str = "closed") -> None:
        self.closed, self.reason = True, reason

    @property
    def answers(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.sent.splitlines()]


class Host:
    """Feeds a control handler, and keeps what was called."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.replies: list[Callable[[object], None]] = []
        self.control = Control(self._call)
        self.stream = Stream()
        self.control.connected(self.stream)

    def _call(self, method: str, params: dict[str, Any], reply: Callable[[object], None]) -> None:
        self.calls.append((method, params))
        if method == "later":
            self.replies.append(reply)
        elif method == "refuse":
            raise RpcError(-32000, "no")
        elif method == "key":
            params["missing"]
        else:
            reply({"echo": params})

    def send(self, data: bytes, piece: int = 1 << 16) -> None:
        for start in range(0, len(data), piece):
            part = data[start : start + piece]
            self.control.get_buffer()[: len(part)] = part
            self.control.buffer_updated(len(part))


def line(number: object, method: object = "ping", **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode() + b"\n"


@pytest.mark.parametrize("piece", [1, 7, 1 << 16])
def test_requests_are_answered_in_any_pieces(piece: int) -> None:
    host = Host()
    host.send(line(1, a=1) + line("two", "refuse") + line(3, "key") + line(4, "ping"), piece)
    one, two, three, four = host.stream.answers
    assert one == {"jsonrpc": "2.0", "id": 1, "result": {"echo": {"a": 1}}}
    assert (two["id"], two["error"]) == ("two", {"code": -32000, "message": "no"})
    assert three["error"]["code"] == -32602
    assert "missing" in three["error"]["message"]
    assert four["result"] == {"echo": {}}


NO_REQUESTS = [
    b"rubbish\n", b"\n", b"[]\n", b"1\n", b"{}\n", b'{"id": 1}\n', b'{"id": 1, "method": 5}\n', b"[" * 60_000 + b"\n",
    b'{"id": [1], "method": "ping"}\n', b'{"id": 1, "method": "ping", "params": []}\n', b"\xff\xfe\n",
    b'{"id": ' + b"9" * 9999 + b', "method": "ping"}\n',
]  # fmt: skip


@pytest.mark.parametrize("data", NO_REQUESTS)
def test_what_is_no_request_is_said_to_be_none(data: bytes) -> None:
    host = Host()
    host.send(data + line(1))
    refused, answered = host.stream.answers
    assert (refused["id"], refused["error"]["code"]) == (None, -32600)
    assert answered["result"] == {"echo": {}}


def test_a_line_without_end_breaks_the_connection() -> None:
    host = Host()
    with pytest.raises(RemoteProtocolError, match=f"more than {MAX_LINE_BYTES} bytes"):
        host.send(b"x" * (MAX_LINE_BYTES + (1 << 16) + 1))
    assert host.calls == []


@settings(max_examples=500, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=30), st.just(line(1)), st.just(b"\n")), max_size=8).map(b"".join))
def test_any_bytes_are_answered_or_break_the_connection_whole_or_bytewise(data: bytes) -> None:
    outcomes = []
    for piece in (1, 1 << 16):
        host = Host()
        host.send(data, piece)
        outcomes.append((host.calls, host.stream.answers))
    assert outcomes[0] == outcomes[1]


def test_a_late_answer_goes_to_who_asked_and_to_no_other() -> None:
    host = Host()
    host.send(line(1, "later") + line(2, "later"))
    first, second = host.replies
    second({"late": 2})
    assert host.stream.answers == [{"jsonrpc": "2.0", "id": 2, "result": {"late": 2}}]
    host.control.lost("gone")
    newer = Stream()
    host.control.connected(newer)
    first({"late": 1})
    assert newer.sent == b""


def test_a_newer_connection_replaces_an_older_one() -> None:
    host = Host()
    host.send(line(1)[:-5])
    newer = Stream()
    host.control.connected(newer)
    assert host.stream.closed
    assert host.stream.reason == "replaced by a new connection"
    host.send(line(2))
    assert [answer["id"] for answer in newer.answers] == [2]


def test_notifications_need_a_listener() -> None:
    host = Host()
    host.control.notify("kernel.exited", {"instance": 1})
    assert host.stream.answers == [{"jsonrpc": "2.0", "method": "kernel.exited", "params": {"instance": 1}}]
    host.control.lost("gone")
    host.control.notify("kernel.exited", {"instance": 2})
    newer = Stream()
    host.control.connected(newer)
    assert newer.sent == b""


def test_what_the_stream_does_not_take_follows_in_order() -> None:
    rng = random.Random(3)
    host = Host()
    host.stream.room = 0
    for number in range(20):
        host.send(line(number))
    while host.stream.sent.count(b"\n") < 20:
        host.stream.room = rng.randrange(1, 50)
        host.control.writable()
    assert [answer["id"] for answer in host.stream.answers] == list(range(20))
