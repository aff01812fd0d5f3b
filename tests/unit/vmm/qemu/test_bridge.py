"""The bridge of the QEMU driver joined to the guest's end of the multiplexer: real sockets, both real event loops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fc_kernel.guest.mux_transport import MuxTransport
from fc_kernel.vmm.qemu import bridge
from fc_kernel.vmm.qemu.bridge import MuxBridge
from fc_kernel.wire import mux

from ....waiting import until
from ...guest_loop import GuestLoop, running_loop

DEADLINE_S = 30.0
ECHO, FLOOD, SHOWER = 2000, 2001, 2002
DROPS = [b"%019d\n" % number for number in range(4000)]


class Echo:
    """Sends back what it gets; like the agent's handlers it keeps what the stream does not take."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(1 << 16))
        self._waiting = bytearray()
        self.stream: Any = None

    def connected(self, stream: Any) -> None:
        self.stream = stream

    def get_buffer(self) -> memoryview:
        return self._buffer

    def buffer_updated(self, count: int) -> None:
        self._waiting += self._buffer[:count]
        self.writable()

    def writable(self) -> None:
        while self._waiting:
            sent = self.stream.send([bytes(self._waiting)])
            del self._waiting[:sent]
            if not sent:
                return

    def lost(self, _reason: str) -> None:
        self._waiting.clear()


class Flood(Echo):
    """Sends for ever, from the start, and counts."""

    taken = 0

    def connected(self, stream: Any) -> None:
        super().connected(stream)
        Flood.taken = 0
        self.writable()

    def writable(self) -> None:
        while sent := self.stream.send([bytes(1 << 16)]):
            Flood.taken += sent


class Shower(Echo):
    """More buffers in one call than one ``writev`` takes."""

    def connected(self, stream: Any) -> None:
        super().connected(stream)
        stream.send(DROPS)


