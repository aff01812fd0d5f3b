"""The guest's relay between a kernel's real sockets and a host that comes, goes and misbehaves, over the hybrid socket."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from fc_kernel.guest.relay import IDENTITY, Relay
from fc_kernel.guest.transport import listen_hybrid
from fc_kernel.wire import frames
from fc_kernel.wire.link import WINDOW_BYTES, Link, MessageReceived
from fc_kernel.wire.ports import CHANNEL_PORTS

from ..guest_loop import GuestLoop, running_loop

DEADLINE_S = 30.0


class HostEnd:
    """The host's end of one channel's tunnel."""

    def __init__(self, uds_path: Path, port: int, link: Link) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE_S)
        self.sock.connect(str(uds_path))
        self.sock.sendall(b"CONNECT %d\n" % port)
        assert self.sock.recv(64) == b"OK %d\n" % port
        self.link = link
        link.connection_made()
        self.received: list[list[bytes]] = []
        while not link.established:
            self.pump()

    def flush(self) -> None:
        while self.link.wants_to_send:
            self.link.data_sent(self.sock.sendmsg(self.link.data_to_send()))

    def pump(self) -> None:
        self.flush()
        count = self.sock.recv_into(self.link.get_buffer())
        if not count:
            raise ConnectionResetError
        for event in self.link.buffer_updated(count):
            if isinstance(event, MessageReceived):
                self.received.append([bytes(part) for part in event.parts])
        self.flush()

    def receive(self) -> list[bytes]:
        while not self.received:
            self.pump()
        return self.received.pop(0)

    def send(self, *parts: bytes) -> None:
        self.link.send(parts)
        self.flush()

    def is_closed(self) -> bool:
        try:
            while True:
                self.pump()
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def hang_up(self) -> None:
        self.sock.close()
        self.link.connection_lost()


class Bench:
    """A relay of each kind on the guest's loop, a kernel's sockets, and a place for hosts."""

    def __init__(self, directory: Path, guest_loop: GuestLoop) -> None:
        self.directory = directory
        self._loop = guest_loop
        self.uds_path = directory / "v.sock"
        self.context = zmq.Context()
        self.agent_context = zmq.Context()
        self.hosts: list[HostEnd] = []
        self._kernels: list[Any] = []
        self.relays = guest_loop.call(
            lambda: {port: Relay(guest_loop.loop, channel) for channel, port in CHANNEL_PORTS.items()}
        )
        self._listener = guest_loop.call(lambda: listen_hybrid(guest_loop.loop, str(self.uds_path), self.relays.get))

    def relay(self, channel: str) -> Relay:
        return self.relays[CHANNEL_PORTS[channel]]

    def kernel(self, channel: str, name: str = "kernel") -> Any:
        """A new kernel's socket, attached."""
        kernel = self.context.socket(zmq.XPUB if channel == "iopub" else zmq.ROUTER)
        self._kernels.append(kernel)
        kernel.linger = 0
        kernel.sndhwm = 0
        kernel.rcvtimeo = int(DEADLINE_S * 1000)
        endpoint = f"ipc://{self.directory}/{name}-{channel}"
        kernel.bind(endpoint)
        self._loop.call(lambda: self.relay(channel).attach_kernel(self.agent_context, endpoint))
        if channel == "iopub":
            assert kernel.recv() == b"\x01"
        return kernel

    def host(self, channel: str, link: Link | None = None) -> HostEnd:
        host = HostEnd(self.uds_path, CHANNEL_PORTS[channel], link or Link(channel, generation=1, dialer=True))
        self.hosts.append(host)
        return host

    def close(self) -> None:
        for host in self.hosts:
            host.sock.close()

        def end() -> None:
            for relay in self.relays.values():
                relay.detach_kernel()
                if relay._stream is not None:
                    relay._stream.close()
            self._loop.loop.unwatch(self._listener.fileno())
            self._listener.close()

        self._loop.call(end)
        self.agent_context.term()
        for kernel in self._kernels:
            kernel.close()
        self.context.term()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with running_loop() as guest_loop:
        bench = Bench(tmp_path, guest_loop)
        yield bench
        bench.close()


