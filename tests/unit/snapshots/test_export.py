"""Export and import: what comes out goes in again, and nothing else does."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import sys
import tarfile
from pathlib import Path

import pytest

from fc_kernel.errors import (
    QuotaExceeded,
    SnapshotCorrupt,
    SnapshotError,
    SnapshotExists,
    SnapshotIncompatible,
    SpecError,
)
from fc_kernel.snapshots import Snapshot, SnapshotStore, export_snapshot, import_snapshot
from fc_kernel.snapshots.store import StoreLimits

from ...snapshots_made import MIB, SCOPE, directories, memory, page, save, store_in


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return store_in(tmp_path)


@pytest.fixture
def other(tmp_path: Path) -> SnapshotStore:
    """Of another host."""
    return store_in(tmp_path / "other", owner="bob")


@pytest.fixture
def saved(store: SnapshotStore) -> Snapshot:
    """With two layers and a notebook."""
    first = save(store)
    second = save(store, on=first, pages={9: page(9)})
    return save(store, "x", on=second, pages={1: bytes(4096), 500: page(500)}, notebook=b'{"cells": []}')


def taken_in(store: SnapshotStore, source: object, **more: str) -> Snapshot:
    return import_snapshot(store, source, **{"scope": "b.ipynb", **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tgz"])
def test_there_and_back(saved: Snapshot, other: SnapshotStore, tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    written = export_snapshot(saved, target)
    # Holes cost nothing.
    assert written < MIB
    assert (target.stat().st_size == written) is (name == "x.tar")
    assert target.stat().st_mode & 0o077 == 0
    found = taken_in(other, target)
    other.check(found)
    assert memory(found) == memory(saved)
    assert (found.name, found.scope, found.owner) == ("x", "b.ipynb", "bob")
    assert found.id != saved.id
    assert found.parent == saved.parent
    assert found.manifest.parts == saved.manifest.parts
    assert found.mem.stat().st_blocks <= saved.mem.stat().st_blocks
    assert found.notebook is not None
    assert found.notebook.read_bytes() == b'{"cells": []}'
    assert sorted(path.name for path in tmp_path.glob("*x.t*")) == [name]
    # It is an ordinary tar.
    with tarfile.open(target) as tar:
        assert tar.getnames() == ["manifest.json", "mem", "vmstate", "pages.0", "pages.1", "notebook.ipynb"]


def test_through_open_files(saved: Snapshot, other: SnapshotStore) -> None:
    stream = io.BytesIO()
    export_snapshot(saved, stream)

    class Trickle:
        """As a network gives it."""

        def __init__(self) -> None:
            self._rest = io.BytesIO(stream.getvalue())

        def read(self, size: int) -> bytes:
            return self._rest.read(min(size, 777))

    assert memory(taken_in(other, Trickle())) == memory(saved)


def test_an_import_is_refused_a_name_that_is_taken(saved: Snapshot, store: SnapshotStore, tmp_path: Path) -> None:
    export_snapshot(saved, tmp_path / "x.tar")
    with pytest.raises(SnapshotExists, match=r"'x' already; choose another name, or remove it first$"):
        import_snapshot(store, tmp_path / "x.tar", scope=saved.scope)
    found = import_snapshot(store, tmp_path / "x.tar", scope=saved.scope, name="y")
    assert (found.name, store.get("x", scope=SCOPE).id) == ("y", saved.id)
    with pytest.raises(SpecError):
        import_snapshot(store, tmp_path / "x.tar", scope=saved.scope, name="../y")


def test_an_export_takes_nobodys_place(saved: Snapshot, tmp_path: Path) -> None:
    target = tmp_path / "x.tar"
    target.write_bytes(b"mine")
    with pytest.raises(SnapshotError, match="exists already"):
        export_snapshot(saved, target)
    assert target.read_bytes() == b"mine"
    export_snapshot(saved, target, replace=True)
    assert tarfile.is_tarfile(target)
    (tmp_path / "link.tar").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SnapshotError, match="exists already"):
        export_snapshot(saved, tmp_path / "link.tar")
    with pytest.raises(SnapshotError, match="No such file"):
        export_snapshot(saved, tmp_path / "missing/x.tar")


def test_a_failed_export_leaves_nothing(saved: Snapshot, tmp_path: Path) -> None:
    saved.vmstate.unlink()
    for target in (tmp_path / "x.tar", f"file://{tmp_path}/y.tar.gz"):
        with pytest.raises(SnapshotCorrupt, match="vmstate"):
            export_snapshot(saved, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "snapshots"]


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_urls(saved: Snapshot, other: SnapshotStore, tmp_path: Path, ending: str) -> None:
    for url in (f"memory://bucket/x{ending}", f"file://{tmp_path}/x{ending}"):
        export_snapshot(saved, url)
        with pytest.raises(SnapshotError, match="exists already"):
            export_snapshot(saved, url)
        found = taken_in(other, url, name=url[:4])
        assert memory(found) == memory(saved)
    import fsspec

    assert fsspec.filesystem("memory").ls("/bucket", detail=False) == [f"/bucket/x{ending}"]
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


@pytest.mark.parametrize("url", ["memory://bucket/none.tar", "nonsense://x", "s3://", "://"])
def test_a_url_that_is_no_good_is_one_error(other: SnapshotStore, url: str) -> None:
    with pytest.raises(SnapshotError):
        taken_in(other, url)
    assert directories(other) == []


def test_without_fsspec(saved: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(SnapshotError, match=r"pip install 'fc-kernel\[fsspec\]'"):
        export_snapshot(saved, "memory://x.tar")
    export_snapshot(saved, tmp_path / "x.tar")


def test_only_regular_files_are_read(other: SnapshotStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, tmp_path / "missing", "/dev/zero"):
        with pytest.raises(SnapshotError):
            taken_in(other, path)


def test_there_must_be_room(saved: Snapshot, tmp_path: Path) -> None:
    export_snapshot(saved, tmp_path / "x.tar")
    small = store_in(tmp_path / "other", limits=StoreLimits(max_bytes=8192))
    with pytest.raises(QuotaExceeded):
        taken_in(small, tmp_path / "x.tar")
    assert directories(small) == []


def exported(saved: Snapshot) -> bytes:
    stream = io.BytesIO()
    export_snapshot(saved, stream)
    return stream.getvalue()


def test_damaged_archives(saved: Snapshot, other: SnapshotStore) -> None:
    """Cut off, or with one bit flipped, anywhere: refused, and nothing is left."""
    whole = exported(saved)
    dice = random.Random(5)
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        members = [info.offset for info in tar]
    offsets = [dice.randrange(len(whole) - 1024) for _ in range(120)] + [
        at + byte for at in members for byte in (0, 124, 156)
    ]
    refused = 0
    for number, offset in enumerate(offsets):
        damaged = bytearray(whole)
        if number % 3 == 0:
            del damaged[offset:]
        else:
            damaged[offset] ^= 1 << dice.randrange(8)
        try:
            found = taken_in(other, io.BytesIO(bytes(damaged)))
        except (SnapshotCorrupt, SnapshotIncompatible):
            refused += 1
        else:
            # In the padding between members, or of a header: not in anything that is kept.
            assert memory(found) == memory(saved)
            other.check(found)
            other.delete(found)
        assert directories(other) == []
    assert refused > 100


def test_damaged_compression(saved: Snapshot, other: SnapshotStore) -> None:
    packed = gzip.compress(exported(saved), 1)
    for damaged in (packed[:-9], packed[:1000], packed[:500] + b"\0\0\0" + packed[503:], b"\x1f\x8b", b"\x1f\x8bxx"):
        with pytest.raises(SnapshotCorrupt):
            taken_in(other, io.BytesIO(damaged))
    assert directories(other) == []


def member(name: str, data: bytes, **more: object) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in more.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


@pytest.mark.parametrize(
    "member_bytes",
    [
        b"",
        b"\0" * 1024,
        b"not a tar" * 100,
        member("../manifest.json", b"{}"),
        member("/etc/manifest.json", b"{}"),
        member("manifest.json", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("manifest.json", b"", type=tarfile.LNKTYPE, linkname="../x"),
        member("manifest.json", b"", type=tarfile.DIRTYPE),
        member("manifest.json", b"", type=tarfile.FIFOTYPE),
        member("manifest.json", b"{}" * 600_000),
        member("manifest.json", b"[" * 100_000),
        member("manifest.json", b"{}"),
        member("././@LongLink", b"x" * 5000, type=tarfile.GNUTYPE_LONGNAME),
        member("pax", b"13 size=9999\n", type=tarfile.XHDTYPE),
        member("x" * 90, b""),
    ],
)
def test_hostile_archives(other: SnapshotStore, tmp_path: Path, member_bytes: bytes) -> None:
    with pytest.raises(SnapshotCorrupt):
        taken_in(other, io.BytesIO(member_bytes))
    assert directories(other) == []
    assert [path.name for path in tmp_path.iterdir()] in ([], ["other"])


def resealed(manifest: dict[str, object]) -> bytes:
    """A manifest that somebody wrote by hand, with a right checksum."""
    manifest = {**manifest, "checksum": ""}
    text = json.dumps(manifest, indent=1, ensure_ascii=False).encode() + b"\n"
    manifest["checksum"] = hashlib.sha256(text).hexdigest()
    return json.dumps(manifest, indent=1, ensure_ascii=False).encode() + b"\n"


def test_a_manifest_that_lies(saved: Snapshot, other: SnapshotStore) -> None:
    said = json.loads((saved.directory / "manifest.json").read_bytes())
    rest = exported(saved)
    with tarfile.open(fileobj=io.BytesIO(rest)) as tar:
        rest = rest[tar.getmember("mem").offset :]
    assert memory(taken_in(other, io.BytesIO(member("manifest.json", resealed(said)) + rest), name="true")) == memory(
        saved
    )

    def with_parts(change: dict[str, dict[str, object]]) -> list[dict[str, object]]:
        return [{**part, **change.get(part["file"], {})} for part in said["parts"]]

    drive = {"drive_id": "d", "path_on_host": "/etc/passwd", "is_read_only": True, "rate_limiter": None}
    lies: list[dict[str, object]] = [
        {"parts": with_parts({"mem": {"sha256": "0" * 64}})},
        {"parts": with_parts({"vmstate": {"size_bytes": 1}})},
        {"parts": with_parts({"vmstate": {"file": "../vmstate"}})},
        {"parts": with_parts({"vmstate": {"file": "mem"}})},
        {"parts": with_parts({"pages.1": {"file": "pages.7"}})},
        {"parts": with_parts({"mem": {"size_bytes": 1 << 50}})},
        {"parts": []},
        {"format": 3},
        {"kind": "template"},
        {"name": "../../x"},
        {"spec": {**said["spec"], "mem_size_mib": 1 << 31}},
        {"spec": {**said["spec"], "extra_drives": [drive]}},
        {"unknown": 1},
    ]
    for lie in lies:
        with pytest.raises(SnapshotError):
            taken_in(other, io.BytesIO(member("manifest.json", resealed({**said, **lie})) + rest))
    assert [snapshot.name for snapshot in other.list()] == ["true"]
    assert len(directories(other)) == 1
