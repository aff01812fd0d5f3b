"""The store of templates: one for each key; those that nobody uses are removed in time."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.verified import VerifiedFiles
from ..errors import SnapshotInUse, SnapshotNotFound
from .compat import Difference, Host, differences
from .disk import Hold
from .draft import Draft
from .manifest import ManifestDraft
from .root import Kind, Step, no_step
from .snapshot import LOCK_NAME, Snapshot
from .store import GIB, SnapshotStore, StoreLimits

SCOPE = "templates"
DAY_S = 24 * 3600.0


@dataclass(frozen=True)
class TemplateLimits:
    """Bytes of all templates, how long one may be unused, bytes that must stay free on the disk, number of templates."""

    max_bytes: int = 16 * GIB
    max_idle_s: float = 30 * DAY_S
    min_free_bytes: int = 1 * GIB
    max_templates: int = 200


@dataclass(frozen=True)
class Stale:
    """A template of the same image and shape that does not fit any more, and the first field that differs."""

    template: Snapshot
    field: str
    have: object
    want: object


class _Templates(SnapshotStore):
    kind: Kind = "template"


class TemplateStore:
    """Templates by key: a text in which the caller has put all that a template depends on."""

    def __init__(
        self,
        root: Path,
        limits: TemplateLimits | None = None,
        *,
        owner: str,
        records: VerifiedFiles,
        step: Step = no_step,
    ) -> None:
        self.limits = limits or TemplateLimits()
        # Old templates are removed when there are too many bytes of them; the store need not refuse a new one.
        store = StoreLimits(self.limits.max_templates, 2 * self.limits.max_bytes, self.limits.min_free_bytes)
        self._store = _Templates(root, store, owner=owner, records=records, step=step)

    @property
    def root(self) -> Path:
        """The store's directory; it is made when it is needed."""
        return self._store.root

    def find(self, key: str) -> Snapshot | None:
        """The template of a key, not checked yet, or ``None``."""
        try:
            return self._store.get(_name(key), scope=SCOPE)
        except SnapshotNotFound:
            return None

    def begin(self, key: str, *, expected_bytes: int) -> Draft:
        """Begin the template of a key; raises as :meth:`SnapshotStore.begin`.

        That is :class:`~fc_kernel.errors.SnapshotExists` when there is one, or another process is making it.
        """
        self.sweep(room_bytes=expected_bytes)
        return self._store.begin(name=_name(key), scope=SCOPE, expected_bytes=expected_bytes)

    def others(self, like: ManifestDraft) -> list[Stale]:
        """Templates with the same image name and shape but another key, newest first, and why they do not fit."""
        found = []
        for template in reversed(self._store.list()):
            other = template.manifest
            if other.template_key != like.template_key and _shape(other) == _shape(like):
                field, have, want = next(_reasons(other, like))
                found.append(Stale(template, field, have, want))
        return found

    def list(self) -> list[Snapshot]:
        """All templates that can be read, oldest first."""
        return self._store.list()

    def hold(self, template: Snapshot) -> Hold:
        """Keep it from being removed, and mark it used; raises :class:`~fc_kernel.errors.SnapshotNotFound`."""
        return self._store.hold(template)

    def in_use(self, template: Snapshot) -> bool:
        """Whether somebody holds it."""
        return self._store.in_use(template)

    def check(self, template: Snapshot, here: Host | None = None) -> None:
        """As :meth:`SnapshotStore.check`."""
        self._store.check(template, here)

    def delete(self, template: Snapshot | str, *, force: bool = False) -> None:
        """As :meth:`SnapshotStore.delete`."""
        self._store.delete(template, force=force)

    def disk_bytes(self, template: Snapshot | None = None) -> int:
        """As :meth:`SnapshotStore.disk_bytes`."""
        return self._store.disk_bytes(template)

    def sweep(self, *, room_bytes: int = 0) -> Sequence[str]:
        """Remove broken templates, those unused for long, and then the least recently used until there is room.

        Those that are held stay. Returns the ids of the removed ones.
        """
        self._store.sweep()
        removed = [broken for broken in self._store.broken() if self._remove(broken)]
        now = time.time()
        by_use = sorted((_used(template), template.id) for template in self._store.list())
        for used, template in by_use:
            too_old = now - used > self.limits.max_idle_s
            if (too_old or self._store.disk_bytes() + room_bytes > self.limits.max_bytes) and self._remove(template):
                removed.append(template)
        return removed

    def _remove(self, template: str) -> bool:
        with contextlib.suppress(SnapshotInUse, SnapshotNotFound):
            self._store.delete(template)
            return True
        return False


def _name(key: str) -> str:
    return f"t-{hashlib.sha256(key.encode()).hexdigest()[:32]}"


def _used(template: Snapshot) -> float:
    """When it was last held."""
    try:
        return (template.directory / LOCK_NAME).lstat().st_mtime
    except OSError:
        return 0.0


def _shape(manifest: ManifestDraft) -> tuple[object, ...]:
    image = manifest.image
    return (image and image.name, manifest.spec.vcpu_count, manifest.spec.mem_size_mib)


def _reasons(have: ManifestDraft, want: ManifestDraft) -> Iterator[Difference]:
    host = Host(
        monitor=want.monitor,
        monitor_version=want.monitor_version,
        cpu=want.cpu,
        agent_protocol=want.agent_protocol,
        image=want.image,
    )
    yield from differences(have, host)
    for field in ("boot_args", "spec"):
        if getattr(have, field) != getattr(want, field):
            yield field, getattr(have, field), getattr(want, field)
    if have.kernel.language != want.kernel.language:
        yield "kernel.language", have.kernel.language, want.kernel.language
    # What the key names and the manifest does not, such as what was imported.
    yield "template_key", have.template_key, want.template_key
