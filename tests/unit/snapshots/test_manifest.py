"""Manifests and names: whatever is in the file, it is a manifest of ours or one error, and nothing is opened for it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fc_kernel.errors import SnapshotCorrupt, SnapshotError, SnapshotIncompatible, SpecError
from fc_kernel.settings.spec import DriveSpec, VmSpec
from fc_kernel.snapshots import Cpu, KernelState, Manifest
from fc_kernel.snapshots.manifest import MAX_LAYERS, Part, seal
from fc_kernel.snapshots.naming import check_name, check_scope, is_name, new_id, next_name

from ...snapshots_made import MEM_MIB, MIB, OWNER, SCOPE, directories, fields, save, store_in

REFUSED = (SnapshotCorrupt, SnapshotIncompatible)


def parts(layers: int = 0) -> tuple[Part, ...]:
    names = ["mem", "vmstate", *(f"pages.{number}" for number in range(layers))]
    return tuple(Part(file=name, sha256="0" * 64, size_bytes=MEM_MIB * MIB if name == "mem" else 10) for name in names)


def manifest(**more: Any) -> Manifest:
    own = {
        "id": "0123456789abcdef",
        "kind": "snapshot",
        "name": "x",
        "scope": SCOPE,
        "owner": OWNER,
        "created": "2026-11-24T12:00:00.000000Z",
        "parts": parts(),
    }
    said = {name: value for name, value in more.items() if name not in own}
    return seal(fields(**said), **{**own, **{name: value for name, value in more.items() if name in own}})


SOUND = manifest(parts=parts(3), description="what").to_bytes()


def test_a_manifest_comes_back_as_it_was() -> None:
    drive = DriveSpec(drive_id="d", path_on_host=Path("/x"), is_read_only=True)
    whole = manifest(
        parts=parts(MAX_LAYERS),
        parent="f" * 16,
        notebook="dir/ä.ipynb",
        description="two\nlines",
        kernel=KernelState(),
        image=None,
        spec=VmSpec(mem_size_mib=MEM_MIB, extra_drives=(drive,)),
    )
    assert Manifest.from_bytes(whole.to_bytes()) == whole
    assert whole.layers == [f"pages.{number}" for number in range(MAX_LAYERS)]


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(REFUSED):
        Manifest.from_bytes(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_any_json(value: object) -> None:
    for said in (value, {"format": 1, "anything": value}, {"format": 2, "anything": value}, [value]):
        with pytest.raises(REFUSED):
            Manifest.from_bytes(json.dumps(said).encode())


@given(st.sampled_from(sorted(json.loads(SOUND))), JSON)
def test_any_value_in_a_sound_one(field: str, value: object) -> None:
    said = json.loads(SOUND)
    if json.dumps(said[field]) == json.dumps(value):
        return
    with pytest.raises(REFUSED):
        Manifest.from_bytes(json.dumps({**said, field: value}, indent=1).encode() + b"\n")


@given(st.integers(0, len(SOUND) - 1), st.integers(0, 7))
def test_any_bit(at: int, bit: int) -> None:
    damaged = bytearray(SOUND)
    damaged[at] ^= 1 << bit
    with pytest.raises(REFUSED):
        Manifest.from_bytes(bytes(damaged))


@given(st.sampled_from(sorted(json.loads(SOUND))), JSON)
def test_any_value_that_somebody_sealed(field: str, value: object) -> None:
    """A right checksum proves nothing: what it says is checked as well."""
    said = {**json.loads(SOUND), field: value, "checksum": ""}
    try:
        forged = Manifest.model_validate_json(json.dumps(said)).sealed()
    except (ValidationError, ValueError):
        return
    read = Manifest.from_bytes(forged.to_bytes())
    assert is_name(read.name)
    assert read.part("mem").size_bytes == read.mem_size_bytes
    assert {part.file for part in read.parts} <= {"mem", "vmstate", "notebook.ipynb", *read.layers}
    assert not any("/" in part.file or ".." in part.file for part in read.parts)


@pytest.mark.parametrize("version", [0, 3, "1", "2", None, 1.5, [1], [2], {}])
def test_another_format_is_named(version: object) -> None:
    said = {**json.loads(SOUND), "format": version, "what is new": 1}
    with pytest.raises(SnapshotIncompatible, match="format"):
        Manifest.from_bytes(json.dumps(said).encode())


OLD = (Path(__file__).parent / "format_1_manifest.json").read_bytes()


def sealed_as_format_1(said: dict[str, Any]) -> bytes:
    """As earlier versions wrote it, with a right checksum."""

    def text(checksum: str) -> bytes:
        return json.dumps({**said, "checksum": checksum}, indent=1, ensure_ascii=False).encode() + b"\n"

    return text(hashlib.sha256(text("")).hexdigest())


def test_what_earlier_versions_wrote_is_read() -> None:
    read = Manifest.from_bytes(OLD)
    said, now = json.loads(OLD), json.loads(read.to_bytes())
    retired = {"snapshot_format": "", "host_kernel": "", "initrd_sha256": "", "timings": {}}
    assert {**retired, **now, "format": 1, "checksum": said["checksum"]} == said
    assert now["format"] == 2
    # From now on it is one of today's.
    assert Manifest.from_bytes(read.to_bytes()) == read
    assert sealed_as_format_1(said) == OLD


@given(st.integers(0, len(OLD) - 1), st.integers(0, 7))
def test_any_bit_of_an_earlier_one(at: int, bit: int) -> None:
    damaged = bytearray(OLD)
    damaged[at] ^= 1 << bit
    with pytest.raises(REFUSED):
        Manifest.from_bytes(bytes(damaged))


@given(st.sampled_from(sorted(set(json.loads(OLD)) - {"timings", "format", "checksum"})), JSON)
def test_any_value_in_an_earlier_one_that_somebody_sealed(field: str, value: object) -> None:
    try:
        data = sealed_as_format_1({**json.loads(OLD), field: value})
        read = Manifest.from_bytes(data)
    except (*REFUSED, UnicodeEncodeError):
        return
    assert Manifest.from_bytes(read.to_bytes()) == read
    assert is_name(read.name)
    assert not any("/" in part.file or ".." in part.file for part in read.parts)


def test_an_earlier_one_has_one_form_only() -> None:
    twice = OLD.replace(b' "name": "x",\n', b' "name": "x",\n "name": "x",\n')
    body = twice[: twice.index(b'"checksum"')] + b'"checksum": "%s"\n}\n'
    forged = body % hashlib.sha256(body % b"").hexdigest().encode()
    with pytest.raises(SnapshotCorrupt, match="not in the form in which manifests are written"):
        Manifest.from_bytes(forged)


@pytest.mark.parametrize(
    "wrong",
    [
        {"parts": parts(2)[1:]},
        {"parts": (*parts(), *parts())},
        {"parts": tuple(part for part in parts(3) if part.file != "pages.1")},
        {"parts": parts()[:1]},
        {"parts": ()},
        {"name": ".."},
        {"name": "0123456789abcdef"},
        {"scope": ""},
        {"scope": "a\x1b[31m"},
        {"owner": "x\n"},
        {"kind": "other"},
        {"id": "../x"},
        {"created": "yesterday"},
    ],
)
def test_what_no_manifest_says(wrong: dict[str, Any]) -> None:
    with pytest.raises(SnapshotError, match="cannot be described"):
        manifest(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"spec": VmSpec(vcpu_count=1)},
        {"monitor": "x" * 300},
        {"generation": float("nan")},
        {"generation": -1.0},
        {"generation": -1},
        {"generation": True},
        {"kernel_id": "\0"},
        {"parent": "s1"},
        {"cpu": {"model": "x", "flags_sha256": "xyz"}},
        {"description": "x" * 1001},
        {"more": 1},
    ],
)
def test_what_no_draft_says(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        fields(**wrong)


def test_a_processor_is_the_same_in_any_order() -> None:
    assert Cpu.of("A\tB", ["b", "a", "a"]) == Cpu.of("AB", ["a", "b"])
    assert Cpu.of("A", ["a"]) != Cpu.of("A", ["b"])


def hostile_names() -> list[str]:
    """Five hundred of them."""
    seeds = [
        "", ".", "..", "../x", "x/..", "/etc/passwd", "a/b", "a\\b", "a\0b", "\0", "%2e%2e", "%2e%2e%2fx", "..%2f", "~",
        "~root", "-rf", "--help", ".hidden", "_x", "a b", " a", "a ", "a\n", "\na", "a\tb", "a\r", "a;b", "a|b", "$(id)",
        "`id`", "a'b", 'a"b', "a*b", "a?b", "[a]", "{a,b}", "a:b", "a&b", "a<b", "a>b", "#a", "a=b", "a,b", "a@b", "a+b",
        "a!b", "x" * 65, "x" * 300, "x" * 100_000, "\xe4", "\u202eabc", "\u200bx", "\u0430", "\uff58", "x\u0301", "\ud800",
        "\ufeffx", "\U0001f600", "a..b", "...", "a...", "lock\0", "0123456789abcdef", "s1/", "./s1", "manifest.json/..",
        "file:///x", "\x1b[31m", "\x7f", "a\u2028b", "a\x85b", "a\x0bb", "e\u0301",
    ]  # fmt: skip
    names = list(seeds)
    for wrap in ("../{}", "{}/..", "/{}", "{}\0", "{}\n", " {}", "{}/x"):
        names += [wrap.format(seed) for seed in seeds]
    return names[:520]


def test_hostile_names_make_nothing(tmp_path: Path) -> None:
    store = store_in(tmp_path / "here")
    saved = save(store, "x")
    names = hostile_names()
    assert len(names) >= 500
    for name in names:
        with pytest.raises(SpecError):
            check_name(name)
        with pytest.raises(SpecError):
            store.begin(name=name, scope=SCOPE, expected_bytes=0)
        with pytest.raises(SpecError):
            store.rename(saved, name)
        with pytest.raises(SnapshotError):
            store.get(name)
    assert directories(store) == [saved.id]
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


@pytest.mark.parametrize(
    "name", ["a", "A", "0", "s1", "a.b", "a-b_c", "x" * 64, "CON", "con", "lock", "manifest.json", "a."]
)
def test_good_names_are_apart_by_case(tmp_path: Path, name: str) -> None:
    assert check_name(name) == name
    store = store_in(tmp_path)
    assert save(store, name).name == name
    assert store.get(name).name == name


@pytest.mark.parametrize("name", [None, 1, b"x", ["x"]])
def test_a_name_is_text(name: object) -> None:
    with pytest.raises(SpecError):
        check_name(name)


@pytest.mark.parametrize("scope", ["", "a\nb", "a\0", "x" * 5000, None, 1])
def test_scopes(scope: object) -> None:
    with pytest.raises(SpecError):
        check_scope(scope)
    assert check_scope("kernel:ä/../x y.ipynb") == "kernel:ä/../x y.ipynb"


def test_the_next_name() -> None:
    assert next_name([]) == "s1"
    assert next_name(["s2", "s10", "s010", "sx", "s0", "other", "s99999999999"]) == "s11"
    assert len({new_id() for _ in range(100)}) == 100
