"""A small Jupyter kernel whose whole state is plain data: it can be frozen at any step, saved, and continued elsewhere."""

from __future__ import annotations

import json
import signal
from collections import deque
from collections.abc import Callable
from typing import Any

from ...channels.signing import Composer, Signer
from ...errors import RemoteProtocolError
from .cell import FOR_EVER, Cell, World
from .clock import Noise
from .language import CellError, evaluate, statements
from .messages import Raw, Request, packed, unpacked

#: Steps of a cell before the host's calls get their turn.
BURST = 64
INFO = {
    "status": "ok",
    "protocol_version": "5.4",
    "implementation": "scripted",
    "implementation_version": "1",
    "language_info": {"name": "python", "version": "3", "mimetype": "text/x-python", "file_extension": ".py"},
    "banner": "A scripted guest of fc_kernel.testing",
    "help_links": [],
}
#: The answers to requests of editors: nothing is known.
NOTHING: dict[str, dict[str, Any]] = {
    "complete": {"status": "ok", "matches": [], "cursor_start": 0, "cursor_end": 0, "metadata": {}},
    "inspect": {"status": "ok", "found": False, "data": {}, "metadata": {}},
    "history": {"status": "ok", "history": []},
    "is_complete": {"status": "complete"},
    "comm_info": {"status": "ok", "comms": {}},
}
QUEUES = ("shell", "control", "stdin")