def test_a_request_and_its_reply(bench: Bench) -> None:
    kernel, host = bench.kernel("shell"), bench.host("shell")
    host.send(b"client", b"<IDS|MSG>", b"", b"buffer")
    assert kernel.recv_multipart() == [IDENTITY, b"client", b"<IDS|MSG>", b"", b"buffer"]
    kernel.send_multipart([IDENTITY, b"client", b"<IDS|MSG>", b"reply"])
    assert host.receive() == [b"client", b"<IDS|MSG>", b"reply"]


def test_every_channel_asks_with_one_identity(bench: Bench) -> None:
    """The kernel sends its input requests to the identity of the execute request, on another socket."""
    for channel in ("shell", "stdin", "control"):
        kernel, host = bench.kernel(channel), bench.host(channel)
        host.send(b"x")
        assert kernel.recv_multipart() == [IDENTITY, b"x"]


def test_what_is_asked_before_there_is_a_kernel_waits_for_it(bench: Bench) -> None:
    host = bench.host("shell")
    for number in range(10):
        host.send(b"%d" % number)
    kernel = bench.kernel("shell")
    assert [kernel.recv_multipart()[1] for _ in range(10)] == [b"%d" % number for number in range(10)]


def test_what_was_asked_of_a_former_kernel_is_not_asked_of_the_next(bench: Bench) -> None:
    old = bench.host("shell")
    old.send(b"old")
    new = bench.host("shell", Link("shell", generation=2, dialer=True))
    assert old.is_closed()
    new.send(b"new")
    kernel = bench.kernel("shell")
    assert kernel.recv_multipart() == [IDENTITY, b"new"]


def test_output_waits_in_the_kernel_while_no_host_is_there(bench: Bench) -> None:
    kernel = bench.kernel("iopub")
    for number in range(500):
        kernel.send_multipart([b"topic", b"%d" % number])
    host = bench.host("iopub")
    assert [host.receive()[1] for _ in range(500)] == [b"%d" % number for number in range(500)]


def test_a_host_that_hangs_up_again_and_again_loses_nothing(bench: Bench) -> None:
    kernel, host = bench.kernel("iopub"), bench.host("iopub")
    got: list[bytes] = []
    for number in range(200):
        kernel.send_multipart([b"topic", b"%d" % number, bytes(3000)])
        if number % 20 == 10:
            got.append(host.receive()[1])
            got += [message[1] for message in host.received]
            host.received.clear()
            host.hang_up()
            host = bench.host("iopub", host.link)
    while len(got) < 200:
        got.append(host.receive()[1])
    assert got == [b"%d" % number for number in range(200)]


def test_a_host_that_does_not_read_makes_the_kernels_output_wait(bench: Bench) -> None:
    """More than the tunnel's window; nothing is lost, nothing comes twice."""
    kernel, host = bench.kernel("iopub"), bench.host("iopub")
    for number in range(60):
        kernel.send_multipart([b"%d" % number, bytes(1 << 20)])
    link = bench.relay("iopub")._link
    end = time.monotonic() + DEADLINE_S
    while bench._loop.call(lambda: link.writable):
        assert time.monotonic() < end, "the window was never full"
    assert bench._loop.call(lambda: link._unacked_bytes) <= WINDOW_BYTES + (2 << 20)
    assert [host.receive()[0] for _ in range(60)] == [b"%d" % number for number in range(60)]


