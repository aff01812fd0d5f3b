"""A real client of a kernel's endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from jupyter_client.blocking.client import BlockingKernelClient

from fc_kernel.channels.endpoints import CHANNELS

DEADLINE_S = 60.0
KEY = b"a key of the clients"


@dataclass
class Done:
    """What became of a cell."""

    reply: dict[str, Any]
    results: list[str] = field(default_factory=list)
    stream: str = ""

    @property
    def status(self) -> str:
        return str(self.reply["status"])

    @property
    def result(self) -> str:
        assert self.status == "ok", self.reply
        [result] = self.results
        return result


class Client:
    """A blocking client; a context."""

    def __init__(self, info: Mapping[str, Any]) -> None:
        self.client = BlockingKernelClient()
        known: Any = dict(info)
        self.client.load_connection_info(known)

    @classmethod
    def at(cls, ip: str, ports: Mapping[str, int]) -> Self:
        """At ``ipc`` endpoints of the tests' own."""
        numbers = {f"{channel}_port": ports[channel] for channel in CHANNELS}
        return cls({"transport": "ipc", "ip": ip, "key": KEY, "signature_scheme": "hmac-sha256", **numbers})

    def __enter__(self) -> Self:
        self.client.start_channels()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop_channels()

    def ready(self) -> Self:
        """Subscribed, and the kernel answers."""
        self.client.wait_for_ready(timeout=DEADLINE_S)
        return self

    def begin(self, code: str) -> str:
        """Send a cell; returns its message's id."""
        return str(self.client.execute(code))

    def finish(self, msg_id: str) -> Done:
        """Everything that a cell said until it was idle and replied."""
        done = Done({})
        idle = False
        while not idle:
            message = self.client.get_iopub_msg(timeout=DEADLINE_S)
            if message["parent_header"].get("msg_id") != msg_id:
                continue
            kind, content = message["msg_type"], message["content"]
            idle = kind == "status" and content["execution_state"] == "idle"
            if kind == "stream":
                done.stream += content["text"]
            elif kind == "execute_result":
                done.results.append(content["data"]["text/plain"])
        while not done.reply:
            message = self.client.get_shell_msg(timeout=DEADLINE_S)
            if message["parent_header"].get("msg_id") == msg_id:
                done.reply = message["content"]
        return done

    def says(self, kind: str) -> dict[str, Any]:
        """The content of the next output of that kind."""
        while (message := self.client.get_iopub_msg(timeout=DEADLINE_S))["msg_type"] != kind:
            pass
        return dict(message["content"])

    def execute(self, code: str) -> Done:
        return self.finish(self.begin(code))

    def value(self, code: str) -> str:
        return self.execute(code).result
