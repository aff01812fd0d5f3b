"""A guest on the real Firecracker and the host's parts around it, without the session that puts them together."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fc_kernel.base.paths import RunDir, new_vm_id, runtime_dir
from fc_kernel.channels.endpoints import ClientEndpoints
from fc_kernel.errors import AgentUnreachable
from fc_kernel.host.engine import Engine
from fc_kernel.machine.links import Links
from fc_kernel.sessions.wiring import Wiring
from fc_kernel.settings.spec import VmSpec
from fc_kernel.vmm.base import BootPlan, SnapshotCreate, SnapshotFiles, SnapshotLoad
from fc_kernel.vmm.firecracker.driver import FirecrackerVmm
from fc_kernel.vmm.firecracker.program import FirecrackerProgram
from fc_kernel.wire import methods
from fc_kernel.wire.ports import PROTOCOL_VERSION

from ..guests.build import BARE_METAL_MEM_MIB
from .client import DEADLINE_S, KEY, Client

GUEST_KEY = b"a key of the guest's"


def entropy() -> str:
    return base64.b64encode(os.urandom(32)).decode()


class Guest:
    """Used on the engine's loop; the methods without ``async`` wait for it."""

    def __init__(self, engine: Engine, program: FirecrackerProgram, kernel: Path) -> None:
        self.engine = engine
        self.program = program
        self.kernel = kernel
        self.run_dir = RunDir.create(runtime_dir(), new_vm_id())
        spec = VmSpec(
            kernel=kernel, vcpu_count=1, mem_size_mib=BARE_METAL_MEM_MIB, boot_args="", track_dirty_pages=True
        )
        plan = BootPlan(vm_id=self.run_dir.path.name, spec=spec, run_dir=self.run_dir.path)
        self.vmm = FirecrackerVmm(plan, program)
        self.notifications: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self.links = Links(
            self.vmm,
            on_notification=lambda method, params: self.notifications.put_nowait((method, params)),
            on_lost=lambda *_why: None,
        )
        self.wiring: Wiring | None = None
        self.generation = 1

    def boot(self) -> Guest:
        async def start() -> None:
            await self.vmm.start()
            await self.dial()
            await self.call("hello", protocol=PROTOCOL_VERSION, time=time.time(), entropy_b64=entropy())

        self.engine.run_blocking(start())
        return self

    def load(self, files: SnapshotFiles, generation: int) -> Guest:
        """Another machine from a snapshot, its kernel frozen until :meth:`restored`."""
        self.generation = generation

        async def load() -> None:
            await self.vmm.load(SnapshotLoad(files=files))
            await self.dial()

        self.engine.run_blocking(load())
        return self

    async def dial(self) -> None:
        await self.links.drop()
        async with asyncio.timeout(DEADLINE_S):
            await self.links.attach()

    async def call(self, method: str, **params: Any) -> Any:
        return await self.links.agent._rpc.call(method, params, timeout_s=DEADLINE_S)

    def ask(self, method: str, **params: Any) -> Any:
        return self.engine.run_blocking(self.call(method, **params))

    def notified(self) -> tuple[str, dict[str, Any]]:
        return self.engine.run_blocking(asyncio.wait_for(self.notifications.get(), DEADLINE_S))

    def restored(self, role: str = "fork", **params: Any) -> Any:
        """Renew and thaw a loaded guest. A connection made while it noticed its restore fell with those of its past."""
        known = {"name": "s1", "time": time.time(), "entropy_b64": entropy(), "hostname": "vm", "machine_id": "0" * 32}
        more: dict[str, Any] = {"key": GUEST_KEY.decode(), "env": {}, "cwd": None, "reseed": True}

        async def wake() -> Any:
            for _ in range(2):
                try:
                    renewed = await self.call(
                        methods.RENEW, generation=self.generation, role=role, **{**known, **more, **params}
                    )
                except AgentUnreachable:
                    await self.dial()
                else:
                    return {**renewed, **await self.call(methods.THAW)}
            raise AssertionError("the restored guest does not answer")

        return self.engine.run_blocking(wake())

    def start_kernel(self) -> None:
        self.ask("kernel.start", argv=None, env={}, cwd=None, key=GUEST_KEY.decode(), instance=1)

    async def attach(self) -> None:
        """Connect the channels, again if they were."""
        assert self.wiring is not None
        await self.wiring.attach(self.links, guest_key=GUEST_KEY, generation=self.generation)

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client at endpoints that outlive the connections to the guest."""
        ip = str(self.run_dir.path / "k")

        async def make() -> None:
            endpoints = ClientEndpoints(transport="ipc", ip=ip)
            self.wiring = Wiring(
                endpoints, key=KEY, signature_scheme="hmac-sha256", on_lost=lambda _reason, _fatal: None
            )
            await self.attach()

        self.engine.run_blocking(make())
        wiring = self.wiring
        assert wiring is not None
        try:
            with Client.at(ip, wiring.ports) as client:
                yield client
        finally:
            self.wiring = None
            self.engine.run_blocking(wiring.aclose())

    def snapshot(self, files: SnapshotFiles, kind: Any = "full") -> dict[str, Any]:
        """Freeze, pause, save, resume, connect again, thaw; returns what the freeze said."""

        async def take() -> Any:
            frozen = await self.call("freeze", hooks=True)
            await self.vmm.pause()
            await self.vmm.snapshot(SnapshotCreate(files=files, kind=kind))
            await self.vmm.resume()
            await self.dial()
            await self.call("thaw")
            if self.wiring is not None:
                await self.attach()
            return frozen

        return dict(self.engine.run_blocking(take()))

    def close(self) -> None:
        async def close() -> None:
            await self.links.drop()
            await self.vmm.aclose()

        self.engine.run_blocking(close())
        self.run_dir.remove()