def test_what_is_no_message_and_over_the_limit_is_dropped_and_the_next_one_crosses(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    kernel, host = bench.kernel("iopub"), bench.host("iopub")
    monkeypatch.setattr(frames, "MAX_MESSAGE_BYTES", 1000)
    kernel.send_multipart([b"large", bytes(1001)])
    kernel.send_multipart([b"many", *[b""] * frames.MAX_PARTS])
    kernel.send_multipart([b"<IDS|MSG>", bytes(1001)])
    kernel.send_multipart([b"<IDS|MSG>", b"", b"no JSON", b"{}", b"{}", bytes(1001)])
    kernel.send_multipart([b"<IDS|MSG>", b"", b"[]", b"{}", b"{}", bytes(1001)])
    kernel.send_multipart([b"<IDS|MSG>", b"", b'{"msg_type": "stream"}', bytes(1001), b"{}", b"{}"])
    kernel.send_multipart([b"next"])
    assert host.receive() == [b"next"]
    said = capfd.readouterr().out
    assert "dropped on iopub: a message of 1006 bytes; at most 1000" in said
    assert "1025 parts" in said


@pytest.mark.parametrize(
    ("channel", "kind", "says"),
    [
        ("iopub", "display_data", "A message display_data of the kernel was dropped"),
        ("shell", "execute_reply", "MessageTooLarge"),
        ("control", "debug_reply", "MessageTooLarge"),
    ],
)
def test_a_message_over_the_limit_is_replaced_by_one_that_says_so(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, channel: str, kind: str, says: str
) -> None:
    """Whoever waits for a reply gets one."""
    kernel, host = bench.kernel(channel), bench.host(channel)
    if channel != "iopub":
        host.send(b"client", b"request")
        kernel.recv_multipart()
    monkeypatch.setattr(frames, "MAX_MESSAGE_BYTES", 1000)
    header = json.dumps({"msg_id": "1", "msg_type": kind}).encode()
    message = [b"client", b"<IDS|MSG>", b"signature", header, b'{"msg_id": "0"}', b"{}", b"{}", bytes(1001)]
    kernel.send_multipart(message if channel == "iopub" else [IDENTITY, *message])
    received = host.receive()
    assert received[:2] == [b"client", b"<IDS|MSG>"]
    assert json.loads(received[3]) == {"msg_id": "1", "msg_type": "stream" if channel == "iopub" else kind}
    assert received[4] == b'{"msg_id": "0"}'
    assert says in received[6].decode()
    assert "at most 1000" in received[6].decode()
    assert len(received) == 7


def test_a_host_that_breaks_the_protocol_is_cut_off_and_may_come_again(bench: Bench) -> None:
    kernel, host = bench.kernel("shell"), bench.host("shell")
    host.sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert host.is_closed()
    host.link.connection_lost()
    again = bench.host("shell", host.link)
    again.send(b"hello")
    assert kernel.recv_multipart() == [IDENTITY, b"hello"]


def test_a_new_kernel_takes_the_place_of_the_old_one(bench: Bench) -> None:
    bench.kernel("shell", "first")
    second, host = bench.kernel("shell", "second"), bench.host("shell")
    host.send(b"x")
    assert second.recv_multipart() == [IDENTITY, b"x"]


@pytest.mark.parametrize(
    "said",
    [b"CONNECT 4000\n", b"CONNECT\n", b"HTTP/1.1\n", b"CONNECT 1001\nmore", b"C" * 100, b"CONNECT 99999999999\n"],
)
def test_who_asks_for_something_else_is_sent_away(bench: Bench, said: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(DEADLINE_S)
        sock.connect(str(bench.uds_path))
        sock.sendall(said)
        with contextlib.suppress(ConnectionResetError):  # closed before all was read
            assert sock.recv(100) == b""
    kernel, host = bench.kernel("shell"), bench.host("shell")
    host.send(b"still served")
    assert kernel.recv_multipart()[1] == b"still served"


def test_a_handshake_may_come_in_pieces(bench: Bench) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(DEADLINE_S)
        sock.connect(str(bench.uds_path))
        for byte in b"CONNECT 1001\n":
            sock.sendall(bytes([byte]))
        assert sock.recv(100) == b"OK 1001\n"
