"""Both sides of a switchboard under test: real Jupyter clients' sockets, and a guest that says what the test wants."""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.session import Session

from fc_kernel.channels.endpoints import CHANNELS, ClientEndpoints
from fc_kernel.channels.signing import DELIMITER, Signer, split
from fc_kernel.channels.switchboard import Switchboard
from fc_kernel.wire.link import Link, MessageReceived
from fc_kernel.wire.ports import CHANNEL_PORTS

DEADLINE_S = 30.0
CLIENT_KEY, GUEST_KEY = b"the clients' key", b"the guest's key"


class GuestChannel:
    """The guest's end of one channel's tunnel, driven by the test."""

    def __init__(self, channel: str, link: Link | None = None) -> None:
        self.ours, self.hosts = socket.socketpair()
        self.ours.settimeout(DEADLINE_S)
        self.link = link or Link(channel, dialer=False)
        self.link.connection_made()
        self.messages: deque[list[bytes]] = deque()

    def pump(self) -> None:
        """Send what there is and receive once."""
        self.flush()
        count = self.ours.recv_into(self.link.get_buffer())
        if not count:
            raise ConnectionResetError
        for event in self.link.buffer_updated(count):
            if isinstance(event, MessageReceived):
                self.messages.append([bytes(part) for part in event.parts])
        self.flush()

    def flush(self) -> None:
        while self.link.wants_to_send:
            self.link.data_sent(self.ours.sendmsg(self.link.data_to_send()))

    def receive(self) -> list[bytes]:
        """The next message of a client's."""
        while not self.messages:
            self.pump()
        return self.messages.popleft()

    def send(self, parts: list[bytes]) -> None:
        self.link.send(parts)
        self.flush()

    def is_closed(self) -> bool:
        """Whether the host closes the connection; waits for it."""
        try:
            while True:
                self.pump()
        except (ConnectionError, BrokenPipeError):
            return True
        except TimeoutError:
            return False


class Guest:
    """A guest's four channels; attached to a switchboard it says what it is told to."""

    def __init__(self, links: dict[str, Link] | None = None) -> None:
        self.channels = {channel: GuestChannel(channel, (links or {}).get(channel)) for channel in CHANNEL_PORTS}
        self.session = Session(key=GUEST_KEY)
        self._attached = False

    @property
    def links(self) -> dict[str, Link]:
        return {channel: each.link for channel, each in self.channels.items()}

    def attach(self, board: Switchboard, generation: int = 1) -> None:
        sockets = {channel: each.hosts for channel, each in self.channels.items()}
        self._attached = True
        done = board.attach(sockets, guest_key=GUEST_KEY, generation=generation)
        for each in self.channels.values():
            while not each.link.established:
                each.pump()
        done.result(DEADLINE_S)

    def reply(self, request: list[bytes], content: dict[str, Any], *, channel: str = "shell") -> None:
        """Answer a client's request as a kernel does."""
        at = split(request)
        header = json.loads(request[at + 2])
        kind = header["msg_type"].replace("_request", "_reply")
        message = self.session.msg(kind, content, parent={"header": header})
        self.channels[channel].send([*request[:at], *self.session.serialize(message)])

    def publish(self, kind: str, content: dict[str, Any], parent: list[bytes] | None = None) -> None:
        header = json.loads(parent[split(parent) + 2]) if parent else {}
        message = self.session.msg(kind, content, parent={"header": header})
        self.channels["iopub"].send([b"topic", *self.session.serialize(message)])

    def close(self) -> None:
        for each in self.channels.values():
            each.ours.close()
            if not self._attached:
                each.hosts.close()


class Client:
    """A Jupyter client's sockets, which check every signature."""

    def __init__(self, ip: str, *, key: bytes = CLIENT_KEY, subscribe: bool = True) -> None:
        self.session = Session(key=key)
        self._context = zmq.Context()
        self.sockets: dict[str, Any] = {}
        for number, channel in enumerate(CHANNELS):
            kind = zmq.SUB if channel == "iopub" else zmq.REQ if channel == "hb" else zmq.DEALER
            if channel == "iopub" and not subscribe:
                continue
            client = self._context.socket(kind)
            client.linger = 0
            if kind == zmq.DEALER:
                client.identity = self.session.bsession
            client.connect(f"ipc://{ip}-{number + 1}")
            self.sockets[channel] = client
        if subscribe:
            self.sockets["iopub"].subscribe(b"")
            assert self.receive("iopub")["msg_type"] == "iopub_welcome"

    def request(self, kind: str, content: dict[str, Any] | None = None, *, channel: str = "shell") -> str:
        """Send a request; returns its id."""
        message = self.session.send(self.sockets[channel], kind, content or {})
        assert isinstance(message, dict)
        return str(message["header"]["msg_id"])

    def send(self, parts: list[bytes], *, channel: str = "shell") -> None:
        self.sockets[channel].send_multipart(parts)

    def serialized(self, kind: str, content: dict[str, Any] | None = None) -> list[bytes]:
        return self.session.serialize(self.session.msg(kind, content or {}))

    def receive(self, channel: str) -> dict[str, Any]:
        assert self.sockets[channel].poll(DEADLINE_S * 1000), f"nothing on {channel}"
        _identities, parts = self.session.feed_identities(self.sockets[channel].recv_multipart())
        return dict(self.session.deserialize(parts))

    def nothing(self, channel: str) -> bool:
        """Whether nothing has come on a channel; after the answer to something that was asked later."""
        return not self.sockets[channel].poll(0)

    def beats(self) -> bool:
        self.sockets["hb"].send(b"ping")
        return bool(self.sockets["hb"].poll(DEADLINE_S * 1000)) and self.sockets["hb"].recv() == b"ping"

    def close(self) -> None:
        for client in self.sockets.values():
            client.close(0)
        self._context.term()


class Ends:
    """A served switchboard and what is made for it, closed with it."""

    def __init__(self, directory: Path) -> None:
        self.ip = str(directory / "k")
        self.lost: list[tuple[str, bool]] = []
        self._told = threading.Event()
        self.board = Switchboard(
            ClientEndpoints(transport="ipc", ip=self.ip), key=CLIENT_KEY, on_tunnel_lost=self._lost
        )
        self.board.start()
        self._close: list[Callable[[], None]] = []

    def _lost(self, reason: str, fatal: bool) -> None:
        self.lost.append((reason, fatal))
        self._told.set()

    def loss(self) -> tuple[str, bool]:
        """The one loss of the tunnels, when it has been told."""
        assert self._told.wait(DEADLINE_S)
        [loss] = self.lost
        return loss

    def client(self, **options: Any) -> Client:
        client = Client(self.ip, **options)
        self._close.append(client.close)
        return client

    def guest(self, *, links: dict[str, Link] | None = None, generation: int = 1) -> Guest:
        """An attached guest."""
        guest = Guest(links)
        self._close.append(guest.close)
        guest.attach(self.board, generation)
        return guest

    def close(self) -> None:
        for close in self._close:
            close()
        self.board.close()
        assert self.board.failure is None


@contextmanager
def ends_of_a_switchboard(directory: Path) -> Iterator[Ends]:
    ends = Ends(directory)
    yield ends
    ends.close()


def signed(parts: list[bytes], key: bytes) -> list[bytes]:
    """A message of any four parts."""
    return [DELIMITER, Signer(key).sign(parts[:4]), *parts]
