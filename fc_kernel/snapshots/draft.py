"""A snapshot in the making: nobody sees it before it is complete, and nothing is left of it when it fails."""

from __future__ import annotations

import contextlib
import datetime
import os
import threading
from collections.abc import Iterator
from typing import Literal, Self

from ..base.tasks import off_loop
from ..errors import SnapshotCorrupt, SnapshotError, StateError
from ..vmm.base import SnapshotFiles
from . import disk
from .disk import Hold
from .layering import WRITTEN, check_layer, lay_on
from .manifest import (
    LAYER_NAMES,
    LAYER_PREFIX,
    MANIFEST_NAME,
    MEM,
    NOTEBOOK,
    VMSTATE,
    Manifest,
    ManifestDraft,
    Part,
    seal,
)
from .root import RESERVED_NAME, Reservation, Root, partial_name
from .snapshot import Base, Snapshot

#: QEMU 7.2 opens a private mapping's file for writing too, though it writes nothing.
MEM_MODE, PART_MODE = 0o600, 0o400


class Draft:
    """A context manager: at its end the draft is discarded, unless it was published."""

    def __init__(self, root: Root, snapshot_id: str, reserved: Reservation, lock: int) -> None:
        self._root = root
        self._lock = lock
        self._state: Literal["open", "published", "discarded"] = "open"
        self._one_at_a_time = threading.Lock()
        self._reserved = reserved
        self.kind = root.kind
        self.id = snapshot_id
        #: Where everything is written until it is published.
        self.directory = root.path / partial_name(snapshot_id)

    @property
    def name(self) -> str:
        """The name that the snapshot will have."""
        return self._reserved.name

    @property
    def scope(self) -> str:
        """The scope that it will have."""
        return self._reserved.scope

    @property
    def owner(self) -> str:
        """Its owner."""
        return self._reserved.owner

    @property
    def files(self) -> SnapshotFiles:
        """Where the driver writes; neither file is there yet."""
        return SnapshotFiles(vmstate=self.directory / VMSTATE, mem=self.directory / WRITTEN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        # In a thread, because removing a large file takes a while. The thread finishes even if this is cancelled.
        await off_loop(self.discard)

    def publish(self, fields: ManifestDraft, *, base: Base, notebook: bytes | None = None) -> Snapshot:
        """Publish what the driver wrote as a snapshot: all of it is on the disk when this returns, or nothing is left.

        Blocks for as long as the disk takes. Raises :class:`~fc_kernel.errors.QuotaExceeded` for a full disk, and other
        :class:`~fc_kernel.errors.SnapshotError`.
        """
        with self._publishing() as here:
            manifest = self._described(fields)
            linked: dict[str, Part] = {}
            self._root.step("base")
            if base.snapshot is None:
                os.rename(WRITTEN, MEM, src_dir_fd=here, dst_dir_fd=here)
            else:
                size = manifest.mem_size_bytes
                linked = lay_on(base.snapshot, self.directory, here, self._root, mem_size_bytes=size)
            if notebook is not None:
                disk.write_file(here, NOTEBOOK, notebook)
            layers = [name for name in LAYER_NAMES if (self.directory / name).exists()]
            names = [MEM, VMSTATE, *layers, *([NOTEBOOK] if notebook is not None else [])]
            return self._finish(here, manifest, self._parts(here, names, linked))

    def adopt(self, manifest: Manifest) -> Snapshot:
        """Publish parts that were written into the draft as they are, as an import does.

        Raises :class:`~fc_kernel.errors.SnapshotCorrupt` for a part that is not what the manifest records.
        """
        with self._publishing() as here:
            found_parts = self._parts(here, [part.file for part in manifest.parts], {})
            for part, found in zip(manifest.parts, found_parts, strict=True):
                if found != part:
                    raise SnapshotCorrupt(part.file, f"its digest is {found.sha256}, the manifest says {part.sha256}")
                if part.file.startswith(LAYER_PREFIX):
                    check_layer(self.directory / part.file, manifest.mem_size_bytes)
            return self._finish(here, manifest, list(manifest.parts))

    def keep(self) -> Hold:
        """Hold the snapshot, so that it cannot be deleted; call it after publishing, before the ``with`` block ends."""
        if self._state != "published" or self._lock < 0:
            raise StateError("only a snapshot that was just published can be held")
        lock, self._lock = self._lock, -1
        return Hold(lock)

    def discard(self) -> None:
        """Remove everything, unless it is published; nothing happens the second time."""
        with self._one_at_a_time:
            if self._state == "open":
                self._state = "discarded"
                # What cannot be removed now is swept later, because the lock is released.
                with contextlib.suppress(OSError, SnapshotError), self._root.opened() as root:
                    self._root.remove_tree(root, self.directory.name)
            lock, self._lock = self._lock, -1
            if lock >= 0:
                os.close(lock)

    @contextlib.contextmanager
    def _publishing(self) -> Iterator[int]:
        with self._one_at_a_time:
            if self._state != "open":
                raise StateError(f"the snapshot was {self._state}")
            with disk.explained(f"save the snapshot {self.name!r}"), disk.directory(self.directory) as here:
                yield here

    def _described(self, fields: ManifestDraft) -> ManifestDraft:
        """The fields without paths of this host, which would mean nothing later or elsewhere."""
        spec = fields.spec.model_copy(update=dict.fromkeys(("kernel", "rootfs", "vsock", "restore_from")))
        return fields.model_copy(update={"spec": spec})

    def _parts(self, here: int, names: list[str], known: dict[str, Part]) -> list[Part]:
        # All modes first: a digest is remembered only some time after its file's last change, and so they wait together.
        for name in names:
            if name not in known:
                with disk.part(here, name) as descriptor:
                    os.fchmod(descriptor, MEM_MODE if name == MEM else PART_MODE)
        return [self._part(here, name, known.get(name)) for name in names]

    def _part(self, here: int, name: str, known: Part | None) -> Part:
        """Hash a file and flush it to the disk; a linked one is there already, and its digest is known."""
        self._root.step(f"hash {name}")
        with disk.part(here, name) as descriptor:
            size = os.fstat(descriptor).st_size
            if known is not None and os.fstat(descriptor).st_nlink > 1:
                if size != known.size_bytes:
                    raise SnapshotCorrupt(name, f"it has {size} bytes, its manifest says {known.size_bytes}")
                return known
            found = Part(file=name, sha256=self._root.digest_of(descriptor, name), size_bytes=size)
            if known is not None and found != known:
                raise SnapshotCorrupt(name, "its copy is not what its manifest records")
            self._root.step(f"fsync {name}")
            os.fsync(descriptor)
        return found

    def _finish(self, here: int, fields: ManifestDraft, parts: list[Part]) -> Snapshot:
        own = ManifestDraft.model_fields.keys()
        manifest = seal(
            ManifestDraft.model_construct(**{name: getattr(fields, name) for name in own}),
            id=self.id,
            kind=self.kind,
            name=self.name,
            scope=self.scope,
            owner=self.owner,
            created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            parts=tuple(parts),
        )
        self._root.step("manifest")
        disk.write_file(here, MANIFEST_NAME, manifest.to_bytes())
        with self._root.locked() as root:
            self._root.step("unreserve")
            os.unlink(RESERVED_NAME, dir_fd=here)
            os.fsync(here)
            self._root.step("rename")
            os.rename(self.directory.name, self.id, src_dir_fd=root, dst_dir_fd=root)
            try:
                self._root.step("fsync")
                os.fsync(root)
                disk.lock(self._lock, shared=True)
            except BaseException:
                # Nobody knows of it yet, and it might not survive a power cut.
                os.rename(self.id, self.directory.name, src_dir_fd=root, dst_dir_fd=root)
                raise
            self._state = "published"
        self._root.step("published")
        snapshot = Snapshot(self._root.path / self.id, manifest)
        self._root.remember(snapshot)
        return snapshot
