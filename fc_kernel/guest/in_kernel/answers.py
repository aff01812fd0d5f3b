"""The host's answers as objects that show themselves as text and as HTML. All in them is text from elsewhere: escaped."""

from __future__ import annotations

import html
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def plain(value: object) -> str:
    """Text on one line, without what a terminal would obey."""
    return "".join(char if char.isprintable() else " " for char in str(value))


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side."""
    lines = [[plain(cell) for cell in row] for row in ([head] if head else []) + list(rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same for a browser."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    above = f"<thead>{line(head, 'th')}</thead>" if head else ""
    return f"<table>{above}<tbody>{''.join(line(row, 'td') for row in rows)}</tbody></table>"


@dataclass
class Snapshot:
    """One snapshot; ``current`` is the one that this machine comes from, or has taken last."""

    id: str
    name: str
    description: str = ""
    created: str = ""
    size_bytes: int = 0
    parent: Optional[str] = None
    current: bool = False
    stood_still_s: Optional[float] = None
    #: What hooks raised as it was taken.
    hook_errors: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, said: dict[str, Any]) -> Snapshot:
        """From the host's answer."""
        known = ("id", "name", "description", "created", "size_bytes", "parent", "current")
        return cls(**{field: said[field] for field in known if field in said})

    def row(self) -> list[str]:
        """As a line of the table."""
        time = self.created.replace("T", " ")[:19]
        mark = "*" if self.current else ""
        return [mark, self.name, time, size(self.size_bytes), self.parent or "", self.description or ""]


class Snapshots(list[Snapshot]):
    """Several, as a table."""

    HEAD = ("", "Name", "Time (UTC)", "Size", "Parent", "Description")

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
    def of(cls, said: dict[str, Any]) -> Fork:
        """From the host's answer."""
        return cls(said["kernel_id"], said["name"], said["connection_file"], said.get("url"))

    @property
    def command(self) -> str:
        """What attaches to it, on the host."""
        return f"jupyter console --existing {shlex.quote(self.connection_file)}"


class Forks(list[Fork]):
    """Several, with what to attach to."""

    def __init__(self, forks: Iterable[Fork] = ()) -> None:
        super().__init__(forks)

    def __repr__(self) -> str:
        return text_table((), [[f"Fork {each.name}:", each.url or "", each.command] for each in self])

    def _repr_html_(self) -> str:
        head = ("Fork", "Page", "Command on the host")
        return html_table(head, [[each.name, each.url or "", each.command] for each in self])


class Machine(dict[str, Any]):
    """What the host says of this machine."""

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
        return rows + [[str(name).replace("_", " ").capitalize(), str(value)] for name, value in shown.items()]

    def __repr__(self) -> str:
        return text_table((), self._rows())

    def _repr_html_(self) -> str:
        return html_table((), self._rows())
