"""A session whose guest runs on the real Firecracker, and a client of it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from traitlets.config import Config

from fc_kernel.api.calls import OpenKernel
from fc_kernel.base.paths import new_vm_id
from fc_kernel.host.client import LEASE_S, HostClient
from fc_kernel.host.engine import Engine
from fc_kernel.host.kernels import Kernels
from fc_kernel.host.local import LocalHost
from fc_kernel.machine.machine import Machine
from fc_kernel.machine.start import KernelRequest
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
        tenant = Tenant.of_this_process(self.config)
        # Also starts the forks that a cell asks for.
        self._host = HostClient(LocalHost(tenant, Kernels(), engine=self.engine))
        kernel_id = new_vm_id()
        self._held = self.run(self._host.open(OpenKernel(kernel_id=kernel_id, key=KEY, scope=scope, lease_s=LEASE_S)))
        self._held.keep()
        session = self.engine.session_of(kernel_id)
        assert session is not None
        self.session = session
        ip = self._held.endpoints.ip
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
            self.run(self._held.close())
            self.engine.close()
