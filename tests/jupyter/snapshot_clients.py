"""Clients that send cells without waiting and collect all that comes of them, and that watch their own connections."""

from __future__ import annotations

import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from zmq.utils.monitor import recv_monitor_message

from fc_kernel.host.engine import Engine
from fc_kernel.sessions.session import KernelSession

from .conftest import DEADLINE_S, another_client

T = TypeVar("T")

CHANNELS = ("shell", "iopub", "stdin", "control")
#: How long one look at the sockets lasts.
LOOK_MS = 100
#: What a connection's monitor tells when it breaks; it would be made anew only after that.
BREAKS = zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_CLOSED


@dataclass
class Cell:
    """One request and what came of it, in the order of its coming."""

    msg_id: str
    replies: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """It was answered, and is idle."""
        return bool(self.replies) and self.idles > 0

    @property
    def idles(self) -> int:
        return sum(m["content"].get("execution_state") == "idle" for m in self.outputs)

    @property
    def reply(self) -> dict[str, Any]:
        """The content of its one reply."""
        [message] = self.replies
        content: dict[str, Any] = message["content"]
        return content

    @property
    def ok(self) -> bool:
        return bool(self.reply["status"] == "ok")

    @property
    def printed(self) -> str:
        return "".join(m["content"]["text"] for m in self.outputs if m["msg_type"] == "stream")

    @property
    def shown(self) -> list[dict[str, Any]]:
        """The data of what it displayed."""
        return [m["content"]["data"] for m in self.outputs if m["msg_type"] in ("execute_result", "display_data")]

    @property
    def value(self) -> str:
        """Its result, as text."""
        assert self.shown, (self.replies, self.printed)
        text: str = self.shown[-1]["text/plain"]
        return text


class Caller:
    """One client of a kernel. Single-threaded: messages are taken while something is waited for."""

    def __init__(self, client: BlockingKernelClient) -> None:
        self.client = client
        client.start_channels()
        client.wait_for_ready(timeout=DEADLINE_S)
        self.cells: dict[str, Cell] = {}
        #: What had a parent that is none of our cells.
        self.foreign: list[dict[str, Any]] = []
        self._sockets = {name: getattr(client, f"{name}_channel").socket for name in CHANNELS}
        self._monitors = {name: socket.get_monitor_socket(BREAKS) for name, socket in self._sockets.items()}
        self._poller = zmq.Poller()
        for name in ("shell", "iopub"):
            self._poller.register(self._sockets[name], zmq.POLLIN)

    @classmethod
    def of(cls, manager: KernelManager) -> Caller:
        """With a session of its own."""
        return cls(another_client(manager))

    @classmethod
    def of_file(cls, connection_file: str) -> Caller:
        """Of a kernel that somebody else has started."""
        client = BlockingKernelClient(connection_file=connection_file)
        client.load_connection_file()
        return cls(client)

    def send(self, code: str, **options: Any) -> Cell:
        """Send a cell and go on."""
        cell = Cell(self.client.execute(code, **{"allow_stdin": False, **options}))
        self.cells[cell.msg_id] = cell
        return cell

    def take(self, wait_ms: int = 0) -> bool:
        """Take what is there; whether anything was."""
        ready = dict(self._poller.poll(wait_ms))
        for name in ("shell", "iopub"):
            if self._sockets[name] in ready:
                channel = getattr(self.client, f"{name}_channel")
                while channel.msg_ready():
                    self._took(name, channel.get_msg(timeout=0))
        return bool(ready)

    def _took(self, channel: str, message: dict[str, Any]) -> None:
        cell = self.cells.get(message["parent_header"].get("msg_id", ""))
        if cell is None:
            self.foreign.append(message)
        else:
            (cell.replies if channel == "shell" else cell.outputs).append(message)

    def until(self, cell: Cell, what: str = "") -> Cell:
        """Take messages until a cell is done, or has printed ``what``."""
        end = time.monotonic() + DEADLINE_S
        while not (what in cell.printed if what else cell.done):
            self.take(LOOK_MS)
            assert time.monotonic() < end, f"{what or 'the end'} of {cell}"
        return cell

    def run(self, code: str, **options: Any) -> Cell:
        """Send a cell and wait for its end."""
        return self.until(self.send(code, **options))

    def did(self, code: str) -> Cell:
        """The same for what must not fail."""
        cell = self.run(code)
        assert cell.ok, cell.reply
        return cell

    def value(self, code: str) -> Any:
        """What a cell's result is, for literals."""
        return eval(self.did(code).value)

    @property
    def breaks(self) -> list[tuple[str, int]]:
        """What connections have broken since they were made."""
        found = []
        for name, monitor in self._monitors.items():
            while monitor.poll(0):
                found.append((name, int(recv_monitor_message(monitor)["event"])))
        return found

    def close(self) -> None:
        for socket, monitor in zip(self._sockets.values(), self._monitors.values(), strict=True):
            socket.disable_monitor()
            monitor.close(linger=0)
        self.client.stop_channels()


def session_of(manager: KernelManager) -> KernelSession:
    """The host's side of a kernel of this process."""
    session = Engine.shared().session_of(manager.kernel_id)
    assert session is not None
    return session


def on_host(coroutine: Coroutine[Any, Any, T]) -> T:
    """Do something on the engine's loop."""
    return Engine.shared().run_blocking(coroutine)


def snapshot(manager: KernelManager, name: str) -> None:
    """From outside, as a panel does."""
    on_host(session_of(manager).take_snapshot(name))


def restore(manager: KernelManager, name: str) -> None:
    """From outside, as a panel does."""
    on_host(session_of(manager).restore(name))
