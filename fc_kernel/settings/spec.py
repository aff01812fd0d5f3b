"""What a microVM is made of: ``VmSpec`` and its parts.

The field names are those of the reference ``VmSpec`` (the Rust crate ``microvm-runtime``) and, for the parts, of
Firecracker's API. Every field of ``VmSpec`` is optional; ``None`` means the default. All types are immutable and strict:
``"2"`` is not a number, ``True`` is not 1.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails

from ..errors import SpecError

#: CIDs 0, 1 and 2 are the hypervisor, the loopback and the host; all ones means "any" (``man 7 vsock``).
MIN_CID, MAX_CID = 3, 0xFFFF_FFFE
#: The kernel's IFNAMSIZ is 16 with the closing NUL.
MAX_INTERFACE_NAME = 15
#: Firecracker takes letters, digits and underscores; the length keeps an id within a log line.
ID_PATTERN = r"^[A-Za-z0-9_]{1,64}$"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
DEVICE_PATTERN = rf"^[A-Za-z0-9][A-Za-z0-9_.-]{{0,{MAX_INTERFACE_NAME - 1}}}$"
#: The lowest bit of the first byte would make it a multicast address.
MAC_PATTERN = r"^[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}$"
BOOT_ARGS_PATTERN = r"^[ -~]*$"
#: Linux's PATH_MAX without the closing NUL, and COMMAND_LINE_SIZE on x86.
MAX_PATH_BYTES, MAX_BOOT_ARGS = 4095, 2048
#: More drives or interfaces than this do not fit Firecracker's interrupt lines.
MAX_DEVICES = 16
ROOT_DRIVE_ID = "rootfs"
U8, U32, U64 = 2**8 - 1, 2**32 - 1, 2**64 - 1


def _host_path(value: object) -> object:
    """Check the text before ``Path`` turns an empty one into ``.``; anything that is not a path is left to ``Path``."""
    if isinstance(value, str | os.PathLike):
        text = os.fspath(value)
        try:
            fits = 0 < len(os.fsencode(text)) <= MAX_PATH_BYTES
        except UnicodeEncodeError:
            fits = False
        if not (isinstance(text, str) and fits and "\0" not in text and ".." not in text.split("/")):
            raise ValueError(f"a path of at most {MAX_PATH_BYTES} bytes without '..' and NUL")
    return value


HostPath = Annotated[
    Path,
    Field(strict=False),
    BeforeValidator(_host_path),
    WithJsonSchema(
        {
            "type": "string",
            "format": "path",
            "minLength": 1,
            "maxLength": MAX_PATH_BYTES,
            "not": {"pattern": r"\u0000|(^|/)\.\.(/|$)"},
        }
    ),
]
UInt8 = Annotated[int, Strict(), Field(ge=1, le=U8)]
MemMib = Annotated[int, Strict(), Field(ge=1, le=U32)]
Count = Annotated[int, Strict(), Field(ge=0, le=U64)]
Positive = Annotated[int, Strict(), Field(ge=1, le=U64)]
Name = Annotated[str, Strict(), Field(pattern=NAME_PATTERN)]
Identifier = Annotated[str, Strict(), Field(pattern=ID_PATTERN)]
BootArgs = Annotated[str, Strict(), Field(max_length=MAX_BOOT_ARGS, pattern=BOOT_ARGS_PATTERN)]
Flag = Annotated[bool, Strict()]


class Frozen(BaseModel):
    """Base of all parts: immutable, and an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, ser_json_bytes="base64", defer_build=True)


class TokenBucket(Frozen):
    """A token bucket: ``size`` tokens are refilled in ``refill_time_ms``; ``one_time_burst`` extra ones only once."""

    size: Positive = Field(description="tokens (bytes, or operations) in the bucket")
    one_time_burst: Count | None = Field(None, description="tokens that may be used once beyond the size")
    refill_time_ms: Positive = Field(description="milliseconds in which an empty bucket fills")


class RateLimiter(Frozen):
    """Limits on bytes and on operations; ``None`` is no limit."""

    bandwidth: TokenBucket | None = Field(None, description="limit on bytes")
    ops: TokenBucket | None = Field(None, description="limit on operations")


