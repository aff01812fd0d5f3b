"""``fc-kernel ps`` and ``fc-kernel gc``: read the journal."""

from __future__ import annotations

import time

from jupyter_core.application import base_flags
from rich.table import Table
from rich.text import Text

from ..base.paths import runtime_dir
from ..base.text import without_controls
from ..supply.stores import snapshot_store, template_store
from ..vmm.journal import JournalEntry, list_entries
from ..vmm.reaper import reap
from .command import JSON_FLAG, Command


class PsCommand(Command):
    """List this user's microVMs, also those that a dead server left behind."""

    description = __doc__
    command_word = "ps"
    flags = {**base_flags, **JSON_FLAG}

    def run(self) -> None:
        """Print the table."""
        entries = list_entries(runtime_dir())
        if self.json:
            self.print_json([entry.to_dict() for entry in entries])
            return
        if not entries:
            self.out.print("no microVM is running")
            return
        table = Table(box=None, pad_edge=False)
        for heading in ("VM", "MONITOR", "PID", "OWNER", "STATE", "AGE", "KERNEL"):
            table.add_column(heading, overflow="fold")
        now = time.time()
        for entry in entries:
            cells = (
                entry.vm_id,
                entry.monitor,
                str(entry.pid),
                str(entry.owner_pid),
                "running" if entry.owner_alive else "orphan (fc-kernel gc)",
                _age(now - entry.created),
                _whose(entry),
            )
            # Clients choose kernel ids: they are text, not markup.
            table.add_row(*(Text(without_controls(cell)) for cell in cells))
        self.out.print(table)


class GcCommand(Command):
    """End microVMs whose server is dead and remove what they left; living ones are never touched.

    Also removes snapshots that a dead server left unfinished, and templates that have not been used for a month.
    """

    description = __doc__
    command_word = "gc"
    flags = {**base_flags, **JSON_FLAG}

    def run(self) -> None:
        """Reap and report."""
        reaped = reap(runtime_dir())
        swept = [("snapshot", name) for name in snapshot_store(self.tenant).sweep()]
        swept += [("template", name) for name in template_store(self.tenant).sweep()]
        if self.json:
            self.print_json([*(vm.to_dict() for vm in reaped), *({kind: name} for kind, name in swept)])
            return
        for vm in reaped:
            self.out.print(f"{vm.vm_id}: {vm.outcome}", markup=False)
        for kind, name in swept:
            self.out.print(f"{kind} {name}: removed", markup=False)
        total = len(reaped) + len(swept)
        self.out.print(f"{total} removed" if total else "nothing to remove")


def _whose(entry: JournalEntry) -> str:
    """The kernel, or what the VM stands ready or is made for."""
    for label in ("pool", "template"):
        if label in entry.labels:
            return f"({label} of image {entry.labels[label]})"
    return entry.kernel_id or entry.labels.get("notebook", "")


def _age(seconds: float) -> str:
    minutes, rest = divmod(int(max(0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"
