"""What a hostile guest can do on the control connection: end it, and neither raise anything else nor have the loop."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fc_kernel.errors import AgentUnreachable, RemoteProtocolError
from fc_kernel.machine import rpc
from fc_kernel.machine.rpc import RpcCodec, RpcConnection
from fc_kernel.wire.methods import MAX_LINE_BYTES

DEADLINE_S = 30.0
VALID = [
    b'{"jsonrpc": "2.0", "id": 1, "result": {"a": [1, 2, {"b": null}]}}\n',
    b'{"jsonrpc": "2.0", "id": 2, "error": {"code": -32000, "message": "no"}}\n',
    b'{"jsonrpc": "2.0", "method": "kernel.exited", "params": {"instance": 1, "returncode": -9}}\n',
]


def outcome(pieces: list[bytes]) -> object:
    """The messages, or that the bytes are a breach."""
    codec = RpcCodec()
    messages = []
    try:
        for piece in pieces:
            messages += codec.receive_data(piece)
    except RemoteProtocolError:
        return "breach"
    return repr(messages)


def assert_whole_is_bytewise(data: bytes) -> None:
    assert outcome([data]) == outcome([data[i : i + 1] for i in range(len(data))])


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=20), st.sampled_from([*VALID, b"\n"])), max_size=6).map(b"".join))
def test_any_bytes_parse_or_are_a_breach_whole_or_bytewise(data: bytes) -> None:
    assert_whole_is_bytewise(data)


def test_mutated_sessions_parse_or_are_a_breach() -> None:
    rng = random.Random(20)
    breaches = 0
    for _ in range(2000):
        data = bytearray(b"".join(rng.choices(VALID, k=3)))
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
        assert_whole_is_bytewise(bytes(data))
        breaches += outcome([bytes(data)]) == "breach"
    assert 300 < breaches < 2000


def test_a_line_that_dribbles_in_is_not_read_again_and_again() -> None:
    """A megabyte, byte by byte: what has been seen is not copied for each."""
    codec = RpcCodec()
    for _ in range(MAX_LINE_BYTES):
        assert codec.receive_data(b"x") == []
    with pytest.raises(RemoteProtocolError, match="a line of more than"):
        codec.receive_data(b"x")


class Flood:
    """A guest that sends the same for ever, from a thread of its own."""

    def __init__(self, data: bytes) -> None:
        self.ours, self._theirs = socket.socketpair()
        self.ours.setblocking(False)
        self._thread = threading.Thread(target=self._send, args=(data,), name="hostile-guest")
        self._thread.start()

    def _send(self, data: bytes) -> None:
        try:
            while True:
                self._theirs.sendall(data)
        except OSError:
            return

    def close(self) -> None:
        self._theirs.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._theirs.close()


@pytest.fixture
def flooding() -> Iterator[Any]:
    floods = []

    def start(data: bytes) -> Flood:
        floods.append(Flood(data))
        return floods[-1]

    yield start
    for flood in floods:
        flood.close()


@pytest.mark.parametrize(
    "data", [VALID[2] * 500, b'{"id": 1, "result": 1}\n' * 1000], ids=["notifications", "answers that nobody awaits"]
)
async def test_a_flood_ends_the_connection(flooding: Any, data: bytes) -> None:
    lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    seen: list[str] = []
    client = RpcConnection(
        flooding(data).ours,
        on_notification=lambda method, _params: seen.append(method),
        on_lost=lambda reason, _fatal: lost.set_result(reason),
    )
    client._codec.request("ping", {})  # so that an answer with the number 1 is one to a question
    assert f"over {rpc.MAX_UNAWAITED} unasked messages" in await asyncio.wait_for(lost, DEADLINE_S)
    assert len(seen) <= rpc.MAX_UNAWAITED
    with pytest.raises(AgentUnreachable):
        await client.call("ping", {}, timeout_s=DEADLINE_S)
    await client.aclose()


async def test_others_have_the_loop_too(flooding: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast a guest sends: between two reads of it everybody else has had a turn."""
    monkeypatch.setattr(rpc, "MAX_UNAWAITED", 1 << 60)
    seen = 0

    def count(_method: str, _params: dict[str, Any]) -> None:
        nonlocal seen
        seen += 1

    client = RpcConnection(flooding(VALID[2] * 500).ours, on_notification=count, on_lost=lambda _reason, _fatal: None)
    turns = 0
    while seen < 20_000:
        before = seen
        await asyncio.sleep(0)
        assert seen - before <= 2 * rpc.READ_BYTES // len(VALID[2]) + 2
        turns += 1
    assert turns >= 20_000 * len(VALID[2]) // (2 * rpc.READ_BYTES)
    await client.aclose()


async def test_an_answer_may_be_anything(flooding: Any) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    client = RpcConnection(ours, on_notification=lambda *_: None, on_lost=lambda _reason, _fatal: None)
    loop = asyncio.get_running_loop()
    results: list[Any] = [None, True, [], "text", 1e999, {"a": 10**4000}]
    for result in results:
        call = asyncio.ensure_future(client.call("ping", {}, timeout_s=DEADLINE_S))
        number = json.loads(await loop.sock_recv(theirs, 4096))["id"]
        await loop.sock_sendall(theirs, json.dumps({"id": number, "result": result}).encode() + b"\n")
        assert await call == result
    await client.aclose()
    theirs.close()