class NetworkInterface(Frozen):
    """A network interface of the guest, on a TAP device of the host."""

    iface_id: Identifier = Field(description="name of the interface within the VM")
    host_dev_name: Annotated[str, Strict(), Field(pattern=DEVICE_PATTERN)] = Field(description="TAP device on the host")
    guest_mac: Annotated[str, Strict(), Field(pattern=MAC_PATTERN)] | None = Field(
        None, description="MAC address in the guest"
    )
    rx_rate_limiter: RateLimiter | None = Field(None, description="limit on what the guest receives")
    tx_rate_limiter: RateLimiter | None = Field(None, description="limit on what the guest sends")


def _not_root(drive_id: str) -> str:
    if drive_id == ROOT_DRIVE_ID:
        raise ValueError(f"any other id; {ROOT_DRIVE_ID!r} is reserved for the root drive")
    return drive_id


DriveId = Annotated[
    str,
    Strict(),
    Field(pattern=ID_PATTERN),
    AfterValidator(_not_root),
    WithJsonSchema({"type": "string", "pattern": ID_PATTERN, "not": {"const": ROOT_DRIVE_ID}}),
]


class DriveSpec(Frozen):
    """A drive besides the root drive."""

    drive_id: DriveId = Field(description="name of the drive; 'rootfs' is reserved")
    path_on_host: HostPath = Field(description="file or block device on the host")
    is_read_only: Flag = Field(description="whether the guest may not write")
    rate_limiter: RateLimiter | None = Field(None, description="limit on the drive")


class VsockSpec(Frozen):
    """The guest's vsock device."""

    cid: Annotated[int, Strict(), Field(ge=MIN_CID, le=MAX_CID)] = Field(description="context id of the guest")
    uds_path: HostPath = Field(description="Unix socket on the host")


def _unique(name: str) -> AfterValidator:
    def check(items: tuple[Any, ...]) -> tuple[Any, ...]:
        names = [getattr(item, name) for item in items]
        twice = next((value for value in names if names.count(value) > 1), None)
        if twice is not None:
            raise ValueError(f"each {name} once; {twice!r} is there twice")
        return items

    return AfterValidator(check)


def _none_is_empty(value: object) -> object:
    return () if value is None else value


Interfaces = Annotated[
    tuple[NetworkInterface, ...],
    Field(max_length=MAX_DEVICES, strict=False),
    _unique("iface_id"),
    _unique("host_dev_name"),
]
Drives = Annotated[tuple[DriveSpec, ...], Field(max_length=MAX_DEVICES, strict=False), _unique("drive_id")]
# The reference's lists have no null, but a notebook or form that leaves fields at their defaults says null everywhere.
OptionalInterfaces = Annotated[Interfaces, BeforeValidator(_none_is_empty, json_schema_input_type=Interfaces | None)]
OptionalDrives = Annotated[Drives, BeforeValidator(_none_is_empty, json_schema_input_type=Drives | None)]


class SnapshotRef(Frozen):
    """A snapshot to start from."""

    vm_id: Name = Field(description="the VM whose snapshot it is")
    snapshot_id: Name = Field(description="the snapshot")
    resume_immediately: Flag = Field(True, description="whether the vCPUs run after the load")
    network_overrides: OptionalInterfaces = Field((), description="interfaces to put in place of the snapshot's")


class VmSpec(Frozen):
    """A microVM; ``None`` means the default. With ``restore_from`` the cold-boot fields are ignored."""

    kernel: HostPath | None = Field(None, description="uncompressed guest kernel on the host")
    rootfs: HostPath | None = Field(None, description="root file system on the host")
    rootfs_read_only: Flag | None = Field(None, description="whether the guest may not write to the root drive")
    vcpu_count: UInt8 | None = Field(None, description="number of vCPUs")
    mem_size_mib: MemMib | None = Field(None, description="memory in MiB")
    boot_args: BootArgs | None = Field(None, description="the guest kernel's command line")
    rootfs_rate_limit: RateLimiter | None = Field(None, description="limit on the root drive")
    network_interfaces: OptionalInterfaces = Field((), description="empty is no network")
    extra_drives: OptionalDrives = Field((), description="drives besides the root drive")
    vsock: VsockSpec | None = Field(None, description="the vsock device")
    restore_from: SnapshotRef | None = Field(None, description="start from a snapshot instead of booting")
    track_dirty_pages: Flag | None = Field(None, description="whether diff snapshots are possible; None is enabled")

    def to_json(self) -> str:
        """The spec as one JSON object; :meth:`from_json` gives an equal spec back."""
        return self.model_dump_json(exclude_defaults=True)

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str | None = None) -> VmSpec:
        """Parse JSON; raises :class:`~fc_kernel.errors.SpecError`."""
        return parse_json(cls, text, source=source)


Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], value: object, *, source: str | None = None) -> Model:
    """Validate a value from JSON or Python; raises one :class:`~fc_kernel.errors.SpecError` for the first fault."""
    if isinstance(value, model):
        return value
    if not isinstance(value, Mapping):
        raise SpecError(source or model.__name__, value, "an object of names and values")
    try:
        return model.model_validate(dict(value))
    except ValidationError as error:
        raise _spec_error(model, error, source) from None


