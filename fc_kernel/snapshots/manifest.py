"""What a snapshot's ``manifest.json`` says, and how it is read when anybody may have written it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, ConfigDict, Field, Strict, ValidationError, model_validator

from ..errors import SnapshotCorrupt, SnapshotError, SnapshotIncompatible
from ..settings.spec import MAX_BOOT_ARGS, Frozen, VmSpec
from .naming import ID_PATTERN, is_name, is_scope

MANIFEST_NAME = "manifest.json"
MEM, VMSTATE, NOTEBOOK, LAYER_PREFIX = "mem", "vmstate", "notebook.ipynb", "pages."
FORMAT: Final = 2
#: Format 1 had these fields, too; nothing was ever written into them, and nothing reads them.
RETIRED = ("snapshot_format", "host_kernel", "initrd_sha256", "timings")
_SEAL_OF_FORMAT_1 = re.compile(rb'\n "checksum": "([0-9a-f]{64})"\n}\n\Z')
#: A manifest has some kilobytes; more is not ours.
MAX_MANIFEST_BYTES = 1 << 20
#: With each layer a load reads one more file; more layers than this are merged into one.
MAX_LAYERS = 16
LAYER_NAMES = [f"{LAYER_PREFIX}{number}" for number in range(MAX_LAYERS)]
#: No file is larger: 2^48 bytes is what x86 can address.
MAX_FILE_BYTES = 1 << 48
MAX_TEXT, MAX_DESCRIPTION = 256, 1000
SHA256_PATTERN: Final = r"^[0-9a-f]{64}$"
OPTIONAL_SHA256_PATTERN: Final = r"^([0-9a-f]{64})?$"

Printable = AfterValidator(lambda text: _checked(text, text.isprintable(), "printable characters"))
Text = Annotated[str, Strict(), Field(max_length=MAX_TEXT), Printable]
Digest = Annotated[str, Strict(), Field(pattern=SHA256_PATTERN)]
OptionalDigest = Annotated[str, Strict(), Field(pattern=OPTIONAL_SHA256_PATTERN)]
Number = Annotated[int, Strict(), Field(ge=0, le=MAX_FILE_BYTES)]
#: Generations and the like are counted on after a load, in the frames' u32: no more than half of it is used up before.
MAX_COUNT = (1 << 31) - 1
Count = Annotated[int, Strict(), Field(ge=0, le=MAX_COUNT)]
SnapshotId = Annotated[str, Strict(), Field(pattern=ID_PATTERN)]


def _checked(value: str, right: bool, allowed: str) -> str:
    if not right:
        raise ValueError(allowed)
    return value


class Part(Frozen):
    """One file of a snapshot; that of ``mem`` has the digest of :mod:`fc_kernel.memory.digest`, all others SHA-256."""

    file: Annotated[str, Strict(), Field(pattern=r"^(mem|vmstate|notebook\.ipynb|pages\.(0|[1-9][0-9]?))$")]
    sha256: Digest
    size_bytes: Number


class Cpu(Frozen):
    """The processor that the guest saw."""

    model: Text
    flags_sha256: OptionalDigest = ""

    @classmethod
    def of(cls, model: str, flags: Iterable[str]) -> Cpu:
        """A processor by its model's name and its flags, in any order."""
        shown = "".join(character for character in model if character.isprintable())[:MAX_TEXT]
        return cls(model=shown, flags_sha256=hashlib.sha256(" ".join(sorted(set(flags))).encode()).hexdigest())


class ImageRef(Frozen):
    """The image that the guest runs from. Its files are not in the snapshot."""

    name: Text
    kernel_sha256: Digest
    rootfs_sha256: Digest


class KernelState(Frozen):
    """What the agent said of the frozen kernel; ``cell`` is the id of the request whose cell asked for the snapshot."""

    instance: Count | None = None
    language: Text | None = None
    execution_count: Count | None = None
    cell: Text | None = None
    #: The key that host and guest share; each restore changes it.
    key: Text = ""


class ManifestDraft(Frozen):
    """The part of a manifest that whoever takes the snapshot fills in; the store adds the rest."""

    model_config = ConfigDict(allow_inf_nan=False)

    description: Annotated[str, Strict(), Field(max_length=MAX_DESCRIPTION)] = ""
    parent: SnapshotId | None = None
    #: Path of the notebook, for people; never opened.
    notebook: Annotated[str, Strict(), Field(max_length=4096)] | None = None
    kernel_id: Text = ""
    #: The VM that was saved; a reference to the snapshot may name it.
    vm_id: Text = ""
    monitor: Text
    monitor_version: Text
    cpu: Cpu
    agent_protocol: Count
    image: ImageRef | None = None
    boot_args: Annotated[str, Strict(), Field(max_length=MAX_BOOT_ARGS), Printable] = ""
    #: Without paths of the host's files: a restore takes those of the image with the same digests.
    spec: VmSpec
    generation: Count = 0
    kernel: KernelState = KernelState()
    template_key: Text = ""

    @model_validator(mode="after")
    def _knows_its_memory(self) -> ManifestDraft:
        if self.spec.mem_size_mib is None:
            raise ValueError("spec.mem_size_mib is not set")
        return self

    @property
    def mem_size_bytes(self) -> int:
        """Size of the guest's memory."""
        return (self.spec.mem_size_mib or 0) << 20


