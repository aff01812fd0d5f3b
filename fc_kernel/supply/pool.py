"""The warm pool: VMs that were restored from templates and wait, paused, for kernels to start."""

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
from .templates import TemplateRecipe, Templates

log = logging.getLogger(__name__)

#: How long to wait when a VM could not be made: another attempt at once would fail as well.
RETRY_AFTER_S = 30.0


class Pool:
    """Ready VMs by template key. The pool is filled in the background and never exceeds its limit on memory."""

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
        """Memory of all ready VMs, in MiB."""
        return sum(machine.vmm.plan.spec.mem_size_mib or 0 for machines in self._ready.values() for machine in machines)

    async def take(self, recipe: TemplateRecipe, labels: dict[str, str]) -> Machine | None:
        """Take a ready VM whose monitor still runs, and have another made in its place; ``None`` when there is none."""
        machines = self._ready.get(recipe.key)
        while machines:
            machine = machines.popleft()
            if machine.vmm.state in (VmmState.PAUSED, VmmState.RUNNING):
                try:
                    with contextlib.suppress(OSError):
                        await off_loop(functools.partial(relabel, machine.vmm.plan.run_dir, labels))
                except BaseException:
                    self._spawn(machine.aclose())
                    raise
                self.refill(recipe)
                return machine
            log.warning("VM %s of the pool has ended: %s", machine.vmm.plan.vm_id, machine.vmm.state)
            self._spawn(machine.aclose())
        return None

    def refill(self, recipe: TemplateRecipe) -> None:
        """Make VMs from this template in the background until enough are ready."""
        if self._closed or self._config.pool_size <= 0 or recipe.key in self._filling:
            return
        task = asyncio.get_running_loop().create_task(self._fill(recipe), name="pool")
        self._filling[recipe.key] = task
        task.add_done_callback(lambda _task: self._filling.pop(recipe.key, None))

    async def _fill(self, recipe: TemplateRecipe) -> None:
        machines = self._ready.setdefault(recipe.key, deque())
        size = recipe.resolved.spec.mem_size_mib or 0
        while not self._closed and len(machines) < self._config.pool_size:
            if self.mem_size_mib + size > self._config.pool_mem_size_mib:
                log.info("the pool is full: %d of %d MiB", self.mem_size_mib, self._config.pool_mem_size_mib)
                return
            try:
                held = await self._templates.hold(recipe)
                if held is None:
                    return
                machine = await load(
                    *held,
                    recipe.choice,
                    recipe.resolved,
                    self._tenant,
                    spec=spec_for_load(held[0], recipe.image),
                    started="pool",
                    labels={"pool": recipe.image_name},
                    paused=True,
                )
            except (FcKernelError, OSError) as error:
                log.warning("no VM could be made for the pool: %s", error)
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
        """End all VMs and make no more."""
        self._closed = True
        filling = list(self._filling.values())
        for task in filling:
            task.cancel()
        await asyncio.gather(*filling, *self._ending, return_exceptions=True)
        machines = [machine for ready in self._ready.values() for machine in ready]
        self._ready.clear()
        for result in await asyncio.gather(*(machine.aclose() for machine in machines), return_exceptions=True):
            if isinstance(result, BaseException):
                log.error("a VM of the pool was not closed cleanly: %s", result)
