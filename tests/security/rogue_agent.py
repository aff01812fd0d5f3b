"""A hostile guest: takes the agent's place behind the fake monitor's socket, and behaves as its first argument says.

Run as the agent is: ``rogue_agent.py BEHAVIOUR --transport hybrid --uds PATH ...``. All else that it says is valid, so that
each behaviour reaches the code that it is meant for.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from fc_kernel.channels.signing import Composer, Signer, split
from fc_kernel.wire import frames
from fc_kernel.wire.link import Link, MessageReceived
from fc_kernel.wire.ports import CHANNEL_PORTS, CONTROL_PORT, PROTOCOL_VERSION

GREETING: dict[str, Any] = {
    "protocol": PROTOCOL_VERSION, "python": "3.99", "kernel_release": "rogue", "machine": "x", "vcpu_count": 1,
    "mem_total_mib": 64, "boot_time_s": 1.0, "transport": "hybrid",
}  # fmt: skip
CHANNEL_OF = {port: channel for channel, port in CHANNEL_PORTS.items()}


def for_ever(sock: socket.socket, data: bytes) -> None:
    """Send without an end, until the host closes."""
    while True:
        sock.sendall(data)


def silence(sock: socket.socket) -> None:
    """Keep the connection and say nothing."""
    while sock.recv(1 << 16):
        pass


def lines(sock: socket.socket) -> Iterator[dict[str, Any]]:
    """The host's requests."""
    with sock.makefile("rb") as file:
        for line in file:
            yield json.loads(line)


