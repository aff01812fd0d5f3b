"""Dialling the guest: one connection, again and again, and all or none."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fc_kernel.channels.endpoints import ClientEndpoints
from fc_kernel.errors import AgentUnreachable, RemoteProtocolError, StateError
from fc_kernel.machine import dial as dial_module
from fc_kernel.machine.dial import dial, dial_all, dial_until
from fc_kernel.machine.links import Links
from fc_kernel.sessions import wiring as wiring_module
from fc_kernel.sessions.wiring import Wiring
from fc_kernel.vmm.base import Capability
from fc_kernel.wire.ports import CHANNEL_PORTS, CONTROL_PORT

from ...waiting import until

DEADLINE_S = 30.0


class Listener:
    """A hybrid-vsock socket whose answers the test decides by port; ``None`` closes, ``b""`` stays silent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[int, bytes | None] = {}
        self.asked: list[int] = []
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        line = await reader.readline()
        port = int(line.split()[1])
        self.asked.append(port)
        answer = self.answers.get(port)
        if answer is None:
            writer.close()
        else:
            writer.write(answer)

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await self._server.wait_closed()


@pytest.fixture
async def listener(tmp_path: Path) -> AsyncIterator[Listener]:
    listener = Listener(tmp_path / "v.sock")
    await listener.start()
    yield listener
    await listener.close()


async def test_what_follows_the_answer_belongs_to_the_stream(listener: Listener) -> None:
    listener.answers[1000] = b"OK 5\nthe first words"
    sock = await dial(listener.path, 1000)
    assert not sock.getblocking()
    assert await asyncio.get_running_loop().sock_recv(sock, 100) == b"the first words"
    sock.close()


async def test_a_port_that_nobody_listens_on(listener: Listener) -> None:
    with pytest.raises(ConnectionRefusedError, match="does not listen on port 7"):
        await dial(listener.path, 7)


async def test_no_socket_at_all(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await dial(tmp_path / "none.sock", 7)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400\r\n", b"OK\n", b"x" * 100, b"OK -1\n"])
async def test_an_answer_that_is_none(listener: Listener, answer: bytes) -> None:
    listener.answers[7] = answer
    with pytest.raises(RemoteProtocolError, match="not a vsock handshake"):
        await dial(listener.path, 7)
    with pytest.raises(RemoteProtocolError):
        await dial_until(listener.path, 7)


async def test_again_and_again(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens, then somebody does not answer, then somebody does."""
    monkeypatch.setattr(dial_module, "TRY_TIMEOUT_S", 0.1)
    waiting = asyncio.ensure_future(dial_until(listener.path, 7))
    await until(lambda: len(listener.asked) >= 2)
    listener.answers[7] = b""
    seen = len(listener.asked)
    await until(lambda: len(listener.asked) >= seen + 2)
    assert not waiting.done()
    listener.answers[7] = b"OK 1\n"
    (await asyncio.wait_for(waiting, DEADLINE_S)).close()


async def test_a_cancelled_dial_closes_its_socket(listener: Listener) -> None:
    listener.answers[7] = b""
    dialling = asyncio.ensure_future(dial(listener.path, 7))
    await until(lambda: listener.asked == [7])
    dialling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dialling
    [writer] = listener._writers
    writer.write(b"x" * 100)
    await until(writer.is_closing)


async def test_all_or_none(listener: Listener) -> None:
    listener.answers = dict.fromkeys((1, 2, 3), b"OK 1\n")
    sockets = await dial_all(listener.path, {"a": 1, "b": 2, "c": 3})
    assert list(sockets) == ["a", "b", "c"]
    for sock in sockets.values():
        sock.close()
    with pytest.raises(AgentUnreachable, match="does not listen on port 4"):
        await dial_all(listener.path, {"a": 1, "b": 2, "d": 4})
    for writer in listener._writers:
        writer.write(b"x" * 100)
    await until(lambda: all(writer.is_closing() for writer in listener._writers))


class NeverExits:
    """As much of a monitor as dialling wants."""

    def __init__(self, uds_path: Path) -> None:
        self.uds_path = uds_path
        self.capabilities = frozenset(Capability)

    async def wait(self) -> None:
        await asyncio.Event().wait()


def links_to(listener: Listener) -> Links:
    """To a guest whose agent takes the control connection, whatever becomes of the channels."""
    listener.answers.setdefault(CONTROL_PORT, b"OK 1\n")
    vmm: Any = NeverExits(listener.path)
    return Links(vmm, on_notification=lambda *_: None, on_lost=lambda *_: None)


class Losses:
    """Wiring for endpoints of its own, and what it said was lost."""

    def __init__(self, directory: Path) -> None:
        self.lost: list[tuple[str, bool]] = []
        self.wiring = Wiring(
            ClientEndpoints(transport="ipc", ip=str(directory / "k")),
            key=b"key",
            signature_scheme="hmac-sha256",
            on_lost=lambda reason, fatal: self.lost.append((reason, fatal)),
        )

    async def attach(self, listener: Listener) -> None:
        links = links_to(listener)
        try:
            await self.wiring.attach(links, guest_key=b"guest", generation=1)
        finally:
            await links.drop()


@pytest.fixture
async def losses(tmp_path: Path) -> AsyncIterator[Losses]:
    losses = Losses(tmp_path)
    yield losses
    await losses.wiring.aclose()


async def test_a_guest_that_takes_no_connection(
    losses: Losses, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring_module, "ANSWER_TIMEOUT_S", 0.2)
    listener.answers = dict.fromkeys(CHANNEL_PORTS.values(), b"")
    with pytest.raises(AgentUnreachable, match=r"took no connection within 0\.2 s"):
        await losses.attach(listener)


async def test_a_guest_that_greets_nobody(losses: Losses, listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring_module, "ANSWER_TIMEOUT_S", 0.2)
    listener.answers = dict.fromkeys(CHANNEL_PORTS.values(), b"OK 1\n")
    with pytest.raises(AgentUnreachable, match=r"attach: no answer within 0\.2 s"):
        await losses.attach(listener)
    await losses.wiring.detach("it never answered")


async def test_a_guest_that_greets_with_rubbish(losses: Losses, listener: Listener) -> None:
    listener.answers = dict.fromkeys(CHANNEL_PORTS.values(), b"OK 1\n" + bytes(100))
    with pytest.raises(AgentUnreachable, match=r"attach: the guest did not greet: .*not a frame"):
        await losses.attach(listener)
    await until(lambda: losses.lost)
    assert [fatal for _reason, fatal in losses.lost] == [True]


async def test_a_cancelled_attach_is_cancelled(losses: Losses, listener: Listener) -> None:
    listener.answers = dict.fromkeys(CHANNEL_PORTS.values(), b"")
    attaching = asyncio.ensure_future(losses.attach(listener))
    await until(lambda: len(listener.asked) > len(CHANNEL_PORTS))
    attaching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attaching


async def test_closed_endpoints(losses: Losses, listener: Listener) -> None:
    await losses.wiring.aclose()
    await losses.wiring.aclose()
    await losses.wiring.detach("nobody is told")
    listener.answers = dict.fromkeys(CHANNEL_PORTS.values(), b"OK 1\n")
    with pytest.raises(StateError, match="closed"):
        await losses.wiring.link()
    with pytest.raises(StateError, match="closed"):
        await losses.attach(listener)
