"""``fc-kernel snapshot``: what a person reads, what a script reads, and the exit status."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fc_kernel.api.inventory import SnapshotDetails
from fc_kernel.api.models import Snapshot as SnapshotModel
from fc_kernel.cli.snapshot import _size
from fc_kernel.host.engine import Engine
from fc_kernel.settings.config import FcKernelConfig
from fc_kernel.settings.tenant import Tenant
from fc_kernel.snapshots import Snapshot, SnapshotStore
from fc_kernel.supply.stores import snapshot_store

from ...encoded_host import behind_the_wall
from ...snapshots_made import OWNER, memory, page, save
from ..calling import Called, call


@pytest.fixture(params=["plain", "encoded"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SnapshotStore]:
    """What the commands work on, through the host as it is and through one to which only bytes get; no engine starts."""

    def started() -> Engine:
        raise AssertionError("the engine was started")

    monkeypatch.setattr(Engine, "shared", started)
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_PATH", "JUPYTER_DATA_DIR", "FC_KERNEL_DATA_DIR", "FC_KERNEL_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("LOGNAME", OWNER)
    with behind_the_wall() if request.param == "encoded" else contextlib.nullcontext():
        yield snapshot_store(Tenant.of_this_process(FcKernelConfig()))


@pytest.fixture
def saved(store: SnapshotStore) -> Snapshot:
    first = save(store, "first", description="before\nthe [red]loop[/red] \x1b[31m")
    return save(store, "second", on=first, pages={5: page(5)})


def snapshot(*words: str) -> Called:
    return call("snapshot", *words)


def told(*words: str) -> object:
    called = snapshot(*words, "--json")
    assert called.err == ""
    assert called.status == 0
    return json.loads(called.out)


def test_an_empty_store(store: SnapshotStore) -> None:
    called = snapshot("list")
    assert (called.status, called.err) == (0, "")
    assert "%snapshot" in called.out
    assert told("list") == []
    assert not store.root.exists()


def test_list(saved: Snapshot, store: SnapshotStore) -> None:
    save(store, "elsewhere", scope="b.ipynb")
    lines = snapshot("list").out.splitlines()
    assert lines[0].split() == ["NAME", "ID", "CREATED", "SIZE", "PARENT", "SCOPE", "DESCRIPTION"]
    assert lines[1].endswith("before the [red]loop[/red]")
    assert lines[2].split()[:2] == ["second", saved.id]
    assert "first" in lines[2]
    assert lines[-1].endswith("on the disk in all")
    entries = told("list", "--scope", "b.ipynb")
    assert isinstance(entries, list)
    assert [entry["name"] for entry in entries] == ["elsewhere"]
    assert entries[0]["own_bytes"] == store.disk_bytes(store.get("elsewhere"))
    assert "key" not in entries[0]["kernel"]


def test_list_tells_of_broken_ones(saved: Snapshot) -> None:
    (saved.directory / "manifest.json").unlink()
    called = snapshot("list")
    assert called.status == 0
    assert f"fc-kernel snapshot rm {saved.id}" in called.err
    entries = told("list")
    assert isinstance(entries, list)
    assert [entry["id"] for entry in entries if "error" in entry] == [saved.id]
    assert snapshot("rm", saved.id).out == f"removed {saved.id}\n"
    assert not saved.directory.exists()


def test_show_says_what_is_on_the_disk(saved: Snapshot, store: SnapshotStore) -> None:
    called = snapshot("show", "second")
    assert called.status == 0
    for text in (saved.id, "first > second", "1 vCPU, 4 MiB", "qemu 7.2.0", "pages.0", "by 2", str(saved.directory)):
        assert text in called.out
    said = told("show", saved.id[:8])
    assert isinstance(said, dict)
    assert said["own_bytes"] == store.disk_bytes(saved)
    files = {file["file"]: file for file in said["files"]}
    assert files["mem"]["size_bytes"] == 4 << 20
    assert files["mem"]["disk_bytes"] == saved.mem.stat().st_blocks * 512
    assert files["mem"]["links"] == 2
    assert said["in_use"] is False


def test_scripts_read_the_models_of_the_api(saved: Snapshot, tmp_path: Path) -> None:
    listed = told("list")
    assert isinstance(listed, list)
    assert [SnapshotDetails.model_validate(each).name for each in listed] == ["first", "second"]
    assert listed[1] == told("show", "second")
    assert SnapshotModel.model_validate(told("rename", "second", "third")).id == saved.id
    assert snapshot("export", "third", str(tmp_path / "x.tar")).status == 0
    assert SnapshotModel.model_validate(told("import", str(tmp_path / "x.tar"), "--name", "taken")).scope == saved.scope


def test_show_verifies(saved: Snapshot) -> None:
    saved.vmstate.chmod(0o600)
    saved.vmstate.write_bytes(b"x" * saved.vmstate.stat().st_size)
    called = snapshot("show", "second", "--json")
    assert called.status == 1
    assert json.loads(called.out)["error"]["type"] == "SnapshotCorrupt"
    assert "vmstate" in json.loads(called.out)["error"]["message"]


def test_rm_removes_all_or_nothing(saved: Snapshot, store: SnapshotStore) -> None:
    called = snapshot("rm", "first", "missing")
    assert called.status == 1
    assert "nothing was removed" in called.err
    with store.hold(saved):
        called = snapshot("rm", "first", "second")
        assert called.status == 1
        assert "in use" in called.err
        assert len(store.list()) == 2
        assert told("rm", "--force", "second", saved.id) == {"removed": [saved.id]}
    assert [each.name for each in store.list()] == ["first"]


def test_one_of_several_is_meant_by_its_id_or_scope(saved: Snapshot, store: SnapshotStore) -> None:
    other = save(store, "second", scope="b.ipynb")
    called = snapshot("rm", "second")
    assert called.status == 1
    assert saved.id in called.err
    assert other.id in called.err
    assert snapshot("rm", "second", "--scope", "b.ipynb").status == 0
    assert store.get("second") == saved


def test_rename(saved: Snapshot, store: SnapshotStore) -> None:
    assert snapshot("rename", "second", "third").out == "second is now third\n"
    assert store.get(saved.id).name == "third"
    renamed = told("rename", "third", "fourth")
    assert isinstance(renamed, dict)
    assert renamed["name"] == "fourth"
    assert "first" in snapshot("rename", "fourth", "first").err


def test_export_and_import(saved: Snapshot, store: SnapshotStore, tmp_path: Path) -> None:
    target = tmp_path / "out.tar.gz"
    called = snapshot("export", "second", str(target))
    assert called.status == 0
    assert str(target) in called.out
    assert snapshot("export", "second", str(target)).status == 1
    assert snapshot("export", "second", str(target), "--replace").status == 0
    called = snapshot("import", str(target))
    assert called.status == 1
    assert "there is a snapshot 'second' already; choose another name, or remove it first (see --name)" in called.err
    taken = told("import", str(target), "--name", "theirs", "--scope", "c.ipynb")
    assert isinstance(taken, dict)
    found = store.get("theirs", scope="c.ipynb")
    assert found.id == taken["id"]
    assert memory(found) == memory(saved)


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("rm",), 2, "one or more"),
        (("show",), 2, "one snapshot"),
        (("rename", "a"), 2, "new name"),
        (("export", "first"), 2, "path or URL"),
        (("show", "../x"), 1, "there are: first, second"),
        (("rename", "first", "../x"), 1, "allowed"),
        (("import", "/nowhere"), 1, "/nowhere"),
        (("export", "first", "/nowhere/x.tar"), 1, "No such file"),
        (("list", "--bogus"), 2, "--bogus"),
        (("bogus",), 2, "there is no command 'bogus'"),
    ],
)
def test_a_wrong_call_is_one_line(saved: Snapshot, words: tuple[str, ...], status: int, message: str) -> None:
    called = snapshot(*words)
    assert called.status == status
    assert message in called.err
    assert called.err.count("\n") == 1
    assert called.out == ""


@pytest.mark.parametrize("words", ["", "list", "show", "rm", "rename", "export", "import"])
def test_help(words: str) -> None:
    called = snapshot(*words.split(), "--help")
    assert (called.status, called.err) == (0, "")
    assert "Options" in called.out


def test_gc_removes_what_is_unfinished(saved: Snapshot, store: SnapshotStore) -> None:
    left = store.root / ".0123456789abcdef.partial"
    left.mkdir()
    assert json.loads(call("gc", "--json").out) == [{"snapshot": left.name}]
    left.mkdir()
    assert call("gc").out == f"snapshot {left.name}: removed\n1 removed\n"
    assert call("gc").out == "nothing to remove\n"
    assert len(store.list()) == 2


def test_sizes() -> None:
    assert [_size(size) for size in (0, 4096, 3 << 19, 200 << 20)] == ["0 KiB", "4 KiB", "1.5 MiB", "200 MiB"]
