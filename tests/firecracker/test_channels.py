"""What the bare-metal guest does with bytes that are no messages: it breaks the connection off and lives on."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from fc_kernel.host.engine import Engine
from fc_kernel.machine.dial import dial
from fc_kernel.vmm.firecracker.program import FirecrackerProgram
from fc_kernel.wire import frames
from fc_kernel.wire.frames import HEADER
from fc_kernel.wire.ports import CHANNEL_PORTS, CONTROL_PORT

from .client import DEADLINE_S
from .machine import Guest

pytestmark = pytest.mark.firecracker

GENERATION = 7
HELLO = HEADER.pack(frames.MAGIC, frames.HELLO, 0, GENERATION, 0, 0)
#: Of a message; the guest holds one of 64 KiB.
TOO_MUCH = 65537


def data(*parts: bytes, generation: int = GENERATION, seq: int = 1, ack: int = 0) -> bytes:
    return b"".join(bytes(each) for each in frames.encode(frames.DATA, generation, seq, ack, parts))


@pytest.fixture(scope="module")
def guest(program: FirecrackerProgram, bare_metal_guest: Path) -> Iterator[Guest]:
    engine = Engine()
    guest = Guest(engine, program, bare_metal_guest).boot()
    guest.start_kernel()
    yield guest
    guest.close()
    engine.close()


@pytest.fixture(scope="module")
def generations() -> Iterator[int]:
    return itertools.count(GENERATION)


def answer(guest: Guest, port: int, sent: bytes, until: bytes | None = None) -> bytes:
    """What the guest says until it breaks the connection off, or has said that."""

    async def talk() -> bytes:
        loop = asyncio.get_running_loop()
        said = b""
        with await dial(guest.vmm.uds_path, port) as sock:
            try:
                await loop.sock_sendall(sock, sent)
                while part := await asyncio.wait_for(loop.sock_recv(sock, 4096), DEADLINE_S):
                    said += part
                    if until is not None and until in said:
                        break
            except (ConnectionResetError, BrokenPipeError):
                pass
        return said

    return guest.engine.run_blocking(talk())


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: guest\r\n",
        data(b"before the greeting"),
        HEADER.pack(frames.MAGIC, frames.HELLO, 1, GENERATION, 0, 0),
        HEADER.pack(frames.MAGIC, frames.HELLO, 0, GENERATION, 0, 1),
        HELLO + HELLO,
        HELLO + HEADER.pack(frames.MAGIC, 9, 0, GENERATION, 0, 0),
        HELLO + HEADER.pack(frames.MAGIC, frames.DATA, 33, GENERATION, 1, 0),
        HELLO + HEADER.pack(frames.MAGIC, frames.DATA, 0, GENERATION, 1, 0),
        HELLO + data(b"x", generation=GENERATION + 1),
        HELLO + data(b"x", seq=2),
        HELLO + data(b"x", ack=1),
        HELLO + data(bytes(TOO_MUCH)),
        HELLO + HEADER.pack(frames.MAGIC, frames.DATA, 2, GENERATION, 1, 0) + b"\xff" * 8,
    ],
)
def test_no_frames(guest: Guest, sent: bytes) -> None:
    said = answer(guest, CHANNEL_PORTS["stdin"], sent)
    assert said in (b"", HELLO)
    assert guest.ask("ping") == {}


@pytest.mark.parametrize(
    "parts",
    [
        [b"x"],
        [b""],
        [b"<IDS|MSG>", b"", b"{}", b"{}", b"{}"],
        [b"<IDS|MSG>", b"", b"{}", b"{}", b"{}", b"{}"],
        [b"<IDS|MSG>", b"", b'{"msg_id": "1", "msg_type": "execute_request"', b"{}", b"{}", b"{}"],
        [b"<IDS|MSG>", b"", b"[" * 9999, b"{}", b"{}", b"{}"],
        [bytes(600), b"<IDS|MSG>", b"", b'{"msg_id": "1", "msg_type": "execute_request"}', b"{}", b"{}", b"{}"],
        [b"<IDS|MSG>", b"", b'{"msg_id": "1", "msg_type": "execute_request"}', b"{}", b"{}", b'{"code": "\\u12'],
    ],
)
def test_no_messages(guest: Guest, parts: list[bytes], generations: Iterator[int]) -> None:
    """They are dropped, and the request that follows is answered."""
    generation = next(generations)
    request = [b"<IDS|MSG>", b"", b'{"msg_id": "1", "msg_type": "kernel_info_request"}', b"{}", b"{}", b"{}"]
    sent = HEADER.pack(frames.MAGIC, frames.HELLO, 0, generation, 0, 0)
    sent += data(*parts, generation=generation) + data(*request, generation=generation, seq=2)
    assert b"kernel_info_reply" in answer(guest, CHANNEL_PORTS["control"], sent, until=b'"language_info"')
    assert guest.ask("kernel.status")["running"]


def test_no_requests(guest: Guest) -> None:
    """The control connection has one host; whoever dials next is it."""
    for sent in (
        b"hello\n",
        b"{}\n",
        b'{"id": {}, "method": "ping"}\n',
        b'{"id": 1, "method": "hello", "params": []}\n',
    ):
        said = answer(guest, CONTROL_PORT, sent + bytes(TOO_MUCH))
        assert b'"error"' in said
    guest.engine.run_blocking(guest.dial())
    assert guest.ask("ping") == {}
