"""The warm pool: restored machines that stand still until a kernel is started."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections import deque
from collections.abc import Coroutine
from typing import Any

from ..base.tasks import off_loop
from ..errors import FcKernelError
from ..machine.load import load, spec_for_load
from ..machine.machine import Machine
from ..settings.tenant import Tenant
from ..vmm.base import VmmState
from ..vmm.journal import relabel
from .templates import Templates, Wanted

log = logging.getLogger(__name__)

#: After a machine could not be made: trying again at once would only fail at once.
RETRY_AFTER_S = 30.0


class Pool:
    """Ready machines by template key. It is filled in the background, and never holds more memory than it may."""

    def __init__(self, tenant: Tenant, templates: Templates) -> None:
        self._tenant = tenant
        self._config = tenant.config
        self._templates = templates
        self._ready: dict[str, deque[Machine]] = {}
        self._filling: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    def __len__(self) -> int:
        return sum(map(len, self._ready.values()))

    @property
    def mem_size_mib(self) -> int:
        """What the guests of all ready machines may use."""
        return sum(machine.vmm.plan.spec.mem_size_mib or 0 for machines in self._ready.values() for machine in machines)

    async def take(self, want: Wanted, labels: dict[str, str]) -> Machine | None:
        """A machine that is still sound, or ``None``; another is made in its place."""
        machines = self._ready.get(want.key)
        while machines:
            machine = machines.popleft()
            if machine.vmm.state in (VmmState.PAUSED, VmmState.RUNNING):
                try:
                    with contextlib.suppress(OSError):
                        await off_loop(functools.partial(relabel, machine.vmm.plan.run_dir, labels))
                except BaseException:
                    self._spawn(machine.aclose())
                    raise
                self.refill(want)
                return machine
            log.warning("VM %s of the pool has ended: %s", machine.vmm.plan.vm_id, machine.vmm.state)
            self._spawn(machine.aclose())
        return None

    def refill(self, want: Wanted) -> None:
        """See to it, in the background, that machines for this template stand ready."""
        if self._closed or self._config.pool_size <= 0 or want.key in self._filling:
            return
        task = asyncio.get_running_loop().create_task(self._fill(want), name="pool")
        self._filling[want.key] = task
        task.add_done_callback(lambda _task: self._filling.pop(want.key, None))

    async def _fill(self, want: Wanted) -> None:
        machines = self._ready.setdefault(want.key, deque())
        size = want.resolved.spec.mem_size_mib or 0
        while not self._closed and len(machines) < self._config.pool_size:
            if self.mem_size_mib + size > self._config.pool_mem_size_mib:
                log.info("the pool is full: %d MiB of %d", self.mem_size_mib, self._config.pool_mem_size_mib)
                return
            try:
                held = await self._templates.hold(want)
                if held is None:
                    return
                machine = await load(
                    *held,
                    want.choice,
                    want.resolved,
                    self._tenant,
                    spec=spec_for_load(held[0], want.image),
                    started="pool",
                    labels={"pool": want.image_name},
                    paused=True,
                )
            except (FcKernelError, OSError) as error:
                log.warning("no VM for the pool: %s", error)
                await asyncio.sleep(RETRY_AFTER_S)
                continue
            if self._closed:
                await machine.aclose()
                return
            machines.append(machine)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine, name="pool")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def aclose(self) -> None:
        """End all machines; nothing is made any more."""
        self._closed = True
        filling = list(self._filling.values())
        for task in filling:
            task.cancel()
        await asyncio.gather(*filling, *self._ending, return_exceptions=True)
        machines = [machine for ready in self._ready.values() for machine in ready]
        self._ready.clear()
        for result in await asyncio.gather(*(machine.aclose() for machine in machines), return_exceptions=True):
            if isinstance(result, BaseException):
                log.error("a VM of the pool was not closed in order: %s", result)