class Bridged:
    """A bridge on the test's loop and a transport on the guest's."""

    def __init__(self, directory: Path, guest_loop: GuestLoop | None = None) -> None:
        ours, self.theirs = socket.socketpair()
        self.lost: list[str] = []
        self.uds_path = directory / "v.sock"
        self.theirs.setblocking(False)
        if guest_loop is not None:
            handlers: dict[int, Callable[[], Echo]] = {ECHO: Echo, FLOOD: Flood, SHOWER: Shower}
            port = os.dup(self.theirs.fileno())

            def accept(number: int) -> Any:
                return handlers[number]() if number in handlers else None

            self.transports: list[MuxTransport] = []
            guest_loop.call(lambda: self.transports.append(MuxTransport(guest_loop.loop, port, accept)))

            def end() -> None:
                guest_loop.loop.unwatch(port)
                os.close(port)

            self._end_guest = lambda: guest_loop.call(end)
        self.bridge = MuxBridge(ours, self.uds_path, self.lost.append)
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(self.uds_path)
        self._writers.append(writer)
        return reader, writer

    async def dial(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await self.connect()
        writer.write(b"CONNECT %d\n" % port)
        assert await within(reader.readline()) == b"OK %d\n" % port
        return reader, writer

    _end_guest = staticmethod(lambda: None)

    async def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        # First the guest: its transport would look again and again for a port that comes back.
        self._end_guest()
        self.bridge.close()
        self.theirs.close()
        for writer in self._writers:
            with contextlib.suppress(OSError):
                await within(writer.wait_closed())


async def within(awaitable: Awaitable[Any]) -> Any:
    async with asyncio.timeout(DEADLINE_S):
        return await awaitable


@pytest.fixture
async def bridged(tmp_path: Path) -> Any:
    with running_loop() as guest_loop:
        joined = Bridged(tmp_path, guest_loop)
        yield joined
        await joined.close()


@pytest.fixture
async def raw(tmp_path: Path) -> Any:
    """A bridge whose guest is the test itself: ``theirs`` is the other end of the port."""
    joined = Bridged(tmp_path)
    yield joined
    await joined.close()


async def test_bytes_go_there_and_back(bridged: Bridged) -> None:
    data = os.urandom(5 << 20)
    streams = [await bridged.dial(ECHO) for _ in range(3)]

    async def there_and_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(data)
        back, _ = await asyncio.gather(reader.readexactly(len(data)), writer.drain())
        return back

    assert await within(asyncio.gather(*(there_and_back(*stream) for stream in streams))) == [data] * 3
    assert bridged.lost == []


async def test_the_socket_is_for_its_owner_alone(bridged: Bridged) -> None:
    assert stat.S_IMODE(bridged.uds_path.stat().st_mode) == 0o600


async def test_a_port_that_nobody_listens_on(bridged: Bridged) -> None:
    reader, writer = await bridged.connect()
    writer.write(b"CONNECT 4444\n")
    assert await within(reader.read()) == b""
    await bridged.dial(ECHO)


async def test_a_client_that_speaks_something_else(bridged: Bridged) -> None:
    reader, writer = await bridged.connect()
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert await within(reader.read()) == b""
    await bridged.dial(ECHO)


async def test_a_reader_that_stands_still_stops_its_flood_and_no_other(bridged: Bridged) -> None:
    reader, writer = await bridged.dial(FLOOD)
    transport: Any = writer.transport
    transport.pause_reading()
    echo_reader, echo_writer = await bridged.dial(ECHO)
    taken = -1
    while taken != Flood.taken:
        taken = Flood.taken
        for _ in range(20):
            echo_writer.write(b"hello")
            assert await within(echo_reader.readexactly(5)) == b"hello"
    # The window, the client's socket, and what asyncio read before it paused.
    assert taken < mux.WINDOW_BYTES + (1 << 20)
    transport.resume_reading()
    assert len(await within(reader.readexactly(4 * mux.WINDOW_BYTES))) == 4 * mux.WINDOW_BYTES


async def test_many_small_buffers(bridged: Bridged) -> None:
    reader, _ = await bridged.dial(SHOWER)
    assert await within(reader.readexactly(20 * len(DROPS))) == b"".join(DROPS)


async def test_many_small_writes_while_the_port_is_full(raw: Bridged) -> None:
    """More pieces wait than one ``sendmsg`` takes."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(str(raw.uds_path))
    client.setblocking(False)
    other = mux.Mux(client=False)
    sent = b""
    for number in range(6000):
        piece = b"%07d\n" % number
        if raw.bridge.mux.send_room(1) or number < 10:
            client.send(piece)
            sent += piece
        await asyncio.sleep(0)
    received = b""
    while len(received) < len(sent):
        try:
            data = raw.theirs.recv(1 << 20)
        except BlockingIOError:
            await asyncio.sleep(0)
            continue
        for event in other.receive_data(data):
            if isinstance(event, mux.DataReceived):
                received += bytes(event.data)
    assert received == sent
    assert raw.lost == []
    client.close()


async def test_a_client_that_closes_frees_its_stream(bridged: Bridged) -> None:
    for _ in range(mux.MAX_STREAMS + 10):
        _, writer = await bridged.dial(ECHO)
        writer.close()
        await until(lambda: not bridged.bridge._connections)
    assert not bridged.bridge.mux._streams


async def test_more_connections_than_streams(bridged: Bridged) -> None:
    streams = [await bridged.dial(ECHO) for _ in range(mux.MAX_STREAMS)]
    reader, _ = await bridged.connect()
    assert await within(reader.read()) == b""
    streams[0][1].close()
    await until(lambda: len(bridged.bridge._connections) < mux.MAX_STREAMS)
    await bridged.dial(ECHO)


async def test_the_guests_end_breaks(raw: Bridged) -> None:
    reader, writer = await raw.connect()
    writer.write(b"CONNECT 1\n")
    await until(lambda: raw.bridge._connections)
    raw.theirs.close()
    assert await within(reader.read()) == b""
    assert len(raw.lost) == 1
    assert not raw.uds_path.exists()
    raw.bridge.close()
    assert len(raw.lost) == 1


async def test_a_guest_that_breaks_the_protocol(raw: Bridged) -> None:
    reader, _ = await raw.connect()
    await until(lambda: raw.bridge._connections)
    raw.theirs.send(b"GET / HTTP/1.1\r\n\r\n")
    assert await within(reader.read()) == b""
    assert raw.lost == ["not a yamux frame: version 71, type 69"]


async def test_a_guest_that_sends_more_than_it_may(raw: Bridged) -> None:
    """The bridge holds at most a window of it."""
    await raw.connect()
    await until(lambda: raw.bridge._connections)
    piece = mux.HEADER.pack(0, mux.DATA, 0, 1, 1 << 16) + bytes(1 << 16)
    sent = 0
    while not raw.lost:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            sent += raw.theirs.send(piece[sent % len(piece) :])
        await asyncio.sleep(0)
    assert "its window has" in raw.lost[0]
    assert sent < 4 * mux.WINDOW_BYTES


async def test_a_rest_in_the_middle_of_traffic(bridged: Bridged) -> None:
    """Nothing moves while it rests, and nothing is lost; connections may come and go meanwhile."""
    data = os.urandom(3 << 20)
    echo_reader, echo_writer = await bridged.dial(ECHO)
    flood_reader, _ = await bridged.dial(FLOOD)
    _, leaving = await bridged.dial(ECHO)

    async def send() -> None:
        echo_writer.write(data)
        await echo_writer.drain()

    sending = asyncio.ensure_future(send())
    received = b""
    for number in range(5):
        received += await within(echo_reader.readexactly(100_000))
        await within(flood_reader.readexactly(300_000))
        assert await within(bridged.bridge.rest())
        assert bridged.bridge.at_rest
        assert await within(bridged.bridge.rest()), "it rests already"
        if number == 2:
            leaving.close()
            reader, writer = await bridged.connect()
            writer.write(b"CONNECT %d\n" % ECHO)
            await until(lambda: len(bridged.bridge._connections) == 4)
        for _ in range(20):
            await asyncio.sleep(0)
            assert bridged.bridge.at_rest
        with pytest.raises(BlockingIOError):
            bridged.bridge._port.recv(1)
        bridged.bridge.release()
        assert not bridged.bridge.at_rest
    received += await within(echo_reader.readexactly(len(data) - len(received)))
    await sending
    assert received == data
    assert await within(reader.readline()) == b"OK %d\n" % ECHO
    assert bridged.lost == []


async def test_a_guest_that_does_not_rest(raw: Bridged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "UNHEARD_DEADLINE_S", 0.05)
    monkeypatch.setattr(bridge, "REST_DEADLINE_S", 0.05)
    assert not await within(raw.bridge.rest())
    assert not raw.bridge.at_rest
    raw.bridge.release()
    # It had only been slow.
    raw.theirs.send(mux.HEADER.pack(0, mux.GO_AWAY, 0, 0, mux.HELD))
    await until(lambda: raw.bridge._heard)
    assert not await within(raw.bridge.rest())
    raw.theirs.send(mux.HEADER.pack(0, mux.GO_AWAY, 0, 0, mux.HELD))
    await until(lambda: raw.bridge.at_rest)
    assert raw.lost == []


async def test_a_guest_that_ends_instead_of_resting(raw: Bridged) -> None:
    resting = asyncio.ensure_future(raw.bridge.rest())
    await asyncio.sleep(0)
    raw.theirs.close()
    assert not await within(resting)
    assert len(raw.lost) == 1


async def test_a_guest_that_rests_unasked(raw: Bridged) -> None:
    raw.theirs.send(mux.HEADER.pack(0, mux.GO_AWAY, 0, 0, mux.HELD))
    await until(lambda: raw.lost)
    assert raw.lost == ["nobody asked for GO_AWAY with code 0x101"]


async def test_a_loaded_guest_forgets_its_connections(tmp_path: Path) -> None:
    """The port's other end is another process's now; the guest learns it from the first frame."""
    with running_loop() as guest_loop:
        joined = Bridged(tmp_path, guest_loop)
        try:
            reader, writer = await joined.dial(ECHO)
            writer.write(b"before")
            assert await within(reader.readexactly(6)) == b"before"
            assert await within(joined.bridge.rest())
            # The same port, as the guest sees it; the old bridge would be the source's.
            port = socket.socket(fileno=os.dup(joined.bridge._port.fileno()))
            joined.bridge.close()
            joined.bridge = bridge.MuxBridge(port, tmp_path / "loaded.sock", joined.lost.append, loaded=True)
            joined.uds_path = tmp_path / "loaded.sock"
            assert await within(joined.bridge.rest()), "it rests until it is released"
            dialing = asyncio.ensure_future(joined.dial(ECHO))
            await until(lambda: joined.bridge._connections)
            assert not dialing.done()
            joined.bridge.release()
            reader, writer = await within(dialing)
            writer.write(b"after")
            assert await within(reader.readexactly(5)) == b"after"
            [transport] = joined.transports
            assert len(transport._streams) == 1
            assert joined.lost == []
        finally:
            await joined.close()


@pytest.fixture(autouse=True)
def no_error_in_a_callback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """asyncio logs what a reader or writer raised, and goes on."""
    yield
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []
