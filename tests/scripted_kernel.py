"""Kernels of scripted guests behind the real host: sessions on an engine of their own, and clients that keep all they hear."""

from __future__ import annotations

import asyncio
import itertools
import json
import queue
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient
from traitlets.config import Config

from fc_kernel.api.calls import ForkResult, OpenKernel, RawSettings, StartKernel, TakeSnapshot
from fc_kernel.host.client import LEASE_S, HostClient
from fc_kernel.host.engine import Engine
from fc_kernel.host.held import HeldKernel
from fc_kernel.host.local import LocalHost
from fc_kernel.host.service import KernelHost
from fc_kernel.sessions.session import KernelSession
from fc_kernel.settings.config import FcKernelConfig
from fc_kernel.settings.tenant import Tenant
from fc_kernel.snapshots.store import SnapshotStore
from fc_kernel.testing import FakeVmm

from .encoded_host import EncodedHost
from .waiting import until

DEADLINE_S = 120.0
MEM_MIB = 16
KEY = b"a key of the clients"
SCOPE = "a.ipynb"
LOOK_EVERY_S = 0.05


def scripted_environment(patch: pytest.MonkeyPatch, data_dir: Path) -> None:
    """The fake monitor runs scripted guests, and all that is kept is kept below ``data_dir``."""
    patch.setenv("FC_KERNEL_FAKE_GUEST", "scripted")
    patch.setenv("FC_KERNEL_DATA_DIR", str(data_dir / "data"))
    patch.setenv("FC_KERNEL_CACHE_DIR", str(data_dir / "cache"))
    patch.setenv("JUPYTER_RUNTIME_DIR", str(data_dir / "runtime"))


class Cell:
    """A request of ours and all that was said of it."""

    def __init__(self) -> None:
        self.replies: list[dict[str, Any]] = []
        self.outputs: list[dict[str, Any]] = []

    @property
    def idles(self) -> int:
        return sum(message["content"].get("execution_state") == "idle" for message in self.outputs)

    @property
    def done(self) -> bool:
        return bool(self.replies) and self.idles > 0

    @property
    def reply(self) -> dict[str, Any]:
        """The content of the one reply, after which the kernel went idle once."""
        assert len(self.replies) == 1, self.story
        assert self.idles == 1, self.story
        content: dict[str, Any] = self.replies[0]["content"]
        return content

    @property
    def story(self) -> list[str]:
        """All that was said, in short, for a test that fails."""
        said = [*self.outputs, *self.replies]
        shown = ("execution_state", "text", "ename", "status")
        return [" ".join([each["msg_type"], *(str(each["content"].get(key, "")) for key in shown)]) for each in said]

    @property
    def printed(self) -> str:
        return "".join(each["content"]["text"] for each in self.outputs if each["msg_type"] == "stream")

    @property
    def value(self) -> str:
        [text] = [
            each["content"]["data"]["text/plain"] for each in self.outputs if each["msg_type"] == "execute_result"
        ]
        return str(text)


class Client:
    """Keeps every message, by the request that it answers; what answers none of ours is kept, too."""

    def __init__(self, info: Any) -> None:
        self._client = AsyncKernelClient()
        self._client.load_connection_info(info)
        self._client.start_channels()
        self.key = info["key"]
        self.cells: dict[str, Cell] = defaultdict(Cell)
        self.sent: list[str] = []
        self._tasks = [
            asyncio.ensure_future(self._listen(self._client.get_shell_msg, "replies")),
            asyncio.ensure_future(self._listen(self._client.get_iopub_msg, "outputs")),
        ]

    @classmethod
    def of_file(cls, connection_file: Path) -> Client:
        """As anybody makes one from a connection file."""
        return cls(json.loads(connection_file.read_text()))

    async def _listen(self, receive: Callable[..., Awaitable[dict[str, Any]]], where: str) -> None:
        while True:
            try:
                # Sending on a socket takes its wake-up, too: without a timeout a reply that came just then would lie there.
                message = await receive(timeout=LOOK_EVERY_S)
            except queue.Empty:
                continue
            parent = message["parent_header"].get("msg_id", "")
            getattr(self.cells[parent], where).append(message)

    @property
    def foreign(self) -> list[str]:
        """Of which requests that are not ours something was said."""
        return [parent for parent in self.cells if parent and parent not in self.sent]

    def send(self, code: str, **options: Any) -> Cell:
        msg_id = self._client.execute(code, allow_stdin=False, **options)
        self.sent.append(msg_id)
        return self.cells[msg_id]

    async def until_done(self, cell: Cell) -> Cell:
        await until(lambda: cell.done, DEADLINE_S)
        return cell

    async def run(self, code: str, **options: Any) -> Cell:
        return await self.until_done(self.send(code, **options))

    async def value(self, expression: str) -> str:
        return (await self.run(expression)).value

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._client.stop_channels()


