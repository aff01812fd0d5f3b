"""``fc-kernel snapshot list|show|rm|rename|export|import``: on this user's snapshots; no server has to run."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from pathlib import Path

from jupyter_core.application import base_aliases, base_flags
from rich.table import Table
from rich.text import Text
from traitlets import Bool, Unicode

from ..api.inventory import SnapshotDetails
from ..api.models import Snapshot
from ..base.text import without_controls
from ..errors import SnapshotExists, SnapshotInUse, SnapshotNotFound
from ..host.service import ByteStream, KernelHost
from ..snapshots.location import readable, writable
from .command import JSON_FLAG, CommandGroup, HostCommand

CHUNK_BYTES = 1 << 20
KIB, MIB = 1 << 10, 1 << 20


class SnapshotCommand(HostCommand):
    """What the commands on snapshots share: a snapshot is given by its name, its id, or the beginning of its id."""

    aliases = {**base_aliases, "scope": "SnapshotCommand.scope"}
    flags = {**base_flags, **JSON_FLAG}

    scope = Unicode("", help="only snapshots of this notebook (its path below the server's root)").tag(config=True)

    async def find(self, host: KernelHost, ref: str) -> Snapshot:
        """The snapshot that ``ref`` means; raises :class:`~fc_kernel.errors.SnapshotNotFound`."""
        return await host.find_snapshot(ref, scope=self.scope or None)


class SnapshotListCommand(SnapshotCommand):
    """List the snapshots with what each takes on the disk by itself; the total includes what they share."""

    description = __doc__
    examples = """
    fc-kernel snapshot list
    fc-kernel snapshot list --scope work/analysis.ipynb --json
    """
    command_word = "list"

    async def act(self, host: KernelHost) -> None:
        """Print the table."""
        snapshots = await host.snapshots(self.scope or None)
        broken = [] if self.scope else await host.broken_snapshots()
        if self.json:
            details = await host.snapshot_details([each.id for each in snapshots])
            self.print_json([each.model_dump(mode="json") for each in (*details, *broken)])
            return
        if not snapshots and not broken:
            self.out.print("there are no snapshots; take one with %snapshot in a notebook")
            return
        names = {snapshot.id: snapshot.name for snapshot in snapshots}
        table = Table(box=None, pad_edge=False)
        for heading in ("NAME", "ID", "CREATED", "SIZE", "PARENT", "SCOPE", "DESCRIPTION"):
            table.add_column(heading, overflow="fold", justify="right" if heading == "SIZE" else "left")
        for snapshot in snapshots:
            cells = (
                snapshot.name,
                snapshot.id,
                _time(snapshot.created),
                _size(snapshot.size_bytes),
                names.get(snapshot.parent or "", ""),
                snapshot.scope,
                snapshot.description,
            )
            table.add_row(*(_cell(text) for text in cells))
        if snapshots:
            self.out.print(table)
            self.out.print(f"{_size((await host.disk_use()).used_bytes)} on the disk in all")
        for each in broken:
            told = f"{each.id}: {each.error}; remove it with: fc-kernel snapshot rm {each.id}"
            self.err.print(told, style="red", markup=False)


class SnapshotShowCommand(SnapshotCommand):
    """Show a snapshot and its files after checking every digest."""

    description = __doc__
    command_word = "show"
    words = (1, 1)
    words_shown = "one snapshot"

    async def act(self, host: KernelHost) -> None:
        """Check, then print."""
        found = await self.find(host, self.extra_args[0])
        await host.verify_snapshot(found.id)
        details = await _details(host, found)
        if self.json:
            self.print_json(details.model_dump(mode="json"))
            return
        table = Table(box=None, pad_edge=False, show_header=False)
        for name, value in _described(details).items():
            table.add_row(name, _cell(value))
        self.out.print(table)
        table = Table(box=None, pad_edge=False)
        for heading in ("FILE", "SIZE", "ON DISK", "SHARED", "SHA-256"):
            table.add_column(heading, justify="right" if heading in ("SIZE", "ON DISK") else "left")
        for file in details.files:
            shared = f"by {file.links}" if (file.links or 0) > 1 else ""
            table.add_row(file.file, _size(file.size_bytes), _size(file.disk_bytes or 0), shared, file.sha256)
        self.out.print(table)


class SnapshotRemoveCommand(SnapshotCommand):
    """Remove snapshots. Others that were taken later keep what they share with them."""

    description = __doc__
    command_word = "rm"
    words = (1, None)
    words_shown = "one or more snapshots"
    flags = {
        **base_flags,
        **JSON_FLAG,
        "force": (
            {"SnapshotRemoveCommand": {"force": True}},
            "also those that a kernel runs from; it goes on, but cannot take another snapshot",
        ),
    }

    force = Bool(False, help="also those in use").tag(config=True)

    async def act(self, host: KernelHost) -> None:
        """Remove all of them, or none if one is missing or in use."""
        broken = set() if self.scope else {each.id for each in await host.broken_snapshots()}
        #: By id, the words that meant it.
        meant: dict[str, str] = {}
        for ref in self.extra_args:
            if ref in broken:
                meant[ref] = ref
                continue
            found = await self._find(host, ref)
            if found.in_use and not self.force:
                raise SnapshotInUse(f"the snapshot {ref!r} is in use; nothing was removed (see --force)")
            meant[found.id] = ref
        for snapshot_id, ref in meant.items():
            await host.delete_snapshot(snapshot_id, force=self.force)
            if not self.json:
                self.out.print(f"removed {ref}", markup=False)
        if self.json:
            self.print_json({"removed": list(meant)})

    async def _find(self, host: KernelHost, ref: str) -> Snapshot:
        try:
            return await self.find(host, ref)
        except SnapshotNotFound as error:
            raise SnapshotNotFound(f"{error}; nothing was removed") from None


class SnapshotRenameCommand(SnapshotCommand):
    """Give a snapshot another name."""

    description = __doc__
    command_word = "rename"
    words = (2, 2)
    words_shown = "a snapshot and its new name"

    async def act(self, host: KernelHost) -> None:
        """Rename and report."""
        ref, name = self.extra_args
        found = await self.find(host, ref)
        snapshot = await host.change_snapshot(found.id, name=name)
        if self.json:
            self.print_json(snapshot.model_dump(mode="json"))
        else:
            self.out.print(f"{ref} is now {snapshot.name}", markup=False)


class SnapshotExportCommand(SnapshotCommand):
    """Write a snapshot as one file, to a path or any URL that fsspec knows; .tar.gz is compressed.

    The file holds all that the kernel had in memory: passwords and keys too.
    """

    description = __doc__
    examples = """
    fc-kernel snapshot export s1 s1.tar.gz
    fc-kernel snapshot export s1 s3://bucket/s1.tar
    """
    command_word = "export"
    words = (2, 2)
    words_shown = "a snapshot and a path or URL"
    flags = {
        **base_flags,
        **JSON_FLAG,
        "replace": ({"SnapshotExportCommand": {"replace": True}}, "replace a file of that name"),
    }

    replace = Bool(False, help="replace a file of that name").tag(config=True)

    async def act(self, host: KernelHost) -> None:
        """Check, write and report."""
        ref, target = self.extra_args
        found = await self.find(host, ref)
        with self.err.status(f"exporting {found.name}"):
            written = await self._export(host, found, target)
        if self.json:
            self.print_json({"id": found.id, "name": found.name, "target": target, "bytes": written})
        else:
            self.out.print(f"{found.name}: {_size(written)} to {target}", markup=False)

    async def _export(self, host: KernelHost, snapshot: Snapshot, target: str) -> int:
        """Write the snapshot; returns its bytes before compression."""
        doing = f"export the snapshot {snapshot.name!r} to {target}"
        with writable(target, replace=self.replace, doing=doing) as file:
            size, content = await host.export_snapshot(snapshot.id)
            async with contextlib.aclosing(content):
                async for data in content:
                    file.write(data)
        return size


class SnapshotImportCommand(SnapshotCommand):
    """Import a snapshot from a file or URL that export has written, after checking all of it.

    Restoring it runs its maker's code in the kernel, and has the monitor read its maker's data: import what you trust.
    """

    description = __doc__
    examples = """
    fc-kernel snapshot import s1.tar.gz --scope work/analysis.ipynb --name theirs
    """
    command_word = "import"
    words = (1, 1)
    words_shown = "one path or URL"
    aliases = {
        **base_aliases,
        "scope": "SnapshotCommand.scope",
        "name": "SnapshotImportCommand.snapshot_name",
    }

    snapshot_name = Unicode("", help="a name other than its own").tag(config=True)

    async def act(self, host: KernelHost) -> None:
        """Import and report."""
        (source,) = self.extra_args
        content = _content(source)
        with self.err.status(f"importing {source}"):
            async with contextlib.aclosing(content):
                scope, name = self.scope or None, self.snapshot_name or None
                try:
                    snapshot = await host.import_snapshot(content, scope=scope, name=name)
                except SnapshotExists as error:
                    raise SnapshotExists(f"{error} (see --name)") from None
        if self.json:
            self.print_json(snapshot.model_dump(mode="json"))
            return
        size = (await _details(host, snapshot)).disk_bytes
        self.out.print(f"{snapshot.name} of {snapshot.scope}: {_size(size)}", markup=False)


class SnapshotGroup(CommandGroup):
    """List, show, remove, rename, export and import snapshots."""

    description = __doc__
    command_word = "snapshot"
    subcommands = {
        "list": (SnapshotListCommand, "List the snapshots."),
        "show": (SnapshotShowCommand, "Show and verify one snapshot."),
        "rm": (SnapshotRemoveCommand, "Remove snapshots."),
        "rename": (SnapshotRenameCommand, "Give a snapshot another name."),
        "export": (SnapshotExportCommand, "Write a snapshot as one file."),
        "import": (SnapshotImportCommand, "Import a snapshot from a file."),
        "create": ("fc_kernel.cli.fork.SnapshotCreateCommand", "Take a snapshot of a running kernel."),
        "restore": ("fc_kernel.cli.fork.SnapshotRestoreCommand", "Put a running kernel back to a snapshot."),
    }


async def _content(source: str) -> ByteStream:
    with readable(source if "://" in source else Path(source), doing="import the snapshot") as file:
        while data := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield data


async def _details(host: KernelHost, snapshot: Snapshot) -> SnapshotDetails:
    """The snapshot's details; raises :class:`~fc_kernel.errors.SnapshotNotFound` when it has gone meanwhile."""
    for details in await host.snapshot_details([snapshot.id]):
        return details
    raise SnapshotNotFound(f"the snapshot {snapshot.name!r} is not there any more")


