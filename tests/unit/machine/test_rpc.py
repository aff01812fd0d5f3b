"""The control connection's codec and client: what the guest may send, and what becomes of the rest."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fc_kernel.errors import AgentError, AgentUnreachable, RemoteProtocolError
from fc_kernel.machine.rpc import RpcCodec, RpcConnection
from fc_kernel.wire.methods import MAX_LINE_BYTES

DEADLINE_S = 20.0


def test_lines_arrive_in_any_pieces() -> None:
    codec = RpcCodec()
    _, line = codec.request("ping", {"a": 1})
    assert json.loads(line) == {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"a": 1}}
    answer = b'{"id": 1, "result": {}}\n{"method": "x"}\n{"id"'
    got = [message for byte in answer for message in codec.receive_data(bytes([byte]))]
    assert got == [{"id": 1, "result": {}}, {"method": "x"}]


HOSTILE = {
    "no JSON": b"hello\n",
    "no object": b"[1]\n",
    "a number": b"1\n",
    "neither response nor notification": b"{}\n",
    "a request of its own": b'{"id": 1, "method": "give"}\n',
    "too deep": b"[" * 100_000 + b"\n",
    "bytes that are no text": b"\xff\xfe\n",
    "a line without end": b"x" * (MAX_LINE_BYTES + 1),
    "a long line": b"x" * (MAX_LINE_BYTES + 1) + b"\n",
    "a number of a million digits": b'{"id": ' + b"9" * 1_000_000 + b"}\n",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bytes_are_one_error(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="guest agent"):
        RpcCodec().receive_data(data)


class Guest:
    """The other end of a client's socket, and what the client reported."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
        self.socket = theirs
        self.notified: list[tuple[str, dict[str, Any]]] = []
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.client = RpcConnection(
            ours,
            on_notification=lambda method, params: self.notified.append((method, params)),
            on_lost=lambda reason, _fatal: self.lost.set_result(reason),
        )

    async def receive(self) -> dict[str, Any]:
        data = b""
        while not data.endswith(b"\n"):
            data += await asyncio.get_running_loop().sock_recv(self.socket, 65536)
        return json.loads(data)

    async def send(self, **message: Any) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, json.dumps(message).encode() + b"\n")


@pytest.fixture
async def guest() -> AsyncIterator[Guest]:
    guest = Guest()
    yield guest
    await guest.client.aclose()
    guest.socket.close()


async def test_a_call_and_its_answers(guest: Guest) -> None:
    call = asyncio.ensure_future(guest.client.call("ping", {"n": 1}, timeout_s=DEADLINE_S))
    request = await guest.receive()
    assert (request["method"], request["params"]) == ("ping", {"n": 1})
    await guest.send(method="kernel.exited", params={"instance": 1})
    await guest.send(method=7, params={})
    await guest.send(id=request["id"], result={"ok": True})
    assert await call == {"ok": True}
    assert guest.notified == [("kernel.exited", {"instance": 1})]


async def test_an_error_keeps_its_code(guest: Guest) -> None:
    call = asyncio.ensure_future(guest.client.call("kernel.start", {}, timeout_s=DEADLINE_S))
    request = await guest.receive()
    await guest.send(id=request["id"], error={"code": -32000, "message": "a kernel is running"})
    with pytest.raises(AgentError, match="a kernel is running") as caught:
        await call
    assert caught.value.code == -32000


async def test_answers_in_another_order(guest: Guest) -> None:
    calls = [asyncio.ensure_future(guest.client.call(name, {}, timeout_s=DEADLINE_S)) for name in ("a", "b")]
    received = b""
    while received.count(b"\n") < 2:
        received += await asyncio.get_running_loop().sock_recv(guest.socket, 65536)
    for request in reversed([json.loads(line) for line in received.splitlines()]):
        await guest.send(id=request["id"], result=request["method"])
    assert await asyncio.gather(*calls) == ["a", "b"]


async def test_no_answer_in_time(guest: Guest) -> None:
    with pytest.raises(AgentUnreachable, match=r"ping.*within 0\.05 s"):
        await guest.client.call("ping", {}, timeout_s=0.05)
    # A late answer is not a breach.
    request = await guest.receive()
    await guest.send(id=request["id"], result={})
    call = asyncio.ensure_future(guest.client.call("ping", {}, timeout_s=DEADLINE_S))
    second = await guest.receive()
    await guest.send(id=second["id"], result="here")
    assert await call == "here"


async def test_an_answer_that_nobody_asked_for_ends_the_connection(guest: Guest) -> None:
    await guest.send(id=17, result={})
    assert "a call that nobody made" in await asyncio.wait_for(guest.lost, DEADLINE_S)
    with pytest.raises(AgentUnreachable, match="gone"):
        await guest.client.call("ping", {}, timeout_s=DEADLINE_S)


async def test_who_waits_is_told_of_a_broken_connection(guest: Guest) -> None:
    call = asyncio.ensure_future(guest.client.call("ping", {}, timeout_s=DEADLINE_S))
    await guest.receive()
    guest.socket.close()
    with pytest.raises(AgentUnreachable, match="gone"):
        await call
    assert await asyncio.wait_for(guest.lost, DEADLINE_S)
