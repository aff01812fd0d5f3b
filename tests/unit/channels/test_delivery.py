"""Clients that do not read, over real sockets: others get everything, and what is held stays bounded."""

from __future__ import annotations

import contextlib
import itertools
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from fc_kernel.channels import delivery as delivery_module
from fc_kernel.channels.delivery import Delivery
from fc_kernel.channels.endpoints import QUEUED_MESSAGES, BoundSockets, ClientEndpoints

DEADLINE_S = 30.0
PATIENCE_S = 0.3


class Server:
    """Bound sockets, a delivery for each kind, and clients in contexts of their own."""

    def __init__(self, directory: Path) -> None:
        self.context = zmq.Context()
        self.endpoints = ClientEndpoints(transport="ipc", ip=str(directory / "k"))
        self.bound = BoundSockets(self.context, self.endpoints)
        self.iopub = Delivery(self.bound.sockets["iopub"])
        self.shell = Delivery(self.bound.sockets["shell"])
        self._clients: list[tuple[Any, Any]] = []

    def client(self, kind: int, channel: str, *, identity: bytes = b"", queue: int = 1) -> Any:
        context = zmq.Context()
        client = context.socket(kind)
        client.linger = 0
        client.rcvhwm = queue
        if identity:
            client.identity = identity
        client.connect(f"ipc://{self.endpoints.ip}-{self.endpoints.port(channel)}")
        self._clients.append((context, client))
        return client

    def subscriber(self, **options: Any) -> Any:
        client = self.client(zmq.SUB, "iopub", **options)
        client.subscribe(b"")
        assert self.bound.sockets["iopub"].poll(int(DEADLINE_S * 1000))
        assert self.bound.sockets["iopub"].recv() == b"\x01"
        return client

    def dealer(self, identity: bytes, **options: Any) -> Any:
        client = self.client(zmq.DEALER, "shell", identity=identity, **options)
        client.send(b"hello")
        assert self.bound.sockets["shell"].poll(int(DEADLINE_S * 1000))
        assert self.bound.sockets["shell"].recv_multipart() == [identity, b"hello"]
        return client

    def close(self) -> None:
        for context, client in self._clients:
            client.close(0)
            context.term()
        for socket in self.bound.sockets.values():
            socket.linger = 0
        self.bound.close()
        self.context.term()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(delivery_module, "PATIENCE_S", PATIENCE_S)
    monkeypatch.setattr(delivery_module, "LEAST_PATIENCE_S", PATIENCE_S / 4)
    server = Server(tmp_path)
    yield server
    server.close()


def drain(client: Any) -> list[list[bytes]]:
    """All that has arrived."""
    messages = []
    with contextlib.suppress(zmq.Again):
        while True:
            messages.append(client.recv_multipart(zmq.NOBLOCK))
    return messages


def pump(delivery: Delivery, until: Callable[[], bool], each_round: Callable[[], None] = lambda: None) -> None:
    end = time.monotonic() + DEADLINE_S
    while not until():
        assert time.monotonic() < end, "never happened"
        delivery.retry()
        each_round()
        time.sleep(0.001)


def publish(server: Server, count: int, size: int, good: Any) -> list[int]:
    """Publish numbered messages, each as soon as it is taken; returns the numbers that a good subscriber got."""
    got: list[int] = []

    def read() -> None:
        got.extend(int(message[0]) for message in drain(good))
        # Who was cut off connects again and says what it wants.
        drain(server.bound.sockets["iopub"])

    for number in range(count):
        pump(server.iopub, lambda: not server.iopub.blocked, read)
        server.iopub.send([b"%d" % number, memoryview(bytes(size))])
    pump(server.iopub, lambda: bool(got) and got[-1] == count - 1, read)
    return got


