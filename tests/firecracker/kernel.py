"""A session whose guest runs on the real Firecracker, and a client of it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from traitlets.config import Config

from fc_kernel.base.paths import RunDir, new_vm_id, runtime_dir
from fc_kernel.channels.endpoints import ClientEndpoints
from fc_kernel.host.engine import Engine
from fc_kernel.machine.machine import Machine
from fc_kernel.machine.start import KernelRequest
from fc_kernel.sessions.session import KernelSession
from fc_kernel.settings.config import FcKernelConfig
from fc_kernel.settings.resolve import Source, resolve
from fc_kernel.settings.tenant import Tenant
from fc_kernel.vmm.firecracker.program import FirecrackerProgram

from ..guests.build import BARE_METAL_MEM_MIB
from .client import DEADLINE_S, KEY, Client

T = TypeVar("T")


class Kernel:
    """Its engine is its own; :meth:`close` ends everything."""

    def __init__(self, program: FirecrackerProgram, *, scope: str = "", **config: Any) -> None:
        """``scope`` is what names of snapshots are unique in; without one it is the kernel itself."""
        given = {"monitor": "firecracker", "firecracker_path": str(program.path), "mem_size_mib": BARE_METAL_MEM_MIB}
        self.config = FcKernelConfig(config=Config({"FcKernelConfig": {**given, **config}}))
        self.engine = Engine()
        endpoint_dir = RunDir.create(runtime_dir(), new_vm_id())
        ip = str(endpoint_dir.path / "k")

        async def make() -> KernelSession:
            endpoints = ClientEndpoints(transport="ipc", ip=ip)
            labels = {"kernel_id": endpoint_dir.path.name, "scope": scope}
            return self.engine.open(
                Tenant.of_this_process(self.config), endpoints, key=KEY, labels=labels, endpoint_dir=endpoint_dir
            )

        self.session = self.run(make())
        self.client = Client.at(ip, self.session.ports)
        self.client.__enter__()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.engine.run_blocking(asyncio.wait_for(coroutine, DEADLINE_S))

    def start(self, **settings: Any) -> Client:
        """Start, or start again; returns the client when the kernel answers it."""
        resolved = resolve([self.config.as_source(), Source("call", settings)], self.config.limits())
        self.run(self.session.start(KernelRequest(resolved=resolved)))
        return self.client.ready()

    @property
    def machine(self) -> Machine:
        assert self.session.machine is not None
        return self.session.machine

    def close(self) -> None:
        if not self.engine.loop.is_closed():
            self.client.__exit__()
            self.run(self.session.aclose())
            self.engine.close()
