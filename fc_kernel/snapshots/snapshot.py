"""A complete snapshot, as the store returns it."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..settings.spec import VmSpec
from ..vmm.base import SnapshotFiles
from . import disk
from .manifest import MANIFEST_NAME, MEM, NOTEBOOK, VMSTATE, Manifest

#: In each snapshot's directory: its writer locks it exclusively, whoever uses the files locks it shared.
LOCK_NAME = "lock"


@dataclass(frozen=True)
class Snapshot:
    """One snapshot. Its files are never changed."""

    directory: Path
    manifest: Manifest

    @property
    def id(self) -> str:
        """A random id, which is also the directory's name."""
        return self.manifest.id

    @property
    def kind(self) -> str:
        """``snapshot`` or ``template``."""
        return self.manifest.kind

    @property
    def name(self) -> str:
        """Unique within its owner's scope."""
        return self.manifest.name

    @property
    def scope(self) -> str:
        """The notebook, or the kernel, that it belongs to."""
        return self.manifest.scope

    @property
    def owner(self) -> str:
        """Its owner."""
        return self.manifest.owner

    @property
    def description(self) -> str:
        """The text that its owner gave it."""
        return self.manifest.description

    @property
    def parent(self) -> str | None:
        """Id of the snapshot that the kernel had continued from; it may be gone."""
        return self.manifest.parent

    @property
    def created(self) -> str:
        """Time in UTC, ISO 8601."""
        return self.manifest.created

    @property
    def spec(self) -> VmSpec:
        """The machine, without paths of the host."""
        return self.manifest.spec

    @property
    def mem(self) -> Path:
        """The memory below all layers."""
        return self.directory / MEM

    @property
    def vmstate(self) -> Path:
        """The devices' state."""
        return self.directory / VMSTATE

    @property
    def layers(self) -> tuple[Path, ...]:
        """Page files over ``mem``, oldest first."""
        return tuple(self.directory / name for name in self.manifest.layers)

    @property
    def files(self) -> SnapshotFiles:
        """For a :class:`~fc_kernel.vmm.base.SnapshotLoad`, together with ``layers``."""
        return SnapshotFiles(vmstate=self.vmstate, mem=self.mem)

    @property
    def notebook(self) -> Path | None:
        """The notebook as it was, if it was saved too."""
        saved = any(part.file == NOTEBOOK for part in self.manifest.parts)
        return self.directory / NOTEBOOK if saved else None

    @property
    def size_bytes(self) -> int:
        """What its files take on the disk, including those that it shares with others; 0 when it is gone."""
        try:
            with disk.directory(self.directory) as descriptor:
                return sum(disk.real_bytes(found) for found in disk.stats_of(descriptor))
        except OSError:
            return 0

    @functools.cached_property
    def added_bytes(self) -> int:
        """What it added to the disk when it was taken, without what its parents and its template have."""
        own = [self.vmstate, self.directory / MANIFEST_NAME, self.directory / NOTEBOOK]
        if self.layers:
            own.append(self.layers[-1])
        elif not self.manifest.template_key:
            own.append(self.mem)
        return sum(disk.real_bytes(found) for path in own if (found := _lstat(path)) is not None)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without the key of the guest."""
        said = self.manifest.model_dump(mode="json", exclude={"checksum": True, "kernel": {"key"}})
        return {**said, "path": str(self.directory), "size_bytes": self.size_bytes}


@dataclass(frozen=True)
class Base:
    """What a driver wrote into ``mem``: the whole memory, or what differs from a snapshot's."""

    snapshot: Snapshot | None

    @classmethod
    def full(cls) -> Base:
        """The whole memory."""
        return cls(None)

    @classmethod
    def diff_on(cls, snapshot: Snapshot) -> Base:
        """A sparse file of the pages that changed since that snapshot was taken or loaded."""
        return cls(snapshot)


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:
        return None
