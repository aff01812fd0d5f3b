"""A host's side of a scripted guest, no more than tests need: calls on the control connection, messages over links."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fc_kernel.base.paths import RunDir, new_vm_id, runtime_dir
from fc_kernel.channels.signing import DELIMITER, Composer, Signer
from fc_kernel.machine.dial import dial
from fc_kernel.settings.spec import VmSpec
from fc_kernel.testing import FakeVmm
from fc_kernel.vmm.base import BootPlan, SnapshotCreate, SnapshotFiles, SnapshotLoad
from fc_kernel.wire.link import Link, MessageReceived
from fc_kernel.wire.ports import CHANNEL_PORTS, CONTROL_PORT

from ..waiting import until

DEADLINE_S = 30.0
MEM_MIB = 16
IDENTITY = b"a client"


class CallFailed(Exception):
    """The agent answered with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        self.code = error["code"]
        super().__init__(error["message"])


class Wire:
    """One channel: a link over a socket, read in the background."""

    def __init__(
        self, sock: socket.socket, name: str, generation: int, received: Callable[[list[bytes]], None]
    ) -> None:
        self._sock = sock
        self._link = Link(name, generation=generation, dialer=True)
        self._received = received
        self._link.connection_made()
        self.established = asyncio.Event()
        self.task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        await self._flush()
        while data := await loop.sock_recv(self._sock, 1 << 16):
            for event in self._link.receive_data(data):
                if isinstance(event, MessageReceived):
                    self._received([bytes(part) for part in event.parts])
                else:
                    self.established.set()
            await self._flush()

    async def _flush(self) -> None:
        while self._link.wants_to_send:
            buffers = b"".join(self._link.data_to_send())
            await asyncio.get_running_loop().sock_sendall(self._sock, buffers)
            self._link.data_sent(len(buffers))

    async def send(self, parts: list[Any]) -> None:
        self._link.send(parts)
        await self._flush()

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self._sock.close()


class Message:
    """What the guest said, its parts parsed."""

    def __init__(self, channel: str, parts: list[bytes], signer: Signer) -> None:
        at = parts.index(DELIMITER)
        assert signer.valid(parts[at + 1], parts[at + 2 : at + 6])
        header, parent, _, content = map(json.loads, parts[at + 2 : at + 6])
        self.channel = channel
        self.identities = parts[:at]
        self.kind: str = header["msg_type"]
        self.session: str = header["session"]
        self.parent: str | None = parent.get("msg_id")
        self.content: dict[str, Any] = content


