"""Whether a snapshot's files are what its manifest records, before anything of it is given to a monitor."""

from __future__ import annotations

import os

from ..base.verified import VerifiedFiles
from ..errors import SnapshotCorrupt
from ..memory.digest import memory_digest
from . import disk
from .layering import check_layer
from .manifest import LAYER_PREFIX, MEM
from .snapshot import Snapshot


def digest_of(records: VerifiedFiles, descriptor: int, name: str) -> str:
    """The digest of a part, remembered while the file is unchanged."""
    if name == MEM:
        return records.digest_of(descriptor, memory_digest, kind="memory/", patient=True)
    return records.digest_of(descriptor, patient=True)


def check_parts(snapshot: Snapshot, here: int, records: VerifiedFiles) -> None:
    """Look at every file of an open snapshot directory; raises :class:`~fc_kernel.errors.SnapshotCorrupt`."""
    for part in snapshot.manifest.parts:
        try:
            with disk.part(here, part.file) as descriptor:
                size = os.fstat(descriptor).st_size
                if size != part.size_bytes:
                    raise SnapshotCorrupt(part.file, f"it has {size} bytes, the manifest says {part.size_bytes}")
                found = digest_of(records, descriptor, part.file)
            if found != part.sha256:
                raise SnapshotCorrupt(part.file, f"its digest is {found}, the manifest says {part.sha256}")
            if part.file.startswith(LAYER_PREFIX):
                check_layer(snapshot.directory / part.file, snapshot.manifest.mem_size_bytes)
        except OSError as error:
            raise SnapshotCorrupt(part.file, f"it cannot be read: {error.strerror or error}") from error
