"""``fc-kernel snapshot list|show|rm|rename|export|import``: work on the store itself; no server has to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jupyter_core.application import base_aliases, base_flags
from rich.table import Table
from rich.text import Text
from traitlets import Bool, Unicode

from ..base.text import without_controls
from ..errors import SnapshotError, SnapshotInUse, SnapshotNotFound
from ..snapshots import Snapshot, SnapshotStore, export_snapshot, import_snapshot
from ..supply.stores import snapshot_store
from .command import JSON_FLAG, Command, CommandGroup

KIB, MIB = 1 << 10, 1 << 20


class SnapshotCommand(Command):
    """What the commands on snapshots share: a snapshot is meant by its name, its id, or an id's beginning."""

    aliases = {**base_aliases, "scope": "SnapshotCommand.scope"}
    flags = {**base_flags, **JSON_FLAG}

    scope = Unicode("", help="only snapshots of this notebook (its path below the server's root)").tag(config=True)

    def store(self) -> SnapshotStore:
        """The store that the configuration speaks of."""
        return snapshot_store(self.tenant)

    def find(self, store: SnapshotStore, ref: str) -> Snapshot:
        """The one that is meant; raises :class:`~fc_kernel.errors.SnapshotNotFound`."""
        return store.get(ref, scope=self.scope or None)


class SnapshotListCommand(SnapshotCommand):
    """List the snapshots with what each takes on the disk by itself; what several share is in the total."""

    description = __doc__
    examples = """
    fc-kernel snapshot list
    fc-kernel snapshot list --scope work/analysis.ipynb --json
    """
    command_word = "list"

    def run(self) -> None:
        """Print the table."""
        store = self.store()
        snapshots = store.list(scope=self.scope or None)
        broken = {} if self.scope else store.broken()
        if self.json:
            self.print_json(
                [
                    *({**snapshot.to_dict(), "own_bytes": store.disk_bytes(snapshot)} for snapshot in snapshots),
                    *({"id": name, "error": str(error)} for name, error in broken.items()),
                ]
            )
            return
        if not snapshots and not broken:
            self.out.print("no snapshot; take one with %snapshot in a notebook")
            return
        names = {snapshot.id: snapshot.name for snapshot in snapshots}
        table = Table(box=None, pad_edge=False)
        for heading in ("NAME", "ID", "CREATED", "SIZE", "PARENT", "SCOPE", "DESCRIPTION"):
            table.add_column(heading, overflow="fold", justify="right" if heading == "SIZE" else "left")
        for snapshot in snapshots:
            cells = (
                snapshot.name,
                snapshot.id,
                _time(snapshot),
                _size(snapshot.added_bytes),
                names.get(snapshot.parent or "", ""),
                snapshot.scope,
                snapshot.description,
            )
            table.add_row(*(_cell(text) for text in cells))
        if snapshots:
            self.out.print(table)
            self.out.print(f"{_size(store.disk_bytes())} on the disk in all")
        for name, error in broken.items():
            self.err.print(f"{name}: {error}; remove it with: fc-kernel snapshot rm {name}", style="red", markup=False)


class SnapshotShowCommand(SnapshotCommand):
    """Show a snapshot and its files after checking every digest."""

    description = __doc__
    command_word = "show"
    words = (1, 1)
    words_shown = "one snapshot"

    def run(self) -> None:
        """Check, then print."""
        store = self.store()
        snapshot = self.find(store, self.extra_args[0])
        store.check(snapshot)
        files = [_file(snapshot, part.file) for part in snapshot.manifest.parts]
        said = {
            **snapshot.to_dict(),
            "own_bytes": store.disk_bytes(snapshot),
            "in_use": store.in_use(snapshot),
            "lineage": [each.name for each in store.lineage(snapshot)],
            "files": files,
        }
        if self.json:
            self.print_json(said)
            return
        table = Table(box=None, pad_edge=False, show_header=False)
        for name, value in _described(said).items():
            table.add_row(name, _cell(value))
        self.out.print(table)
        table = Table(box=None, pad_edge=False)
        for heading in ("FILE", "SIZE", "ON DISK", "SHARED", "SHA-256"):
            table.add_column(heading, justify="right" if heading in ("SIZE", "ON DISK") else "left")
        for file in files:
            shared = f"by {file['links']}" if file["links"] > 1 else ""
            table.add_row(file["file"], _size(file["size_bytes"]), _size(file["disk_bytes"]), shared, file["sha256"])
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
            "also those that a kernel runs from; it goes on, and cannot take a further snapshot",
        ),
    }

    force = Bool(False, help="also those in use").tag(config=True)

    def run(self) -> None:
        """Remove each, or none when one is not there or in use."""
        store = self.store()
        broken = store.broken()
        found: dict[str, tuple[str, Snapshot | str]] = {}
        for ref in self.extra_args:
            meant: Snapshot | str = ref if ref in broken and not self.scope else self._find(store, ref)
            found[meant if isinstance(meant, str) else meant.id] = (ref, meant)
        for ref, meant in found.values():
            if not isinstance(meant, str) and not self.force and store.in_use(meant):
                raise SnapshotInUse(f"the snapshot {ref!r} is in use; nothing was removed (see --force)")
        for ref, meant in found.values():
            store.delete(meant, force=self.force)
            if not self.json:
                self.out.print(f"removed {ref}", markup=False)
        if self.json:
            self.print_json({"removed": list(found)})

    def _find(self, store: SnapshotStore, ref: str) -> Snapshot:
        try:
            return self.find(store, ref)
        except SnapshotNotFound as error:
            raise SnapshotNotFound(f"{error}; nothing was removed") from None


