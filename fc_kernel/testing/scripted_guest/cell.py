"""A running cell of a scripted guest: its position and what it waits for, both plain data."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, Protocol

from ...errors import SpecError
from ...wire import operations
from ...wire.frames import Buffer
from .clock import Clock, Noise
from .faults import Faults
from .language import CellError, Statement, arguments, evaluate, statements
from .messages import Request

#: How long a cell waits for an event, such as the answer of the host.
FOR_EVER = math.inf
#: Between two outputs of ``stream(n)``, if nothing else is said.
STREAM_EVERY_S = 0.001


class World(Protocol):
    """The machine around the kernel."""

    clock: Clock
    entropy: Noise
    faults: Faults

    def say(self, channel: str, parts: list[Buffer]) -> None:
        """Send a message on a channel."""

    def full(self, channel: str) -> bool:
        """Whether the kernel has to wait before it says more."""

    def request(self, op: str, args: dict[str, Any], parent: str) -> int:
        """Ask the host; returns the request's number. Raises :class:`CellError`."""

    def exited(self, returncode: int) -> None:
        """The kernel has ended."""

    def facts(self) -> dict[str, Callable[..., Any]]:
        """Functions for cells that tell of the machine."""


class Kernel(Protocol):
    """The kernel that a cell runs in."""

    world: World
    names: dict[str, Any]
    functions: dict[str, Callable[..., Any]]
    interrupted: bool

    def say(self, kind: str, content: dict[str, Any], channel: str, request: Request) -> None:
        """Send a message about a request to the clients."""

    def print(self, text: str) -> None:
        """Write on standard output."""

    def done(self, cell: Cell) -> None:
        """The cell has run to its end."""

    def failed(self, cell: Cell, error: CellError) -> None:
        """The cell has ended in an error."""


class Cell:
    """One execute request; :meth:`step` after :meth:`step` until the kernel is told that it is done or failed."""

    def __init__(self, kernel: Kernel, request: Request, saved: dict[str, Any] | None = None) -> None:
        """Raises :class:`CellError` for code that cannot be run."""
        self.request = request
        self._kernel = kernel
        self._steps = statements(str(request.content.get("code", "")))
        self._at: int = saved["at"] if saved else 0
        #: What it waits for: a time, an input, the host's answer.
        self.waiting: dict[str, Any] | None = saved["waiting"] if saved else None
        self.result: str | None = saved["result"] if saved else None

    def state(self) -> dict[str, Any]:
        """The state, to be saved."""
        return {"request": self.request.state(), "at": self._at, "waiting": self.waiting, "result": self.result}

    @property
    def asked(self) -> str:
        """The operation whose answer by the host it waits for."""
        return str(self.waiting["op"]) if self.waiting is not None and self.waiting["for"] == "answer" else ""

    @property
    def deaf(self) -> bool:
        """Whether it is in native code that looks neither at signals nor at the freezer."""
        return self.waiting is not None and self.waiting["for"] == "native"

    def end_quietly(self) -> None:
        """End after a restore: what follows the present line does not run."""
        self.waiting = {"for": "end"}

    def answered(self, number: object, answer: dict[str, Any]) -> None:
        """The host answers the request of that number; another one is over already."""
        if self.waiting is not None and self.waiting.get("id") == number:
            self.answer(answer)

    def answer(self, answer: dict[str, Any]) -> None:
        """What it asked for is answered, with a ``result`` or an ``error``."""
        if self.asked and self.waiting is not None:
            self.waiting["answer"] = answer

    def given(self, text: str) -> None:
        """The user's answer to ``input()``."""
        if self.waiting is not None and self.waiting["for"] == "input":
            self._assign(self.waiting["target"], text)
            self.waiting = None

    def step(self) -> float:
        """Go on; returns the seconds until the next step can be made."""
        kernel = self._kernel
        try:
            if kernel.interrupted and not self.deaf:
                kernel.interrupted = False
                raise CellError("KeyboardInterrupt", "")
            if self.waiting is not None:
                return getattr(self, f"_wait_for_{self.waiting['for']}")(self.waiting)  # type: ignore[no-any-return]
            if self._at == len(self._steps):
                kernel.done(self)
                return 0.0
            statement = self._steps[self._at]
            self._at += 1
            self._run(statement)
        except CellError as error:
            kernel.failed(self, error)
        return 0.0

    def _run(self, statement: Statement) -> None:
        if statement.magic:
            self._magic(statement.magic, list(statement.words))
        elif statement.waiting:
            assert statement.value is not None  # noqa: S101 - it waits
            given = arguments(statement.value, self._kernel.names, self._kernel.functions)
            try:
                getattr(self, f"_{statement.waiting}")(statement.target, *given)
            except (TypeError, ValueError) as error:
                raise CellError(type(error).__name__, str(error)) from None
        else:
            assert statement.value is not None  # noqa: S101 - it is no magic
            value = evaluate(statement.value, self._kernel.names, self._kernel.functions)
            if statement.target:
                self._assign(statement.target, value)
            elif self._at == len(self._steps) and value is not None:
                self.result = repr(value)

    def _assign(self, target: str, value: Any) -> None:
        if target:
            self._kernel.names[target] = value

    # What takes time.

    def _sleep(self, _target: str, seconds: float) -> None:
        self.waiting = {"for": "sleep", "until": self._kernel.world.clock.monotonic() + float(seconds)}

    def _native(self, _target: str, seconds: float) -> None:
        self.waiting = {"for": "native", "until": self._kernel.world.clock.monotonic() + float(seconds)}

    def _stream(self, _target: str, count: int, every_s: float = STREAM_EVERY_S) -> None:
        self.waiting = {"for": "stream", "next": 0, "count": int(count), "every_s": float(every_s), "due": 0.0}

    def _input(self, target: str, prompt: str = "") -> None:
        if not self.request.content.get("allow_stdin"):
            raise CellError("StdinNotImplementedError", "this client takes no input requests")
        self._kernel.say("input_request", {"prompt": str(prompt), "password": False}, "stdin", self.request)
        self.waiting = {"for": "input", "target": target}

    def _wait_for_sleep(self, waiting: dict[str, Any]) -> float:
        left: float = waiting["until"] - self._kernel.world.clock.monotonic()
        if left > 0:
            return left
        self.waiting = None
        return 0.0

    _wait_for_native = _wait_for_sleep

    def _wait_for_stream(self, waiting: dict[str, Any]) -> float:
        now = self._kernel.world.clock.monotonic()
        if waiting["next"] >= waiting["count"]:
            self.waiting = None
        elif now < waiting["due"]:
            return float(waiting["due"] - now)
        else:
            self._kernel.print(f"{waiting['next']}\n")
            waiting["next"] += 1
            waiting["due"] = now + waiting["every_s"]
        return 0.0

    def _wait_for_input(self, _waiting: dict[str, Any]) -> float:
        return FOR_EVER

    def _wait_for_end(self, _waiting: dict[str, Any]) -> float:
        self._kernel.done(self)
        return 0.0

    def _wait_for_answer(self, waiting: dict[str, Any]) -> float:
        if "answer" not in waiting:
            return FOR_EVER
        answer, self.waiting = waiting["answer"], None
        if "error" in answer:
            raise CellError("SnapshotError", str(answer["error"]))
        for line in _shown(waiting["op"], answer["result"]):
            self._kernel.print(f"{line}\n")
        return 0.0

    # Magics.

    def _magic(self, name: str, words: list[str]) -> None:
        if name == "fault":
            try:
                self._kernel.world.faults.add(",".join(words))
            except SpecError as error:
                raise CellError("UsageError", str(error)) from None
            return
        op, args = magic_request(name, words)
        number = self._kernel.world.request(op, args, self.request.msg_id)
        self.waiting = {"for": "answer", "op": op, "id": number}


