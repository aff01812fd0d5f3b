"""A host of the simplest kind for a real agent with a real kernel: its control connection and its channels, one at a time."""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections import deque
from pathlib import Path
from typing import Any

from jupyter_client.session import Session

from fc_kernel.wire.link import Link, MessageReceived
from fc_kernel.wire.ports import CHANNEL_PORTS, CONTROL_PORT

DEADLINE_S = 120.0
KEY = "a first key"


class CallFailed(Exception):
    """The agent's error response."""

    def __init__(self, error: dict[str, Any]) -> None:
        self.code = error["code"]
        super().__init__(error["message"])


def listens(uds_path: Path) -> bool:
    """Whether somebody does; the socket's name is there a moment earlier."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        return sock.connect_ex(str(uds_path)) == 0


def dial(uds_path: Path, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(DEADLINE_S)
    sock.connect(str(uds_path))
    sock.sendall(b"CONNECT %d\n" % port)
    answer = b""
    while not answer.endswith(b"\n"):
        answer += sock.recv(1)
    assert answer.startswith(b"OK "), answer
    return sock


class Channel:
    """One channel's tunnel."""

    def __init__(self, name: str, uds_path: Path, generation: int) -> None:
        self.link = Link(name, generation=generation, dialer=True)
        self.sock = dial(uds_path, CHANNEL_PORTS[name])
        self.received: deque[dict[str, Any]] = deque()
        self.link.connection_made()
        while not self.link.established:
            self.pump()

    def flush(self) -> None:
        while self.link.wants_to_send:
            self.link.data_sent(self.sock.sendmsg(self.link.data_to_send()))

    def pump(self, timeout_s: float = DEADLINE_S) -> None:
        """Take what comes next; raises TimeoutError when nothing does."""
        self.flush()
        self.sock.settimeout(timeout_s)
        count = self.sock.recv_into(self.link.get_buffer())
        if not count:
            raise ConnectionResetError
        for event in self.link.buffer_updated(count):
            if isinstance(event, MessageReceived):
                parts = [bytes(part) for part in event.parts]
                at = parts.index(b"<IDS|MSG>")
                names = ("header", "parent_header", "metadata", "content")
                message = {name: json.loads(part) for name, part in zip(names, parts[at + 2 : at + 6], strict=True)}
                self.received.append({**message, "signature": parts[at + 1], "parts": parts[at + 2 : at + 6]})
        self.flush()

    def close(self) -> None:
        self.sock.close()


class Guest:
    """What a host sees of a guest behind ``uds_path``."""

    def __init__(self, uds_path: Path) -> None:
        self.uds_path = uds_path
        self.notifications: deque[dict[str, Any]] = deque()
        self.channels: dict[str, Channel] = {}
        self.session = Session(key=KEY.encode())
        self._answers: dict[int, dict[str, Any]] = {}
        self._number = 0
        self._line = b""
        self._control = dial(uds_path, CONTROL_PORT)

    def send(self, method: str, **params: Any) -> int:
        """Call without waiting."""
        self._number += 1
        request = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}
        self._control.sendall(json.dumps(request).encode() + b"\n")
        return self._number

    def result(self, number: int) -> Any:
        while number not in self._answers:
            self._read()
        answer = self._answers.pop(number)
        if "error" in answer:
            raise CallFailed(answer["error"])
        return answer["result"]

    def call(self, method: str, **params: Any) -> Any:
        return self.result(self.send(method, **params))

    def notified(self, method: str) -> dict[str, Any]:
        """The next notification of that kind."""
        while True:
            for notification in self.notifications:
                if notification["method"] == method:
                    self.notifications.remove(notification)
                    return notification["params"]
            self._read()

    def _read(self) -> None:
        data = self._control.recv(1 << 16)
        if not data:
            raise ConnectionResetError
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "method" in message:
                self.notifications.append(message)
            else:
                self._answers[message["id"]] = message

    def start(self, *, instance: int = 1, env: dict[str, str] | None = None, argv: list[str] | None = None) -> Any:
        return self.call("kernel.start", instance=instance, env=env or {}, cwd=None, key=KEY, argv=argv)

    def attach(self, generation: int = 1) -> None:
        """Connect all channels, in place of those of an older generation."""
        for channel in self.channels.values():
            channel.close()
        self.channels = {name: Channel(name, self.uds_path, generation) for name in CHANNEL_PORTS}

    def request(self, msg_type: str, content: dict[str, Any], *, channel: str = "shell") -> str:
        message = self.session.msg(msg_type, content)
        self.channels[channel].link.send(self.session.serialize(message))
        self.channels[channel].flush()
        return message["header"]["msg_id"]

    def execute(self, code: str, *, silent: bool = False) -> str:
        content = {"code": code, "silent": silent, "store_history": not silent, "user_expressions": {}}
        return self.request("execute_request", {**content, "allow_stdin": False, "stop_on_error": True})

    def message(self, channel: str, parent: str | None = None, msg_type: str | None = None) -> dict[str, Any]:
        """The next message of a channel that fits; others are dropped."""
        tunnel = self.channels[channel]
        while True:
            while tunnel.received:
                message = tunnel.received.popleft()
                fits = parent is None or message["parent_header"].get("msg_id") == parent
                if fits and msg_type in (None, message["header"]["msg_type"]):
                    return message
            tunnel.pump()

    def reply(self, msg_id: str) -> dict[str, Any]:
        return self.message("shell", msg_id)

    def run(self, code: str) -> str:
        """Execute, and return what it printed."""
        msg_id = self.execute(code)
        reply = self.reply(msg_id)["content"]
        assert reply["status"] == "ok", reply
        return "".join(said["content"]["text"] for said in self.outputs(msg_id) if "text" in said["content"])

    def outputs(self, msg_id: str) -> list[dict[str, Any]]:
        """All messages on iopub about a request, until the kernel is idle again."""
        said = []
        while True:
            said.append(self.message("iopub", msg_id))
            if said[-1]["content"].get("execution_state") == "idle":
                return said

    def silence(self, channel: str, seconds: float) -> bool:
        """Whether nothing comes for so long."""
        end = time.monotonic() + seconds
        try:
            while (left := end - time.monotonic()) > 0:
                self.channels[channel].pump(left)
                if self.channels[channel].received:
                    return False
        except TimeoutError:
            pass
        return True

    def freeze(self, *, hooks: bool = True, timeout_s: float = DEADLINE_S) -> Any:
        return self.call("freeze", hooks=hooks, timeout_s=timeout_s)

    def restored(self, **options: Any) -> Any:
        """As after a real restore: a new key, and everything else at its usual values."""
        params: dict[str, Any] = {
            "generation": 2, "role": "restored", "name": "s1", "time": time.time(), "entropy_b64": "A" * 44,
            "hostname": "vm", "machine_id": secrets.token_hex(16), "key": "a second key", "env": {}, "cwd": None,
            "reseed": True, **options,
        }  # fmt: skip
        renewed = self.call("renew", **params)
        self.session.key = params["key"].encode()
        return {**renewed, **self.call("thaw")}

    def close(self) -> None:
        for channel in self.channels.values():
            channel.close()
        self._control.close()