def _described(details: SnapshotDetails) -> dict[str, str]:
    """What a person wants to know."""
    return {
        "name": details.name,
        "id": details.id,
        "VM": details.vm_id,
        "scope": details.scope,
        "created": _time(details.created),
        "description": details.description,
        "lineage": " > ".join(each.name for each in details.lineage),
        "machine": f"{details.vcpu_count or '?'} vCPU, {details.mem_size_mib} MiB",
        "monitor": f"{details.monitor} {details.monitor_version}",
        "image": details.image,
        "on disk": f"{_size(details.disk_bytes)}, {_size(details.own_bytes)} of it shared with no other",
        "in use": "yes" if details.in_use else "no",
        "path": details.path,
    }


def _cell(text: str) -> Text:
    """People choose names, notebooks' names and descriptions: they are text, not markup."""
    return Text(" ".join(without_controls(text).split()))


def _time(created: str) -> str:
    """A time in UTC (ISO 8601) as local time, with its zone."""
    local = datetime.datetime.fromisoformat(created).astimezone()
    return local.strftime("%Y-%m-%d %H:%M:%S %Z")


def _size(size: int) -> str:
    if size < MIB:
        return f"{size / KIB:.0f} KiB"
    return f"{size / MIB:.1f} MiB" if size < 100 * MIB else f"{size / MIB:.0f} MiB"