def magic_request(name: str, words: list[str]) -> tuple[str, dict[str, Any]]:
    """The operation and its arguments that a magic asks of the host; raises :class:`CellError`.

    ``%request OP JSON`` asks for whatever one likes.
    """
    try:
        if name == "request":
            return words[0], json.loads(words[1])
        flag = {operations.SNAPSHOT: "-m", operations.FORK: "-n"}.get(name, "")
        option = words[words.index(flag) + 1] if flag in words else ""
        if flag in words:
            at = words.index(flag)
            words = words[:at] + words[at + 2 :]
        same_seed = "--same-seed" in words
        rest = [word for word in words if word != "--same-seed"]
        first = rest[0] if rest else None
        if name == operations.SNAPSHOT:
            return name, {"name": first, "description": option}
        if name == operations.RESTORE:
            return name, {"name": rest[0], "same_seed": same_seed}
        if name == operations.FORK:
            count = int(option or (first if first is not None and first.isdigit() else 1))
            return name, {"name": None if first is not None and first.isdigit() else first, "count": count}
        if name in (operations.SNAPSHOTS, operations.VM) and not rest:
            return name, {}
    except (IndexError, ValueError, TypeError) as error:
        raise CellError("UsageError", f"%{name}: {error}") from None
    raise CellError("UsageError", f"a scripted guest knows no %{name} {' '.join(words)}")


def _shown(op: str, result: Any) -> list[str]:
    """The lines that a magic prints of the host's answer."""
    if not isinstance(result, dict):
        raise CellError("ProtocolError", f"the host answered {op} with {result!r:.100}")
    try:
        if op == operations.SNAPSHOT:
            return [f"snapshot {result['snapshot']['name']}"]
        if op == operations.SNAPSHOTS:
            return [f"snapshot {each['name']}" for each in result["snapshots"]]
        if op == operations.FORK:
            return [f"fork {each['kernel_id']} {each['connection_file']}" for each in result["forks"]]
    except (KeyError, TypeError) as error:
        raise CellError("ProtocolError", f"the host answered {op} without {error}") from None
    return [json.dumps(result)]