class ScriptedKernel:
    """A session and a client of it."""

    def __init__(self, tenant: Tenant, engine: Engine, host: HostClient, kernel_id: str) -> None:
        self.tenant = tenant
        self.config = tenant.config
        self.engine = engine
        self.kernel_id = kernel_id
        self._host = host
        self.held: HeldKernel
        self.session: KernelSession
        self.client: Client
        self._clients: list[Client] = []

    async def open(self) -> ScriptedKernel:
        self.held = await self._host.open(OpenKernel(kernel_id=self.kernel_id, key=KEY, scope=SCOPE, lease_s=LEASE_S))
        self.held.keep()
        session = self.engine.session_of(self.kernel_id)
        assert session is not None
        self.session = session
        endpoints = self.held.endpoints
        ports = {f"{channel}_port": port for channel, port in endpoints.ports.items()}
        self._info = {"transport": "ipc", "ip": endpoints.ip, "key": KEY, "signature_scheme": "hmac-sha256", **ports}
        self.client = self.new_client()
        return self

    def new_client(self) -> Client:
        """One more client of this kernel; all are closed with it."""
        self._clients.append(Client(self._info))
        return self._clients[-1]

    async def start(self, **settings: Any) -> None:
        await self.held.start(StartKernel(settings=RawSettings(call={"mem_size_mib": MEM_MIB, **settings})))

    @property
    def store(self) -> SnapshotStore:
        return self.session.store

    @property
    def vmm(self) -> FakeVmm:
        assert self.session.machine is not None
        vmm = self.session.machine.vmm
        assert isinstance(vmm, FakeVmm)
        return vmm

    async def inject(self, faults: str) -> None:
        await self.engine.run(self.vmm.inject(faults))

    async def snapshot(self, name: str | None = None) -> str:
        """Take one from outside; returns its name."""
        return (await self._host.host.snapshot(self.kernel_id, TakeSnapshot(name=name))).name

    async def restore(self, name: str) -> None:
        await self._host.host.restore(self.kernel_id, name)

    async def delete(self, name: str) -> None:
        await self._host.host.delete_snapshot(self.store.get(name).id)

    async def fork(self, count: int, name: str | None = None) -> list[ForkResult]:
        return await self.engine.run(self.session.fork(count, name))

    @property
    def names(self) -> list[str]:
        return [snapshot.name for snapshot in self.store.list(scope=SCOPE)]

    @property
    def half_made(self) -> list[str]:
        """What is in the store and is no snapshot of its list."""
        whole = {snapshot.id for snapshot in self.store.list()}
        root = self.store.root
        found = {entry.name for entry in root.iterdir()} if root.exists() else set()
        return sorted(found - whole - {"lock"})

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
        await self.held.close()


@asynccontextmanager
async def scripted_kernels(
    *, encoded: bool = False, **config: Any
) -> AsyncIterator[Callable[..., Awaitable[ScriptedKernel]]]:
    """Makes started kernels of one engine; all end with the block. ``tenant`` are fields of a tenant that is not the user.

    With ``encoded`` nothing crosses between client and host but bytes.
    """
    given = {"monitor": "fake", "minimum_tier": "none", "min_free_bytes": 0, **config}
    engine = Engine()
    wall: Callable[[KernelHost], KernelHost] = EncodedHost if encoded else lambda host: host
    hosts: dict[Tenant, HostClient] = {}
    kernels: list[ScriptedKernel] = []
    numbers = itertools.count()

    async def make(*, tenant: dict[str, Any] | None = None, **settings: Any) -> ScriptedKernel:
        own = Tenant.of_this_process(FcKernelConfig(config=Config({"FcKernelConfig": given})))
        whose = replace(own, **tenant or {})
        host = hosts.setdefault(whose, HostClient(wall(LocalHost(whose, engine=engine))))
        kernel = ScriptedKernel(whose, engine, host, f"k{next(numbers)}")
        kernels.append(await kernel.open())
        await kernel.start(**settings)
        return kernel

    try:
        yield make
    finally:
        for kernel in kernels:
            await kernel.close()
        await asyncio.to_thread(engine.close)


def fork_client(fork: ForkResult) -> Client:
    """A client of a fork."""
    return Client.of_file(Path(fork.connection_file))
