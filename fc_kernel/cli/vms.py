"""``fc-kernel ps`` and ``fc-kernel gc``: what runs on the host, and what dead servers left on it."""

from __future__ import annotations

import time

from jupyter_core.application import base_flags
from rich.table import Table
from rich.text import Text

from ..api.inventory import Vm
from ..base.text import without_controls
from ..host.service import KernelHost
from .command import JSON_FLAG, HostCommand


class PsCommand(HostCommand):
    """List this user's microVMs, also those that a dead server left behind."""

    description = __doc__
    command_word = "ps"
    flags = {**base_flags, **JSON_FLAG}

    async def act(self, host: KernelHost) -> None:
        """Print the table."""
        vms = await host.vms()
        if self.json:
            self.print_json([vm.model_dump(mode="json") for vm in vms])
            return
        if not vms:
            self.out.print("no microVM is running")
            return
        table = Table(box=None, pad_edge=False)
        for heading in ("VM", "MONITOR", "PID", "OWNER", "STATE", "AGE", "KERNEL"):
            table.add_column(heading, overflow="fold")
        now = time.time()
        for vm in vms:
            cells = (
                vm.vm_id,
                vm.monitor,
                str(vm.pid),
                str(vm.owner_pid),
                "running" if vm.owner_alive else "orphan (fc-kernel gc)",
                _age(now - vm.created),
                _whose(vm),
            )
            # Clients choose kernel ids: they are text, not markup.
            table.add_row(*(Text(without_controls(cell)) for cell in cells))
        self.out.print(table)


class GcCommand(HostCommand):
    """End microVMs whose server is dead and remove what they left; living ones are never touched.

    Also removes snapshots that a dead server left unfinished, and templates that have not been used for a month.
    """

    description = __doc__
    command_word = "gc"
    flags = {**base_flags, **JSON_FLAG}

    async def act(self, host: KernelHost) -> None:
        """Reap and report."""
        swept = await host.sweep()
        removed = [("snapshot", name) for name in swept.snapshots] + [("template", name) for name in swept.templates]
        if self.json:
            self.print_json([*(vm.model_dump() for vm in swept.vms), *({kind: name} for kind, name in removed)])
            return
        for vm in swept.vms:
            self.out.print(f"{vm.vm_id}: {vm.outcome}", markup=False)
        for kind, name in removed:
            self.out.print(f"{kind} {name}: removed", markup=False)
        total = len(swept.vms) + len(removed)
        self.out.print(f"{total} removed" if total else "nothing to remove")


def _whose(vm: Vm) -> str:
    """The VM's kernel, or the pool or template that it is for."""
    for label in ("pool", "template"):
        if label in vm.labels:
            return f"({label} of image {vm.labels[label]})"
    return vm.kernel_id or vm.labels.get("notebook", "")


def _age(seconds: float) -> str:
    minutes, rest = divmod(int(max(0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"