class ScriptedKernel:
    """One kernel process, so to speak. Things happen only in :meth:`turn` and in calls of its methods."""

    def __init__(self, world: World, *, instance: int, key: str, env: dict[str, str], cwd: str) -> None:
        self.world = world
        self.instance = instance
        self.env = env
        self.cwd = cwd
        self.names: dict[str, Any] = {}
        self.execution_count = 0
        self.frozen = False
        self.interrupted = False
        self.returncode: int | None = None
        self.cell: Cell | None = None
        self._queues: dict[str, deque[Raw]] = {name: deque() for name in QUEUES}
        self._hooks: dict[str, list[str]] = {"snapshot": [], "restore": []}
        self._noise = Noise(world.entropy.draw().hex())
        self._parent: dict[str, Any] = {}
        self._told = False
        self.functions: dict[str, Callable[..., Any]] = {
            **world.facts(),
            "print": lambda *values: self.print(" ".join(map(str, values)) + "\n"),
            "random": lambda: int.from_bytes(self._noise.draw()[:6], "big") / (1 << 48),
            "env": self._environment,
            "cwd": lambda: self.cwd,
            "instance": lambda: self.instance,
            "on_snapshot": lambda code: self._hooks["snapshot"].append(str(code)),
            "on_restore": lambda code: self._hooks["restore"].append(str(code)),
            "exit": lambda status=0: self.exit(int(status)),
        }
        self._use_key(key)

    def _environment(self, name: str) -> str | None:
        return self.env.get(name)

    def _use_key(self, key: str) -> None:
        self._key = key
        self._signer = Signer(key.encode())
        # A session of its own: a restored kernel's messages are not those of the past.
        self._composer = Composer(self._signer)

    def state(self) -> dict[str, Any]:
        """The whole state, to be saved."""
        return {
            **{name: getattr(self, name) for name in PLAIN},
            "key": self._key,
            "cell": self.cell.state() if self.cell is not None else None,
            "queues": {name: [packed(raw) for raw in queue] for name, queue in self._queues.items()},
            "hooks": self._hooks,
            "noise": self._noise.state(),
            "parent": self._parent,
        }

    @classmethod
    def of_state(cls, world: World, state: dict[str, Any]) -> ScriptedKernel:
        """A kernel from a saved state."""
        kernel = cls(world, instance=state["instance"], key=state["key"], env=state["env"], cwd=state["cwd"])
        for name in PLAIN:
            setattr(kernel, name, state[name])
        for name, queue in state["queues"].items():
            kernel._queues[name].extend(unpacked(raw) for raw in queue)
        kernel._hooks.update(state["hooks"])
        kernel._noise = Noise(*state["noise"])
        kernel._parent = state["parent"]
        if (cell := state["cell"]) is not None:
            kernel.cell = Cell(kernel, Request.of_state(cell["request"]), cell)
        return kernel

    # The machine's side.

    def received(self, channel: str, raw: Raw) -> None:
        """Queue a message from the host. Its signature is checked when its turn comes, with the key that is valid then."""
        self._queues[channel].append(raw)

    def turn(self) -> float | None:
        """Do what there is to do; returns the seconds until the next turn, or ``None`` if something has to happen before."""
        for _ in range(BURST):
            if self.frozen or self.returncode is not None:
                return None
            for channel in ("control", "stdin"):
                if self._queues[channel]:
                    self._serve(channel)
            if self.returncode is not None or self.world.full("iopub"):
                return None
            if self.cell is not None:
                self._tell()
                delay = self.cell.step()
                if delay:
                    return None if delay == FOR_EVER else delay
            elif self._queues["shell"]:
                self._serve("shell")
            else:
                return None
        return 0.0

    def _tell(self) -> None:
        """Say on the console once, in each life, that user code runs."""
        if not self._told:
            self._told = True
            print("kernel: user code runs", flush=True)

    def signal(self, signum: int) -> None:
        """Take a signal from the host. A frozen process obeys only SIGKILL at once."""
        if signum == signal.SIGINT:
            self.interrupted = self.cell is not None
        elif signum == signal.SIGKILL or (signum == signal.SIGTERM and not self.frozen):
            self.exit(-signum)

    def exit(self, returncode: int) -> None:
        """End."""
        if self.returncode is None:
            self.returncode = returncode
            self.cell = None
            self.world.exited(returncode)

    def freeze(self) -> bool:
        """Stand still until :attr:`frozen` is unset; returns whether the kernel itself agreed."""
        self.frozen = True
        return self.cell is None or not self.cell.deaf

    def renew(self, *, key: str, env: dict[str, str], cwd: str | None, reseed: bool) -> None:
        """Begin anew after a restore. The new key comes first, so that what was queued before it never runs."""
        self._use_key(key)
        self.env.update(env)
        self.cwd = cwd or self.cwd
        if reseed:
            self._noise = Noise(self.world.entropy.draw().hex())

    def answered(self, number: object, answer: dict[str, Any]) -> None:
        """The host answers a cell's request."""
        if self.cell is not None:
            self.cell.answered(number, answer)

    def run_hooks(self, moment: str) -> list[str]:
        """Run what was given to ``on_snapshot`` or ``on_restore``; returns the errors."""
        errors = []
        for code in self._hooks[moment]:
            try:
                for statement in statements(code):
                    if statement.magic or statement.waiting or statement.value is None:
                        raise CellError("SyntaxError", "a hook neither waits nor asks")
                    value = evaluate(statement.value, self.names, self.functions)
                    if statement.target:
                        self.names[statement.target] = value
            except CellError as error:
                errors.append(str(error))
        return errors

    # The client's side.

    def say(self, kind: str, content: dict[str, Any], channel: str = "iopub", request: Request | None = None) -> None:
        """Send a message; without a request its parent is the one that runs."""
        header = request.header if request is not None else self._parent
        topic = [f"kernel.{self.instance}.{kind}".encode()]
        identities = topic if channel == "iopub" or request is None else request.identities
        parts = self._composer.message(kind, content, json.dumps(header).encode(), identities)
        self.world.say(channel, list(parts))

    def print(self, text: str) -> None:
        """An output of the cell that runs."""
        self.say("stream", {"name": "stdout", "text": text})

    def _serve(self, channel: str) -> None:
        try:
            request = Request.of(self._queues[channel].popleft(), self._signer)
        except RemoteProtocolError as error:
            print(f"kernel: dropped on {channel}: {error}", flush=True)
            return
        kind = request.kind.removesuffix("_request")
        if channel == "stdin":
            if self.cell is not None and request.kind == "input_reply":
                self.cell.given(str(request.content.get("value", "")))
            return
        if kind == "execute" and channel == "shell":
            self._execute(request)
            return
        self.say("status", {"execution_state": "busy"}, request=request)
        if kind == "kernel_info":
            self.say("kernel_info_reply", INFO, channel, request)
        elif kind in ("shutdown", "interrupt"):
            content = {
                "status": "ok",
                **({"restart": bool(request.content.get("restart"))} if kind == "shutdown" else {}),
            }
            self.say(f"{kind}_reply", content, channel, request)
            if kind == "interrupt":
                self.signal(signal.SIGINT)
        elif kind in NOTHING:
            self.say(f"{kind}_reply", NOTHING[kind], channel, request)
        self.say("status", {"execution_state": "idle"}, request=request)
        if kind == "shutdown":
            self.exit(0)

    def _execute(self, request: Request) -> None:
        content = request.content
        self._parent = request.header
        self.interrupted = False
        self.say("status", {"execution_state": "busy"})
        if not content.get("silent"):
            self.execution_count += bool(content.get("store_history", True))
            code = str(content.get("code", ""))
            self.say("execute_input", {"code": code, "execution_count": self.execution_count})
        try:
            self.cell = Cell(self, request)
        except CellError as error:
            self._reply_error(request, error)

    def done(self, cell: Cell) -> None:
        """A cell has come to its end."""
        self.cell = None
        if cell.result is not None and not cell.request.content.get("silent"):
            data = {"text/plain": cell.result}
            self.say("execute_result", {"execution_count": self.execution_count, "data": data, "metadata": {}})
        asked = cell.request.content.get("user_expressions") or {}
        expressions = {str(name): self._expression(str(code)) for name, code in asked.items()}
        self._reply(cell.request, {"status": "ok", "user_expressions": expressions, "payload": []})

    def failed(self, cell: Cell, error: CellError) -> None:
        """A cell has raised."""
        self.cell = None
        self._reply_error(cell.request, error)

    def _expression(self, code: str) -> dict[str, Any]:
        try:
            [statement] = statements(code)
            if statement.value is None or statement.target:
                raise CellError("SyntaxError", "not an expression")
            value = evaluate(statement.value, self.names, self.functions)
        except ValueError:
            return {"status": "error", "ename": "SyntaxError", "evalue": "not an expression", "traceback": []}
        except CellError as error:
            return {"status": "error", "ename": error.ename, "evalue": error.evalue, "traceback": [str(error)]}
        return {"status": "ok", "data": {"text/plain": repr(value)}, "metadata": {}}

    def _reply_error(self, request: Request, error: CellError) -> None:
        what = {"ename": error.ename, "evalue": error.evalue, "traceback": [str(error)]}
        self.say("error", what)
        self._reply(request, {"status": "error", **what, "user_expressions": {}, "payload": []})
        if request.content.get("stop_on_error", True):
            self._abort_queued()

    def _reply(self, request: Request, content: dict[str, Any]) -> None:
        if self.returncode is None:
            content = {**content, "execution_count": self.execution_count}
            self.say("execute_reply", content, "shell", request)
            self.say("status", {"execution_state": "idle"}, request=request)

    def _abort_queued(self) -> None:
        """As ipykernel does: what was queued behind a cell that failed is not run."""
        queue, kept = self._queues["shell"], []
        while queue:
            raw = queue.popleft()
            try:
                request = Request.of(raw, self._signer)
            except RemoteProtocolError:
                continue
            if request.kind != "execute_request":
                kept.append(raw)
                continue
            self.say("status", {"execution_state": "busy"}, request=request)
            self._reply(request, {"status": "aborted"})
        queue.extend(kept)


#: The attributes of a kernel that are plain data as they are.
PLAIN = ("instance", "env", "cwd", "names", "execution_count", "frozen", "interrupted", "returncode")