class SnapshotRenameCommand(SnapshotCommand):
    """Give a snapshot another name."""

    description = __doc__
    command_word = "rename"
    words = (2, 2)
    words_shown = "a snapshot and its new name"

    def run(self) -> None:
        """Rename and report."""
        store = self.store()
        ref, name = self.extra_args
        snapshot = store.rename(self.find(store, ref), name)
        if self.json:
            self.print_json(snapshot.to_dict())
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

    def run(self) -> None:
        """Check, write and report."""
        store = self.store()
        ref, target = self.extra_args
        snapshot = self.find(store, ref)
        with store.hold(snapshot), self.err.status(f"exporting {snapshot.name}"):
            store.check(snapshot)
            written = export_snapshot(snapshot, target, replace=self.replace)
        if self.json:
            self.print_json({"id": snapshot.id, "name": snapshot.name, "target": target, "bytes": written})
        else:
            self.out.print(f"{snapshot.name}: {_size(written)} to {target}", markup=False)


class SnapshotImportCommand(SnapshotCommand):
    """Take a snapshot from a file or URL that export has written, after checking all of it.

    Restoring it gives its maker's code the kernel, and its maker's memory the monitor: import what you trust.
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

    snapshot_name = Unicode("", help="another name than its own").tag(config=True)

    def run(self) -> None:
        """Import and report."""
        (source,) = self.extra_args
        path: Any = source if "://" in source else Path(source)
        with self.err.status(f"importing {source}"):
            snapshot = import_snapshot(self.store(), path, scope=self.scope or None, name=self.snapshot_name or None)
        if self.json:
            self.print_json(snapshot.to_dict())
        else:
            self.out.print(f"{snapshot.name} of {snapshot.scope}: {_size(snapshot.size_bytes)}", markup=False)


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
        "import": (SnapshotImportCommand, "Take a snapshot from a file."),
        "create": ("fc_kernel.cli.fork.SnapshotCreateCommand", "Take a snapshot of a running kernel."),
        "restore": ("fc_kernel.cli.fork.SnapshotRestoreCommand", "Put a running kernel back to a snapshot."),
    }


def _file(snapshot: Snapshot, name: str) -> dict[str, Any]:
    try:
        found = (snapshot.directory / name).lstat()
    except OSError as error:
        raise SnapshotError(f"cannot read {name} of {snapshot.name}: {error.strerror}") from error
    part = snapshot.manifest.part(name)
    disk_bytes = found.st_blocks * 512
    return {**part.model_dump(mode="json"), "disk_bytes": disk_bytes, "links": found.st_nlink}


def _described(said: dict[str, Any]) -> dict[str, str]:
    """What a person wants to know."""
    spec, image = said["spec"], said["image"]
    return {
        "name": said["name"],
        "id": said["id"],
        "VM": said["vm_id"],
        "scope": said["scope"],
        "created": said["created"],
        "description": said["description"],
        "lineage": " > ".join(said["lineage"]),
        "machine": f"{spec['vcpu_count'] or '?'} vCPU, {spec['mem_size_mib']} MiB",
        "monitor": f"{said['monitor']} {said['monitor_version']}",
        "image": image["name"] if image else "",
        "on disk": f"{_size(said['size_bytes'])}, {_size(said['own_bytes'])} of it shared with no other",
        "in use": "yes" if said["in_use"] else "no",
        "path": said["path"],
    }


def _cell(text: str) -> Text:
    """People choose names, notebooks' names and descriptions: they are text, not markup."""
    return Text(" ".join(without_controls(text).split()))


def _time(snapshot: Snapshot) -> str:
    return snapshot.created[:19].replace("T", " ")


def _size(size: int) -> str:
    if size < MIB:
        return f"{size / KIB:.0f} KiB"
    return f"{size / MIB:.1f} MiB" if size < 100 * MIB else f"{size / MIB:.0f} MiB"