@pytest.mark.parametrize(("count", "size"), [(3000, 10_000), (30, 4 << 20)], ids=["small", "large"])
def test_a_subscriber_that_does_not_read_costs_others_nothing(
    server: Server, count: int, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    good, _stuck = server.subscriber(queue=1000), server.subscriber()
    assert publish(server, count, size, good) == list(range(count))
    assert "did not read" in caplog.text


def test_a_slow_subscriber_loses_nothing(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """It stands still for a while, but not for as long as the patience lasts."""
    slow = server.subscriber()
    sent = 0
    while not server.iopub.blocked:
        server.iopub.send([b"%d" % sent, bytes(10_000)])
        sent += 1
    assert sent > QUEUED_MESSAGES
    got: list[int] = []
    pump(server.iopub, lambda: len(got) == sent, lambda: got.extend(int(m[0]) for m in drain(slow)))
    assert got == list(range(sent))
    assert "did not read" not in caplog.text


def test_a_subscriber_that_was_cut_off_comes_back(server: Server) -> None:
    stuck = server.subscriber()
    sent = itertools.count()
    while not server.iopub.blocked:
        server.iopub.send([b"%d" % next(sent), bytes(10_000)])
    pump(server.iopub, lambda: not server.iopub.blocked)
    iopub = server.bound.sockets["iopub"]
    got: list[bytes] = []

    def read() -> None:
        drain(iopub)
        if not server.iopub.blocked:
            server.iopub.send([b"later", b""])
        got.extend(message[0] for message in drain(stuck))

    pump(server.iopub, lambda: b"later" in got, read)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_what_a_stuck_subscriber_makes_us_hold_is_bounded(server: Server) -> None:
    """Sixty messages of 8 MiB: it holds some, and then is cut off; the good one gets all."""
    good, _stuck = server.subscriber(queue=2), server.subscriber()
    before = resident_bytes()
    most = 0

    def look() -> None:
        nonlocal most
        most = max(most, resident_bytes())

    got: list[int] = []
    for number in range(60):
        pump(server.iopub, lambda: not server.iopub.blocked, look)
        server.iopub.send([b"%d" % number, memoryview(bytearray(8 << 20))])
        look()
        got.extend(int(message[0]) for message in drain(good))
        drain(server.bound.sockets["iopub"])
    pump(server.iopub, lambda: got[-1] == 59, lambda: got.extend(int(message[0]) for message in drain(good)))
    assert got == list(range(60))
    assert most - before < 100 << 20


def test_without_subscribers_output_is_discarded(server: Server) -> None:
    before = resident_bytes()
    for _ in range(200):
        pump(server.iopub, lambda: not server.iopub.blocked)
        server.iopub.send([b"x", memoryview(bytearray(8 << 20))])
    assert resident_bytes() - before < 64 << 20
    pump(server.iopub, lambda: not server.iopub.waiting)


def fill(server: Server, identity: bytes) -> int:
    """Send replies to a client until one has to wait; returns how many."""
    for number in itertools.count():
        if server.shell.waiting:
            return number
        server.shell.send([identity, b"%d" % number, bytes(10_000)])
    raise AssertionError


def test_a_client_that_does_not_read_its_replies_holds_up_nobody(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_module, "PATIENCE_S", DEADLINE_S)
    good = server.dealer(b"good", queue=1000)
    server.dealer(b"stuck")
    fill(server, b"stuck")
    for number in range(100):
        assert not server.shell.blocked
        server.shell.send([b"good", b"%d" % number])
        pump(server.shell, lambda: good.poll(0) > 0)
        assert good.recv() == b"%d" % number
    assert server.shell.waiting, "the stuck one's reply still waits"


def test_what_waits_for_a_client_is_kept_in_order_and_after_a_while_dropped(server: Server) -> None:
    stuck = server.dealer(b"stuck")
    sent = fill(server, b"stuck")
    got: list[int] = []
    pump(server.shell, lambda: len(got) == sent, lambda: got.extend(int(m[0]) for m in drain(stuck)))
    assert got == list(range(sent))
    fill(server, b"stuck")
    pump(server.shell, lambda: not server.shell.waiting)
    assert not server.shell.blocked


def test_a_client_that_makes_much_wait_stops_the_channel_until_patience_ends(server: Server) -> None:
    server.dealer(b"stuck")
    fill(server, b"stuck")
    while not server.shell.blocked:
        server.shell.send([b"stuck", bytes(1 << 20)])
    assert server.shell._waiting_bytes <= delivery_module.MAX_WAITING_BYTES + (1 << 20)
    pump(server.shell, lambda: not server.shell.blocked)
    assert server.shell._waiting_bytes == server.shell._waiting_messages == 0


def test_a_client_that_stays_stuck_is_waited_for_less_and_less(server: Server) -> None:
    server.dealer(b"stuck")
    fill(server, b"stuck")
    patience = []
    for _ in range(4):
        patience.append(server.shell._queues[b"stuck"].patience_s)
        server.shell.send([b"stuck", b"another"])
        pump(server.shell, lambda: not server.shell.waiting)
    assert patience == [PATIENCE_S, PATIENCE_S / 2, PATIENCE_S / 4, PATIENCE_S / 4]


@pytest.mark.parametrize("identity", [b"nobody", b"", b"\0" * 300])
def test_a_reply_to_nobody_is_dropped(server: Server, identity: bytes) -> None:
    server.shell.send([identity, b"reply"])
    server.shell.send([identity, bytes(1 << 20)])
    assert not server.shell.waiting