def say(sock: socket.socket, **message: Any) -> None:
    sock.sendall(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")


def control(answers: dict[str, Any], then: Callable[[socket.socket], None] | None = None) -> Callable[..., None]:
    """Answer by method, ``{}`` to what is not named; after ``kernel.start`` do something more."""

    def serve(sock: socket.socket) -> None:
        for request in lines(sock):
            answer = answers.get(request["method"], GREETING if request["method"] == "hello" else {})
            if isinstance(answer, bytes):
                sock.sendall(answer.replace(b"ID", str(request["id"]).encode()))
            elif isinstance(answer, Exception):
                say(sock, id=request["id"], error={"code": 1, "message": str(answer)})
            else:
                say(sock, id=request["id"], result=answer)
            if then is not None and request["method"] == "kernel.start":
                then(sock)

    return serve


class Channel:
    """A channel's tunnel, established."""

    def __init__(self, sock: socket.socket, port: int) -> None:
        self.sock = sock
        self.name = CHANNEL_OF[port]
        self.link = Link(self.name, dialer=False)
        self.link.connection_made()
        while not self.link.established:
            self.receive()
        self.flush()

    def flush(self) -> None:
        while self.link.wants_to_send:
            self.link.data_sent(self.sock.sendmsg(self.link.data_to_send()))

    def receive(self) -> list[list[bytes]]:
        """The messages that came with what was received now."""
        count = self.sock.recv_into(self.link.get_buffer())
        if not count:
            raise ConnectionResetError
        events = self.link.buffer_updated(count)
        self.flush()
        return [[bytes(part) for part in event.parts] for event in events if isinstance(event, MessageReceived)]

    def send(self, parts: list[bytes]) -> None:
        self.link.send(parts)
        self.flush()

    def requests(self) -> Iterator[list[bytes]]:
        while True:
            yield from self.receive()


def greeted(then: Callable[[Channel], None]) -> Callable[..., None]:
    """Greet as an agent does, then do something."""
    return lambda sock, port: then(Channel(sock, port))


def listen(channel: Channel) -> None:
    for _ in channel.requests():
        pass


def raw(data: bytes) -> Callable[[Channel], None]:
    """On shell, once a client has asked something, bytes that are no frame; the others listen."""

    def send(channel: Channel) -> None:
        for _ in channel.requests():
            if channel.name == "shell":
                channel.sock.sendall(data)

    return send


def rubbish_messages(channel: Channel) -> None:
    """Frames are right, what is in them is not; a request then gets its reply all the same."""
    for parts in ([b""], [b"x"] * 30, [b"id", b"<IDS|MSG>", b"", b"[", b"[]", b"\xff", b"{"]) * 50:
        channel.send(list(parts))
    reply(channel)


def reply(channel: Channel, identity: bytes = b"") -> None:
    """Answer every request with ok, to its sender or to another."""
    composer = Composer(Signer(b""))
    for request in channel.requests():
        at = split(request)
        header = request[at + 2]
        kind = json.loads(header)["msg_type"].replace("_request", "_reply")
        to = [identity] if identity else request[:at]
        channel.send([bytes(part) for part in composer.message(kind, {"status": "ok"}, header, to)])


def output_flood(channel: Channel) -> None:
    if channel.name != "iopub":
        listen(channel)
    composer = Composer(Signer(b""))
    content = {"name": "stdout", "text": "x" * (1 << 20)}
    message = [bytes(part) for part in composer.message("stream", content, identities=[b"stream"])]
    while True:
        while not channel.link.writable:
            channel.receive()
        channel.send(message)


def impersonate(channel: Channel) -> None:
    """Send replies to a client of another kernel."""
    reply(channel, sys.argv[2].encode()) if channel.name == "shell" else listen(channel)


def notify(*messages: dict[str, Any]) -> Callable[[socket.socket], None]:
    def send(sock: socket.socket) -> None:
        for message in messages:
            say(sock, method="kernel.exited", params=message)

    return send


OTHERS = notify(
    {"instance": 2, "returncode": 0}, {"instance": -1, "returncode": 0}, {"instance": "1", "returncode": 0},
    {"instance": [1], "returncode": 0}, {"instance": None}, {"vm_id": "00000000", "instance": 0}, {},
)  # fmt: skip


def start_flood(sock: socket.socket) -> None:
    for_ever(sock, b'{"method": "x", "params": {}}\n' * 100)


DATA_WITHOUT_END = frames.HEADER.pack(frames.MAGIC, frames.DATA, 1, 1, 1, 0) + (127 << 20).to_bytes(4, "big")
CLAIM = frames.HEADER.pack(frames.MAGIC, frames.DATA, 1024, 1, 1 << 63, 0)

#: Behaviour → what is done with a connection to the control port, and with one to a channel's.
BEHAVIOURS: dict[str, tuple[Callable[..., None], Callable[..., None]]] = {
    "speaks no json": (lambda sock: for_ever(sock, b"rubbish\n"), silence),
    "a line without end": (lambda sock: for_ever(sock, b"x" * 65536), silence),
    "deep json": (lambda sock: for_ever(sock, b"[" * 100_000 + b"\n"), silence),
    "answers what nobody asked": (control({"hello": b'{"id": 9223372036854775808, "result": {}}\n'}), silence),
    "answers as another": (control({"hello": b'{"id": "00000000-0000", "result": {}}\n'}), silence),
    "greets with nothing": (control({"hello": None}), silence),
    "greets with infinity": (control({"hello": {**GREETING, "vcpu_count": float("inf")}}), silence),
    "greets with a list": (control({"hello": [1, 2, 3]}), silence),
    "speaks another protocol": (control({"hello": {**GREETING, "protocol": 1 << 63}}), silence),
    "never answers": (silence, silence),
    "hangs up": (lambda sock: sock.close(), silence),
    "floods with notifications": (control({}, start_flood), greeted(listen)),
    "floods with old answers": (
        control({}, lambda s: for_ever(s, b'{"id": 1, "result": {}}\n' * 100)),
        greeted(listen),
    ),
    "refuses the kernel at length": (control({"kernel.start": OSError("no \x1b[31m" + "x" * 500_000)}), silence),
    "greets no channel": (control({}), lambda sock, _port: silence(sock)),
    "greets with rubbish": (control({}), lambda sock, _port: for_ever(sock, b"\0" * 4096)),
    "sends no frames": (control({}), greeted(raw(b"GET / HTTP/1.1\r\n\r\n" * 10))),
    "claims a gap": (control({}), greeted(raw(CLAIM + b"\0\0\0\1" * 1024 + b"x" * 1024))),
    "claims 4 EiB": (control({}), greeted(raw(CLAIM + b"\xff" * 4096))),
    "never ends a message": (control({}), greeted(raw(DATA_WITHOUT_END))),
    "sends rubbish messages": (control({}), greeted(rubbish_messages)),
    "says yes to all": (control({}), greeted(listen)),
    "floods with output": (control({}), greeted(output_flood)),
    "names other kernels": (control({}, OTHERS), greeted(reply)),
    "replies to others": (control({}), greeted(impersonate)),
}
NO_HANDSHAKE = {
    "shakes no hands": b"SSH-2.0-OpenSSH_9.2\r\n" * 10,
    "shakes hands without end": b"OK " + b"1" * 65536,
}


def serve(sock: socket.socket, behaviour: str) -> None:
    with sock, suppress(OSError):
        if behaviour in NO_HANDSHAKE:
            for_ever(sock, NO_HANDSHAKE[behaviour])
        port = int(sock.recv(64).split()[1])
        sock.sendall(b"OK 1\n")
        on_control, on_channel = BEHAVIOURS[behaviour]
        if port == CONTROL_PORT:
            on_control(sock)
        else:
            on_channel(sock, port)
        time.sleep(600)


def main() -> None:
    behaviour = sys.argv[1]
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(sys.argv[sys.argv.index("--uds") + 1])
    listener.listen(64)
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=serve, args=(sock, behaviour), daemon=True).start()


if __name__ == "__main__":
    main()