class ScriptedHost:
    """One scripted guest and all that it said."""

    def __init__(self, vmm: FakeVmm) -> None:
        self.vmm = vmm
        self.messages: list[Message] = []
        self.notified: list[tuple[str, dict[str, Any]]] = []
        self.key = "first key"
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._calls = 0
        self._wires: dict[str, Wire] = {}
        self._control: socket.socket | None = None
        self.reader: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        self._control = await dial(self.vmm.uds_path, CONTROL_PORT)
        self.reader = asyncio.ensure_future(self._read(self._control))

    async def _read(self, control: socket.socket) -> None:
        rest = b""
        while data := await asyncio.get_running_loop().sock_recv(control, 1 << 16):
            *lines, rest = (rest + data).split(b"\n")
            for message in map(json.loads, lines):
                if "method" in message:
                    self.notified.append((message["method"], message["params"]))
                elif "error" in message:
                    self._answers[message["id"]].set_exception(CallFailed(message["error"]))
                else:
                    self._answers[message["id"]].set_result(message["result"])

    def begin(self, method: str, **params: Any) -> asyncio.Future[Any]:
        """Call without waiting for the answer; returns it to come."""
        assert self._control is not None
        self._calls += 1
        answer = self._answers[self._calls] = asyncio.get_running_loop().create_future()
        line = json.dumps({"jsonrpc": "2.0", "id": self._calls, "method": method, "params": params}) + "\n"
        self._control.sendall(line.encode())
        return answer

    async def call(self, method: str, **params: Any) -> Any:
        return await asyncio.wait_for(self.begin(method, **params), DEADLINE_S)

    async def hello(self) -> Any:
        seed = base64.b64encode(os.urandom(32)).decode()
        return await self.call("hello", protocol=2, time=time.time(), entropy_b64=seed)

    async def start_kernel(self, **changes: Any) -> None:
        """A kernel, and the channels to it."""
        params: dict[str, Any] = {
            "argv": None,
            "env": {"A": "1"},
            "cwd": None,
            "key": self.key,
            "instance": 1,
            **changes,
        }
        await self.call("kernel.start", **params)
        await self.attach(params["instance"])

    async def attach(self, generation: int) -> None:
        await self.detach()
        for name, port in CHANNEL_PORTS.items():
            sock = await dial(self.vmm.uds_path, port)
            self._wires[name] = Wire(sock, name, generation, partial(self._received, name))
        for wire in self._wires.values():
            await asyncio.wait_for(wire.established.wait(), DEADLINE_S)

    def _received(self, channel: str, parts: list[bytes]) -> None:
        self.messages.append(Message(channel, parts, Signer(self.key.encode())))

    async def detach(self) -> None:
        for wire in self._wires.values():
            await wire.close()
        self._wires.clear()

    async def request(self, kind: str, content: dict[str, Any], channel: str = "shell", key: str | None = None) -> str:
        """Send a message of a client; returns its id."""
        parts = Composer(Signer((key or self.key).encode())).message(kind, content, identities=[IDENTITY])
        await self._wires[channel].send(parts)
        return str(json.loads(bytes(parts[3]))["msg_id"])

    async def send(self, code: str, **content: Any) -> str:
        """Send an execute request; returns its id."""
        given = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": True}
        return await self.request("execute_request", {**given, "stop_on_error": True, **content})

    def said(self, kind: str, parent: str | None = None) -> list[dict[str, Any]]:
        """The contents of messages of that kind."""
        found = [message for message in self.messages if message.kind == kind]
        return [message.content for message in found if parent is None or message.parent == parent]

    def printed(self, parent: str | None = None) -> str:
        return "".join(content["text"] for content in self.said("stream", parent))

    def idle(self, parent: str) -> bool:
        return {"execution_state": "idle"} in self.said("status", parent)

    async def reply(self, msg_id: str, kind: str = "execute_reply") -> dict[str, Any]:
        """The reply, when the kernel is idle again."""
        await until(lambda: self.said(kind, msg_id) and self.idle(msg_id), DEADLINE_S)
        [content] = self.said(kind, msg_id)
        return content

    async def run(self, code: str, **content: Any) -> dict[str, Any]:
        return await self.reply(await self.send(code, **content))

    async def value(self, expression: str) -> str:
        reply = await self.run("", silent=True, user_expressions={"value": expression})
        return str(reply["user_expressions"]["value"]["data"]["text/plain"])

    async def asked(self) -> dict[str, Any]:
        """The kernel's next request to the host."""
        await until(lambda: any(method == "kernel.request" for method, _ in self.notified), DEADLINE_S)
        for number, (method, params) in enumerate(self.notified):
            if method == "kernel.request":
                del self.notified[number]
                return params
        raise AssertionError

    async def save(self, files: SnapshotFiles, kind: Any = "full", **freeze: Any) -> dict[str, Any]:
        """Freeze, pause, snapshot, resume, thaw; returns what the freezing said."""
        frozen: dict[str, Any] = await self.call("freeze", **{"hooks": True, "timeout_s": 1.0, **freeze})
        await self.vmm.pause()
        await self.vmm.snapshot(SnapshotCreate(files=files, kind=kind))
        await self.vmm.resume()
        await self.vmm.written()
        await self.call("thaw")
        return frozen

    async def restored(self, generation: int = 2, **changes: Any) -> dict[str, Any]:
        """Tell a loaded guest who it is now, and attach."""
        self.key = changes.pop("key", f"key {generation}")
        renewed = await self.call("renew", **restored_params(generation, key=self.key, **changes))
        await self.attach(generation)
        return {**renewed, **await self.call("thaw")}

    async def close(self) -> None:
        await self.detach()
        if self.reader is not None and self._control is not None:
            self.reader.cancel()
            await asyncio.gather(self.reader, return_exceptions=True)
            self._control.close()


def restored_params(generation: int, **changes: Any) -> dict[str, Any]:
    return {
        "generation": generation, "role": "restored", "name": "s1", "time": time.time(),
        "entropy_b64": base64.b64encode(os.urandom(32)).decode(), "hostname": f"h{generation}", "machine_id": "0" * 32,
        "key": "key", "env": {}, "cwd": None, "reseed": True, **changes,
    }  # fmt: skip


@asynccontextmanager
async def machine(faults: str = "", mem_mib: int = MEM_MIB, **spec: Any) -> AsyncIterator[FakeVmm]:
    """A scripted machine that was neither started nor loaded."""
    run_dir = RunDir.create(runtime_dir(), new_vm_id())
    plan = BootPlan(vm_id=run_dir.path.name, spec=VmSpec(mem_size_mib=mem_mib, **spec), run_dir=run_dir.path)
    vmm = FakeVmm(plan, guest="scripted", faults=faults)
    try:
        yield vmm
    finally:
        await vmm.aclose()
        run_dir.remove()


@asynccontextmanager
async def booted(faults: str = "", *, kernel: bool = True, **options: Any) -> AsyncIterator[ScriptedHost]:
    """A machine that was booted and greeted, with a kernel."""
    async with machine(faults, **options) as vmm:
        await vmm.start()
        host = ScriptedHost(vmm)
        try:
            await host.connect()
            await host.hello()
            if kernel:
                await host.start_kernel()
            yield host
        finally:
            await host.close()


@asynccontextmanager
async def loaded(
    files: SnapshotFiles, faults: str = "", *, layers: tuple[Path, ...] = (), **options: Any
) -> AsyncIterator[ScriptedHost]:
    """A machine that was loaded and does not know it yet."""
    async with machine(faults) as vmm:
        await vmm.load(SnapshotLoad(files=files, layers=layers, **options))
        host = ScriptedHost(vmm)
        try:
            await host.connect()
            yield host
        finally:
            await host.close()


def files_in(directory: Path, name: str = "s") -> SnapshotFiles:
    return SnapshotFiles(vmstate=directory / f"{name}.vmstate", mem=directory / f"{name}.mem")
