"""``VmSpec`` and its parts: the reference's fields, immutable, strict, and the same after a round trip through JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import fc_kernel
from fc_kernel.errors import SpecError
from fc_kernel.settings.spec import (
    MAX_CID,
    MAX_DEVICES,
    MIN_CID,
    U8,
    U32,
    U64,
    DriveSpec,
    Frozen,
    NetworkInterface,
    RateLimiter,
    SnapshotRef,
    TokenBucket,
    VmSpec,
    VsockSpec,
    parse,
    parse_json,
    parse_spec,
)

#: The reference's types, field by field, in its order (the Rust crate ``microvm-runtime`` 0.4).
REFERENCE = {
    VmSpec: [
        "kernel", "rootfs", "rootfs_read_only", "vcpu_count", "mem_size_mib", "boot_args", "rootfs_rate_limit",
        "network_interfaces", "extra_drives", "vsock", "restore_from", "track_dirty_pages",
    ],
    DriveSpec: ["drive_id", "path_on_host", "is_read_only", "rate_limiter"],
    VsockSpec: ["cid", "uds_path"],
    RateLimiter: ["bandwidth", "ops"],
    TokenBucket: ["size", "one_time_burst", "refill_time_ms"],
    NetworkInterface: ["iface_id", "host_dev_name", "guest_mac", "rx_rate_limiter", "tx_rate_limiter"],
    SnapshotRef: ["vm_id", "snapshot_id", "resume_immediately", "network_overrides"],
}  # fmt: skip

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
identifiers = st.from_regex(r"[A-Za-z0-9_]{1,64}", fullmatch=True)
devices = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}", fullmatch=True)
macs = st.from_regex(r"[0-9a-f][02468ace](:[0-9A-Fa-f]{2}){5}", fullmatch=True)
paths = st.lists(
    st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
        lambda part: part not in (".", "..")
    ),
    min_size=1,
    max_size=4,
).map(lambda parts: Path("/", *parts))
buckets = st.builds(
    TokenBucket,
    size=st.integers(1, U64),
    one_time_burst=st.none() | st.integers(0, U64),
    refill_time_ms=st.integers(1, U64),
)
limiters = st.builds(RateLimiter, bandwidth=st.none() | buckets, ops=st.none() | buckets)
interfaces = st.lists(
    st.builds(
        NetworkInterface,
        iface_id=identifiers,
        host_dev_name=devices,
        guest_mac=st.none() | macs,
        rx_rate_limiter=st.none() | limiters,
        tx_rate_limiter=st.none() | limiters,
    ),
    max_size=3,
    unique_by=(lambda one: one.iface_id, lambda one: one.host_dev_name),
).map(tuple)
drives = st.lists(
    st.builds(
        DriveSpec,
        drive_id=identifiers.filter(lambda name: name != "rootfs"),
        path_on_host=paths,
        is_read_only=st.booleans(),
        rate_limiter=st.none() | limiters,
    ),
    max_size=3,
    unique_by=lambda one: one.drive_id,
).map(tuple)
snapshots = st.builds(
    SnapshotRef, vm_id=names, snapshot_id=names, resume_immediately=st.booleans(), network_overrides=interfaces
)
specs = st.builds(
    VmSpec,
    kernel=st.none() | paths,
    rootfs=st.none() | paths,
    rootfs_read_only=st.none() | st.booleans(),
    vcpu_count=st.none() | st.integers(1, U8),
    mem_size_mib=st.none() | st.integers(1, U32),
    boot_args=st.none() | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=100),
    rootfs_rate_limit=st.none() | limiters,
    network_interfaces=interfaces,
    extra_drives=drives,
    vsock=st.none() | st.builds(VsockSpec, cid=st.integers(MIN_CID, MAX_CID), uds_path=paths),
    restore_from=st.none() | snapshots,
    track_dirty_pages=st.none() | st.booleans(),
)


@pytest.mark.parametrize("model", REFERENCE, ids=lambda model: model.__name__)
def test_the_fields_are_the_references(model: type[Frozen]) -> None:
    assert list(model.model_fields) == REFERENCE[model]


def test_every_field_may_be_left_out() -> None:
    spec = VmSpec()
    given_values = {name: getattr(spec, name) for name in VmSpec.model_fields}
    assert given_values.pop("network_interfaces") == ()
    assert given_values.pop("extra_drives") == ()
    assert set(given_values.values()) == {None}
    assert fc_kernel.VmSpec is VmSpec


@pytest.mark.parametrize("name", VmSpec.model_fields)
def test_null_is_the_default(name: str) -> None:
    assert parse_spec({name: None}) == VmSpec()
    assert VmSpec.from_json(json.dumps({name: None})) == VmSpec()


def test_the_parts_defaults() -> None:
    assert RateLimiter() == RateLimiter(bandwidth=None, ops=None)
    assert TokenBucket(size=1, refill_time_ms=1).one_time_burst is None
    interface = NetworkInterface(iface_id="eth0", host_dev_name="tap0")
    assert (interface.guest_mac, interface.rx_rate_limiter, interface.tx_rate_limiter) == (None, None, None)
    assert DriveSpec(drive_id="data", path_on_host=Path("/d"), is_read_only=True).rate_limiter is None
    snapshot = SnapshotRef(vm_id="vm", snapshot_id="one")
    assert snapshot.resume_immediately is True
    assert snapshot.network_overrides == ()


WHOLE: dict[str, Any] = {
    "kernel": "/boot/vmlinux",
    "rootfs": "/images/root.erofs",
    "rootfs_read_only": True,
    "vcpu_count": 2,
    "mem_size_mib": 512,
    "boot_args": "console=ttyS0",
    "rootfs_rate_limit": {"bandwidth": {"size": 1, "one_time_burst": 2, "refill_time_ms": 3}, "ops": None},
    "network_interfaces": [{"iface_id": "eth0", "host_dev_name": "tap0", "guest_mac": "06:00:ac:10:00:02"}],
    "extra_drives": [{"drive_id": "data", "path_on_host": "/data.img", "is_read_only": False}],
    "vsock": {"cid": 3, "uds_path": "v.sock"},
    "restore_from": {"vm_id": "vm", "snapshot_id": "one", "resume_immediately": False},
    "track_dirty_pages": False,
}


def test_a_whole_spec() -> None:
    spec = parse_spec(WHOLE)
    assert spec.kernel == Path("/boot/vmlinux")
    assert spec.rootfs_rate_limit == RateLimiter(bandwidth=TokenBucket(size=1, one_time_burst=2, refill_time_ms=3))
    assert spec.extra_drives[0].path_on_host == Path("/data.img")
    assert spec.restore_from == SnapshotRef(vm_id="vm", snapshot_id="one", resume_immediately=False)
    assert VmSpec.from_json(json.dumps(WHOLE)) == spec == VmSpec.from_json(spec.to_json())


@pytest.mark.parametrize("name", WHOLE)
def test_nothing_can_be_set_afterwards(name: str) -> None:
    spec = parse_spec(WHOLE)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(spec, name, None)
    with pytest.raises(ValidationError, match="frozen"):
        delattr(spec, name)


def test_the_parts_are_immutable_too_and_the_whole_is_hashable() -> None:
    spec = parse_spec(WHOLE)
    for part in (spec.vsock, spec.restore_from, spec.rootfs_rate_limit, *spec.extra_drives, *spec.network_interfaces):
        assert isinstance(part, Frozen)
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, next(iter(type(part).model_fields)), None)
    assert hash(spec) == hash(parse_spec(WHOLE))


def test_a_spec_does_not_share_the_callers_lists() -> None:
    drives_of_the_caller = [dict(WHOLE["extra_drives"][0])]
    spec = parse_spec({"extra_drives": drives_of_the_caller})
    drives_of_the_caller[0]["drive_id"] = "other"
    drives_of_the_caller.clear()
    assert spec.extra_drives[0].drive_id == "data"


@given(specs)
def test_round_trip(spec: VmSpec) -> None:
    text = spec.to_json()
    assert VmSpec.from_json(text) == spec
    assert parse_spec(json.loads(text)) == spec
    assert parse_spec(spec.model_dump()) == spec
    assert set(json.loads(text)) <= set(VmSpec.model_fields)


def test_defaults_are_not_written() -> None:
    assert VmSpec().to_json() == "{}"
    assert json.loads(VmSpec(vcpu_count=2).to_json()) == {"vcpu_count": 2}


@pytest.mark.parametrize(
    ("field", "values"),
    {
        "vcpu_count": [1, U8],
        "mem_size_mib": [1, U32],
        "boot_args": ["", "a" * 2048],
        "kernel": ["vmlinux", "/a..b/..c", "/" + "a/" * 2047],
        "vsock": [{"cid": MIN_CID, "uds_path": "/v"}, {"cid": MAX_CID, "uds_path": "/v"}],
        "rootfs_rate_limit": [
            {"ops": {"size": U64, "refill_time_ms": U64, "one_time_burst": U64}},
            {"ops": {"size": 1, "refill_time_ms": 1, "one_time_burst": 0}},
        ],
        "network_interfaces": [[{"iface_id": f"e{n}", "host_dev_name": f"t{n}"} for n in range(MAX_DEVICES)]],
    }.items(),
)
def test_the_edges_are_allowed(field: str, values: list[Any]) -> None:
    for value in values:
        assert VmSpec.from_json(parse_spec({field: value}).to_json()) == parse_spec({field: value})


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "1", '"spec"', '{"vcpu_count": 1} x', "\xff", "[" * 100_000])
def test_text_that_is_no_spec(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        VmSpec.from_json(text, source="a file")
    assert str(caught.value).startswith("VmSpec (from a file) is ")
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(SpecError, match="VmSpec"):
        VmSpec.from_json(b"\xff\xfe")


def test_a_name_twice_in_json_is_the_last_one_as_everywhere_in_json() -> None:
    assert VmSpec.from_json('{"vcpu_count": 1, "vcpu_count": 2}') == VmSpec(vcpu_count=2)


@pytest.mark.parametrize("value", [None, 1, "text", [], object(), VmSpec])
def test_what_is_no_object(value: object) -> None:
    with pytest.raises(SpecError, match="an object of names and values"):
        parse_spec(value, source="a caller")


def test_a_model_passes_as_it_is() -> None:
    spec = VmSpec(vcpu_count=2)
    assert parse_spec(spec) is spec
    bucket = TokenBucket(size=1, refill_time_ms=1)
    assert parse(RateLimiter, {"ops": bucket}).ops == bucket


def test_errors_name_the_path_to_the_field() -> None:
    with pytest.raises(SpecError) as caught:
        parse_json(VmSpec, '{"restore_from": {"vm_id": "a", "snapshot_id": "b", "network_overrides": [{}, {}]}}')
    assert caught.value.field == "restore_from.network_overrides[0].iface_id"
    assert caught.value.allowed == "a value; it is required here"


@pytest.mark.parametrize("name", ["a(b)", "x[0]", "a.b", "function-after", "дрова"])
def test_unknown_names_with_odd_letters_are_named(name: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec({name: 1})
    assert caught.value.field == name
    assert "vcpu_count" in caught.value.allowed