class Manifest(ManifestDraft):
    """A whole manifest. ``checksum`` covers all other fields."""

    format: Literal[2] = FORMAT
    id: SnapshotId
    kind: Literal["snapshot", "template"]
    name: Annotated[str, Strict(), AfterValidator(lambda name: _checked(name, is_name(name), "a snapshot's name"))]
    scope: Annotated[str, Strict(), AfterValidator(lambda scope: _checked(scope, is_scope(scope), "a scope"))]
    owner: Text
    created: Annotated[str, Strict(), Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")]
    parts: Annotated[tuple[Part, ...], Field(max_length=MAX_LAYERS + 3, strict=False)]
    checksum: OptionalDigest = ""

    @model_validator(mode="after")
    def _has_all_parts(self) -> Manifest:
        names = [part.file for part in self.parts]
        layers = LAYER_NAMES[: len(self.layers)]
        if sorted(names) != sorted([MEM, VMSTATE, *layers, *([NOTEBOOK] if NOTEBOOK in names else [])]):
            raise ValueError("the parts are not those of a snapshot")
        if self.part(MEM).size_bytes != self.mem_size_bytes:
            raise ValueError("mem is not as large as the machine's memory")
        return self

    @property
    def layers(self) -> list[str]:
        """Names of the page files, oldest first."""
        found = [part.file for part in self.parts if part.file.startswith(LAYER_PREFIX)]
        return sorted(found, key=lambda name: int(name.removeprefix(LAYER_PREFIX)))

    def part(self, file: str) -> Part:
        """The part of that name; raises :class:`KeyError`."""
        for part in self.parts:
            if part.file == file:
                return part
        raise KeyError(file)

    def sealed(self) -> Manifest:
        """The manifest with its checksum filled in."""
        return self.model_copy(update={"checksum": self._checksum()})

    def to_bytes(self) -> bytes:
        """The content of the file. A manifest has exactly one written form."""
        return self.model_dump_json(indent=1).encode() + b"\n"

    def _checksum(self) -> str:
        return hashlib.sha256(self.model_copy(update={"checksum": ""}).to_bytes()).hexdigest()

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Parse and check; raises :class:`SnapshotCorrupt`, and :class:`SnapshotIncompatible` for another format."""
        try:
            found = json.loads(data)
            version = found["format"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise SnapshotCorrupt(MANIFEST_NAME, "it is not a manifest of a snapshot") from None
        if type(version) is int and version == 1:
            return cls._from_format_1(data, found)
        if version != FORMAT:
            raise SnapshotIncompatible("format", have=version, want=FORMAT)
        try:
            manifest = cls.model_validate_json(data)
            right = manifest.checksum == manifest._checksum() and manifest.to_bytes() == data
        except (ValidationError, ValueError, RecursionError) as error:
            raise SnapshotCorrupt(MANIFEST_NAME, _first_fault(error)) from None
        if not right:
            raise SnapshotCorrupt(MANIFEST_NAME, "its checksum does not match")
        return manifest

    @classmethod
    def _from_format_1(cls, data: bytes, found: dict[str, object]) -> Manifest:
        """A manifest that an earlier version wrote, in today's format."""
        seal = _SEAL_OF_FORMAT_1.search(data)
        if seal is None:
            raise SnapshotCorrupt(MANIFEST_NAME, "it is not a manifest of a snapshot")
        if hashlib.sha256(data[: seal.start(1)] + data[seal.end(1) :]).hexdigest() != seal[1].decode():
            raise SnapshotCorrupt(MANIFEST_NAME, "its checksum does not match")
        kept = {name: value for name, value in found.items() if name not in RETIRED}
        try:
            if json.dumps(found, indent=1, ensure_ascii=False).encode() + b"\n" != data:
                raise SnapshotCorrupt(MANIFEST_NAME, "it is not in the form in which manifests are written")
            return cls.model_validate_json(json.dumps({**kept, "format": FORMAT})).sealed()
        except (ValidationError, ValueError, RecursionError) as error:
            raise SnapshotCorrupt(MANIFEST_NAME, _first_fault(error)) from None


def _first_fault(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return "it cannot be parsed"
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:MAX_TEXT]
    return f"{where!r}: {first['msg']}"


def seal(draft: ManifestDraft, **fields: object) -> Manifest:
    """The manifest of a draft and the store's fields; raises :class:`~fc_kernel.errors.SnapshotError` if they are not valid."""
    try:
        return Manifest.model_validate({**dict(draft), **fields}).sealed()
    except ValidationError as error:
        raise SnapshotError(f"the snapshot cannot be described: {_first_fault(error)}") from None