def parse_json(model: type[Model], text: str | bytes, *, source: str | None = None) -> Model:
    """As :func:`parse`, from JSON text."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise _spec_error(model, error, source) from None


def parse_spec(value: object, *, source: str | None = None) -> VmSpec:
    """A ``VmSpec`` from a mapping; raises :class:`~fc_kernel.errors.SpecError`."""
    return parse(VmSpec, value, source=source)


#: What pydantic's error types mean in our words; ``{}`` is filled from the error's context.
_ALLOWED = {
    "int_type": "a whole number",
    "float_type": "a number that fits into 64 bits",
    "finite_number": "a finite number",
    "int_parsing_size": "a whole number of at most 64 bits",
    "bool_type": "true or false",
    "string_type": "a string",
    "string_unicode": "a string of Unicode characters, without half of a surrogate pair",
    "path_type": "a path as a string",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "an object of names and values",
    "mapping_type": "an object of names and values",
    "model_type": "an object of names and values",
    "model_attributes_type": "an object of names and values",
    "missing": "a value; it is required here",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "greater_than": "more than {gt}",
    "string_too_long": "at most {max_length} characters",
    "too_long": "at most {max_length} items",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "value_error": "{error}",
    "extra_forbidden": "one of: {names}",
    "json_invalid": "valid JSON: {error}",
}
#: The patterns in words.
_MATCHES = {
    ID_PATTERN: "1 to 64 of A-Z a-z 0-9 _",
    NAME_PATTERN: "1 to 64 of A-Z a-z 0-9 . _ -, starting with a letter or digit",
    DEVICE_PATTERN: f"1 to {MAX_INTERFACE_NAME} of A-Z a-z 0-9 . _ -, starting with a letter or digit",
    MAC_PATTERN: "a unicast MAC address such as 06:00:ac:10:00:02",
    BOOT_ARGS_PATTERN: "printable ASCII on one line",
}


def _spec_error(model: type[BaseModel], error: ValidationError, source: str | None) -> SpecError:
    details = error.errors(include_url=False)
    first: ErrorDetails = details[0]
    context: dict[str, Any] = dict(first.get("ctx", {}))
    location = first["loc"]
    if first["type"] == "extra_forbidden":
        context["names"] = ", ".join(_names_at(model, location[:-1]))
    if first["type"] == "string_pattern_mismatch":
        allowed = _MATCHES.get(context["pattern"], f"text that matches {context['pattern']}")
    else:
        template = _ALLOWED.get(first["type"])
        allowed = template.format_map(context) if template else first["msg"]
    value = first["input"] if first["type"] != "missing" else None
    return SpecError(_dotted(location) if location else model.__name__, value, allowed, source=source)


def _names_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    here: dict[str, Any] = schema
    for part in location:
        here = here.get("items", {}) if isinstance(part, int) else here.get("properties", {}).get(part, {})
        for option in (here, *here.get("anyOf", ())):
            if "$ref" in option:
                here = definitions[option["$ref"].rpartition("/")[2]]
            elif option.get("type") == "array":
                here = option
        if "$ref" in here:
            here = definitions[here["$ref"].rpartition("/")[2]]
    if "$ref" in here.get("items", {}) and location and isinstance(location[-1], int):
        here = definitions[here["items"]["$ref"].rpartition("/")[2]]
    return sorted(here.get("properties", {}))


def _dotted(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
