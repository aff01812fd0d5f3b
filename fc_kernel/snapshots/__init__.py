"""Snapshots and templates on the disk: published whole or not at all, checked before they are used."""

from .compat import Host
from .disk import Hold
from .draft import Draft
from .export import export_snapshot, import_snapshot
from .manifest import Cpu, ImageRef, KernelState, Manifest, ManifestDraft, Part
from .snapshot import Base, Snapshot
from .store import SnapshotStore, StoreLimits
from .templates import Stale, TemplateLimits, TemplateStore

__all__ = [
    "Base",
    "Cpu",
    "Draft",
    "Hold",
    "Host",
    "ImageRef",
    "KernelState",
    "Manifest",
    "ManifestDraft",
    "Part",
    "Snapshot",
    "SnapshotStore",
    "Stale",
    "StoreLimits",
    "TemplateLimits",
    "TemplateStore",
    "export_snapshot",
    "import_snapshot",
]
