"""The host's answers as objects that display as text and as HTML. Everything in them is foreign text, so it is escaped."""

from __future__ import annotations

import html
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Optional


def size(count: float) -> str:
    """A number of bytes, written for people."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def local_time(created: str) -> str:
    """A time in UTC (ISO 8601) as the time in this machine's zone, which is named; other text as it is."""
    try:
        utc = datetime.strptime(created[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
    except ValueError:
        return created
    local = utc.astimezone()
    # Where the guest does not know the zone of TZ, the offset is zero and the zone has a wrong name.
    return local.strftime("%Y-%m-%d %H:%M:%S %Z" if local.utcoffset() else "%Y-%m-%d %H:%M:%S UTC")


def plain(value: object) -> str:
    """The value as one line of text, without control characters."""
    return "".join(char if char.isprintable() else " " for char in str(value))


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as plain text, its columns aligned."""
    lines = [[plain(cell) for cell in row] for row in ([head] if head else []) + list(rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as HTML."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    above = f"<thead>{line(head, 'th')}</thead>" if head else ""
    return f"<table>{above}<tbody>{''.join(line(row, 'td') for row in rows)}</tbody></table>"


@dataclass
class Snapshot:
    """One snapshot; ``current`` says that this VM was restored from it, or took it last."""

    id: str
    name: str
    description: str = ""
    created: str = ""
    size_bytes: int = 0
    parent: Optional[str] = None
    current: bool = False
    #: How long the kernel was paused for it, in seconds; ``None`` unless it was taken just now.
    paused_s: Optional[float] = None
    #: What hooks raised while it was taken.
    hook_errors: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Snapshot:
        """From the host's answer."""
        known = ("id", "name", "description", "created", "size_bytes", "parent", "current")
        return cls(**{name: answer[name] for name in known if name in answer})

    def row(self) -> list[str]:
        """A row of the table."""
        mark = "*" if self.current else ""
        return [
            mark,
            self.name,
            local_time(self.created),
            size(self.size_bytes),
            self.parent or "",
            self.description or "",
        ]


class Snapshots(list[Snapshot]):
    """Several snapshots, as a table."""

    HEAD = ("", "Name", "Time", "Size", "Parent", "Description")

    def __init__(self, snapshots: Iterable[Snapshot] = ()) -> None:
        super().__init__(snapshots)

    def __repr__(self) -> str:
        return text_table(self.HEAD, [each.row() for each in self]) if self else "no snapshots yet"

    def _repr_html_(self) -> str:
        return html_table(self.HEAD, [each.row() for each in self]) if self else "<p>no snapshots yet</p>"


@dataclass
class Fork:
    """One new kernel."""

    kernel_id: str
    name: str
    connection_file: str
    url: Optional[str] = None

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Fork:
        """From the host's answer."""
        return cls(answer["kernel_id"], answer["name"], answer["connection_file"], answer.get("url"))

    @property
    def command(self) -> str:
        """The command that attaches to it, on the host."""
        return f"jupyter console --existing {shlex.quote(self.connection_file)}"


class Forks(list[Fork]):
    """Several forks, with the commands that attach to them."""

    def __init__(self, forks: Iterable[Fork] = ()) -> None:
        super().__init__(forks)

    def __repr__(self) -> str:
        return text_table((), [[f"Fork {each.name}:", each.url or "", each.command] for each in self])

    def _repr_html_(self) -> str:
        head = ("Fork", "Page", "Command on the host")
        return html_table(head, [[each.name, each.url or "", each.command] for each in self])


#: Names of values whose keys make no good heading.
LABELS = {"kernel_id": "Kernel ID", "vm_id": "VM ID", "current": "Current snapshot", "started": "Started from"}


class MicroVm(dict[str, Any]):
    """What the host says about this VM."""

    def _rows(self) -> list[list[str]]:
        shown = dict(self)
        rows = [["Tier", f"{shown.pop('tier', '?')}"]]
        rows.append(["Monitor", f"{shown.pop('monitor', '?')} {shown.pop('monitor_version', '')}".strip()])
        rows.append(["vCPUs", f"{shown.pop('vcpu_count', '?')}"])
        rows.append(["Memory", f"{shown.pop('mem_size_mib', '?')} MiB"])
        rows.append(["Uptime", f"{float(shown.pop('uptime_s', 0)):.0f} s"])
        rows.append(["Generation", f"{shown.pop('generation', '?')}"])
        rows.append(["Lineage", " → ".join(map(str, shown.pop("lineage", None) or [])) or "-"])
        rows.append(["Disk", size(float(shown.pop("disk_bytes", 0) or 0))])
        return rows + [[_label(name), "none" if value is None else str(value)] for name, value in shown.items()]

    def __repr__(self) -> str:
        return text_table((), self._rows())

    def _repr_html_(self) -> str:
        return html_table((), self._rows())


def _label(name: object) -> str:
    return LABELS.get(str(name)) or str(name).replace("_", " ").capitalize()
