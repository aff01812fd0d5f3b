"""The machine of a scripted guest, and the monitor too: one process, whose driver commands it over a socket pair.

Commands and answers are JSON, a line each, one at a time. ``start`` or ``load`` comes first; then ``pause``, ``resume``, and
while paused ``snapshot`` and ``discard``; ``inject`` at any time. A paused machine only waits for the next command.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import FcKernelError, SnapshotCorrupt
from ...guest.loop import POLLIN, Loop
from ...guest.transport import listen_hybrid
from ..guest_services import ConformanceServices
from .agent import ScriptedAgent
from .clock import Clock
from .faults import Faults, die
from .memory import Memory, read_vmstate, write_vmstate

if TYPE_CHECKING:
    from ...guest.interfaces import Handler, Stream

#: What opening, reading and parsing the files may raise.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, SnapshotCorrupt)


class ConformanceMachine(ConformanceServices):
    """The services of a guest under test, whose counters can be saved."""

    def __init__(self, loop: Loop, saved: dict[str, Any] | None = None) -> None:
        super().__init__(loop)
        if saved:
            self.counter, self.sunk = saved["counter"], saved["sunk"]

    def state(self) -> dict[str, Any]:
        """The state, to be saved."""
        return {"counter": self.counter, "sunk": self.sunk}


class _TrackingHandler:
    """A handler whose stream the machine knows, so that it can close it."""

    def __init__(self, handler: Handler, streams: set[Stream]) -> None:
        self.get_buffer, self.buffer_updated, self.writable = (
            handler.get_buffer, handler.buffer_updated, handler.writable,
        )  # fmt: skip
        self._handler = handler
        self._streams = streams
        self._stream: Stream | None = None

    def connected(self, stream: Stream) -> None:
        """A new stream."""
        self._stream = stream
        self._streams.add(stream)
        self._handler.connected(stream)

    def lost(self, reason: str) -> None:
        """The stream is closed."""
        if self._stream is not None:
            self._streams.discard(self._stream)
        self._handler.lost(reason)


class Machine:
    """The machine that the driver commands."""

    def __init__(self, loop: Loop, monitor: socket.socket, uds: str, faults: Faults, service: str) -> None:
        self._loop = loop
        self._monitor = monitor
        self._lines = monitor.makefile("rb")
        self._uds = uds
        self._faults = faults
        self._service_name = service
        self._clock = Clock()
        #: A socket for each network interface, named after its device on the host, so that only one machine has it.
        self._claims: list[socket.socket] = []
        self._streams: set[Stream] = set()

    def run(self) -> None:
        """Serve until the driver's end of the connection is closed."""
        command = self._next()
        try:
            self._take("load" if command["do"] == "load" else "start")
            (self._load if command["do"] == "load" else self._start)(command)
            listen_hybrid(self._loop, self._uds, self._accept)
        except UNREADABLE as error:
            self._answer({"error": str(error) or type(error).__name__})
            sys.exit(1)
        self._loop.watch(self._monitor.fileno(), POLLIN, lambda _events: self._commanded(self._next()))
        print("agent: ready, transport hybrid", flush=True)
        self._answer({})
        if command.get("resume") is False:
            self._stand_still()
        self._loop.run()

    def _start(self, command: dict[str, Any]) -> None:
        self._shape = command["shape"]
        self._memory = Memory(self._shape["mem_size_mib"] << 20)
        self._claim(self._shape["interfaces"])
        self._serve(None)

    def _load(self, command: dict[str, Any]) -> None:
        facts = read_vmstate(Path(command["vmstate"]))
        self._shape, self._service_name = facts["shape"], facts["service"]
        unknown = command["overrides"].keys() - self._shape["interfaces"].keys()
        if unknown:
            raise ValueError(f"no network interface {', '.join(sorted(unknown))} in the snapshot")
        self._shape["interfaces"].update(command["overrides"])
        layers = [Path(layer) for layer in command["layers"]]
        self._memory, state = Memory.read(Path(command["mem"]), layers, self._shape["mem_size_mib"] << 20)
        self._claim(self._shape["interfaces"])
        self._clock = Clock(state["clock"])
        self._serve(state["service"])

    def _serve(self, saved: dict[str, Any] | None) -> None:
        self._service: ConformanceMachine | ScriptedAgent
        if self._service_name == "conformance":
            self._service = ConformanceMachine(self._loop, saved)
        else:
            self._service = ScriptedAgent(self._loop, self._clock, self._faults, self._shape, saved)

    def _accept(self, port: int) -> Handler | None:
        handler = self._service.accept(port)
        return handler if handler is None else _TrackingHandler(handler, self._streams)

    def _claim(self, interfaces: dict[str, str]) -> None:
        for device in interfaces.values():
            if Path(f"/sys/class/net/{device}").exists() and not Path(f"/sys/class/net/{device}/tun_flags").exists():
                raise OSError(f"the network device {device} is not a TAP device")
            claim = socket.socket(socket.AF_UNIX)
            self._claims.append(claim)
            try:
                claim.bind(f"\0fc-kernel-fake-{device}")
            except OSError as error:
                raise OSError(error.errno, f"the network device {device} is taken") from None

    def _next(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            sys.exit(0)  # the driver is gone
        command: dict[str, Any] = json.loads(line)
        return command

    def _answer(self, answer: dict[str, Any]) -> None:
        self._monitor.sendall(json.dumps(answer).encode() + b"\n")

    def _commanded(self, command: dict[str, Any]) -> None:
        if command["do"] == "pause":
            self._take("pause")
            self._answer({})
            self._stand_still()
        else:
            self._inject(command)

    def _stand_still(self) -> None:
        self._clock.stop()
        while (command := self._next())["do"] != "resume":
            if command["do"] == "snapshot":
                self._answer(self._snapshot(command))
            elif command["do"] == "discard":
                self._memory.discard()
                self._answer({})
            else:
                self._inject(command)
        self._take("resume")
        self._clock.go()
        self._answer({})
        if self._faults.resets:
            for stream in list(self._streams):
                stream.close("reset")

    def _inject(self, command: dict[str, Any]) -> None:
        try:
            self._faults.add(command["faults"])
        except FcKernelError as error:
            self._answer({"error": str(error)})
        else:
            self._answer({})

    def _snapshot(self, command: dict[str, Any]) -> dict[str, Any]:
        state = {"clock": self._clock.state(), "service": self._service.state()}
        diff = command["kind"] == "diff"
        try:
            self._memory.write(Path(command["mem"]), state, diff=diff, halfway=lambda: self._take("snapshot"))
            try:
                self._take("vmstate")
                write_vmstate(Path(command["vmstate"]), {"shape": self._shape, "service": self._service_name})
            except OSError:
                self._memory.discard()
                raise
        except (OSError, MemoryError) as error:
            return {"error": str(error), "errno": getattr(error, "errno", None)}
        return {}

    def _take(self, step: str) -> None:
        """Take a step; if there is a fault at it, it happens now."""
        fault = self._faults.at(step)
        if fault is None:
            return
        if fault.what == "die":
            die()
        elif fault.what == "hang":
            while True:
                signal.pause()
        elif fault.what == "late":
            time.sleep(fault.value)
        elif fault.what != "reset":
            raise fault.error or OSError(f"{step} was refused")
