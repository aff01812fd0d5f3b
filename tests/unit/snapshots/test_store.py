"""The snapshot store: names, order, layers, holds, and what is left of what failed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from fc_kernel.errors import (
    QuotaExceeded,
    SnapshotError,
    SnapshotExists,
    SnapshotInUse,
    SnapshotNotFound,
    SpecError,
    StateError,
)
from fc_kernel.settings.spec import VmSpec
from fc_kernel.snapshots.manifest import MAX_LAYERS
from fc_kernel.snapshots.snapshot import Base
from fc_kernel.snapshots.store import SnapshotStore, StoreLimits

from ...snapshots_made import (
    MEM_MIB,
    MIB,
    OWNER,
    SCOPE,
    directories,
    fields,
    holes_filled,
    memory,
    page,
    save,
    store_in,
    write_sparse,
)


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return store_in(tmp_path)


def test_an_empty_store_is_not_made_by_looking(store: SnapshotStore) -> None:
    assert store.list() == []
    assert store.broken() == {}
    assert store.sweep() == []
    assert store.disk_bytes() == 0
    with pytest.raises(SnapshotNotFound, match="no snapshot 'x'; there are no snapshots here"):
        store.get("x")
    assert not store.root.exists()


def test_what_is_saved_is_found_as_it_was(store: SnapshotStore) -> None:
    saved = save(store, "first", notebook=b"{}", description="why")
    (found,) = store.list()
    assert found == saved
    assert (found.name, found.scope, found.owner, found.description) == ("first", SCOPE, OWNER, "why")
    assert found.spec == VmSpec(vcpu_count=1, mem_size_mib=MEM_MIB)
    assert found.vmstate.read_bytes() == b"vmstate of " + found.id.encode()
    assert found.notebook is not None
    assert found.notebook.read_bytes() == b"{}"
    assert memory(found) == holes_filled({1: page(1), 300: page(300)})
    store.check(found)
    assert sorted(path.name for path in found.directory.iterdir()) == [
        "lock",
        "manifest.json",
        "mem",
        "notebook.ipynb",
        "vmstate",
    ]


def test_everything_is_private(store: SnapshotStore) -> None:
    saved = save(store)
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700
    assert stat.S_IMODE(saved.directory.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in saved.directory.iterdir()}
    assert modes == {"mem": 0o600, "vmstate": 0o400, "manifest.json": 0o400, "lock": 0o600}


def test_a_root_that_others_may_enter_is_not_used(store: SnapshotStore) -> None:
    save(store)
    store.root.chmod(0o755)
    with pytest.raises(SnapshotError, match="mode 0700"):
        store.list()
    with pytest.raises(SnapshotError, match="mode 0700"):
        store.begin(name=None, scope=SCOPE, expected_bytes=0)


def test_unnamed_ones_are_counted(store: SnapshotStore) -> None:
    assert [save(store).name for _ in range(2)] == ["s1", "s2"]
    store.delete(store.get("s1"))
    save(store, "s9")
    assert save(store).name == "s10"
    assert save(store, scope="b.ipynb").name == "s1"
    assert [each.name for each in store.list(scope=SCOPE)] == ["s2", "s9", "s10"]


def test_a_name_is_taken_once_in_a_scope(store: SnapshotStore) -> None:
    save(store, "x")
    with pytest.raises(SnapshotExists, match="'x' already"):
        save(store, "x")
    assert save(store, "x", scope="b.ipynb").name == "x"
    with store.begin(name="y", scope=SCOPE, expected_bytes=0):
        with pytest.raises(SnapshotExists):
            store.begin(name="y", scope=SCOPE, expected_bytes=0)
        bobs = store_in(store.root.parent, owner="bob")
        with bobs.begin(name="y", scope=SCOPE, expected_bytes=0) as other:
            assert other.name == "y"
    assert save(store, "y").name == "y"
    assert len(directories(store)) == 3


def test_a_snapshot_is_meant_by_name_id_or_the_beginning_of_an_id(store: SnapshotStore) -> None:
    one, other = save(store, "x"), save(store, "x", scope="b.ipynb")
    assert store.get("x", scope=SCOPE) == one
    assert store.get(other.id) == other
    assert store.get(other.id[:8]) == other
    with pytest.raises(SnapshotNotFound, match="could be any of") as caught:
        store.get("x")
    assert one.id in str(caught.value)
    assert other.id in str(caught.value)
    with pytest.raises(SnapshotNotFound, match="there are: x"):
        store.get("y", scope=SCOPE)
    for ref in ("", other.id[:5], "../x", "*", "\0"):
        with pytest.raises(SnapshotNotFound):
            store.get(ref)


def test_rename_and_describe(store: SnapshotStore) -> None:
    saved = save(store, "x")
    save(store, "y")
    renamed = store.rename(saved, "z")
    described = store.describe(renamed, "text\nwith a line")
    assert store.get(saved.id) == described
    assert (described.name, described.description) == ("z", "text\nwith a line")
    assert described.manifest.parts == saved.manifest.parts
    store.check(saved)
    with pytest.raises(SnapshotExists):
        store.rename(described, "y")
    assert store.rename(described, "z").name == "z"
    with pytest.raises(SpecError):
        store.rename(described, "../z")
    with pytest.raises(SnapshotError, match="description"):
        store.describe(described, "x" * 100_000)
    with store.begin(name="w", scope=SCOPE, expected_bytes=0), pytest.raises(SnapshotExists):
        store.rename(described, "w")


def test_layers_are_shared_and_each_snapshot_is_whole(store: SnapshotStore) -> None:
    first = save(store, pages={1: page(1), 2: page(2)})
    zero = bytes(4096)
    second = save(store, on=first, pages={2: page(2), 3: page(3), 1: zero})
    third = save(store, on=second, pages={3: page(3, "b"), 500: page(500)})
    assert [path.name for path in third.layers] == ["pages.0", "pages.1"]
    assert memory(second) == holes_filled({2: page(2), 3: page(3)})
    assert memory(third) == holes_filled({2: page(2), 3: page(3, "b"), 500: page(500)})
    assert third.mem.stat().st_ino == first.mem.stat().st_ino
    assert third.layers[0].stat().st_ino == second.layers[0].stat().st_ino
    assert [each.name for each in store.lineage(third)] == ["s1", "s2", "s3"]
    # Page 2 is as it was: it is not kept twice.
    assert second.layers[0].stat().st_size < 4 * 4096
    assert store.disk_bytes() < 25 * 4096 + 3 * 8192
    store.delete(first)
    store.delete(second)
    store.check(third)
    assert memory(third) == holes_filled({2: page(2), 3: page(3, "b"), 500: page(500)})
    assert [each.name for each in store.lineage(third)] == ["s3"]


def test_nothing_changed_is_no_layer(store: SnapshotStore) -> None:
    first = save(store)
    second = save(store, on=first, pages={})
    assert second.layers == ()
    assert memory(second) == memory(first)


def test_many_layers_become_one(store: SnapshotStore) -> None:
    snapshot = save(store, pages={1: page(1)})
    pages = {1: page(1)}
    for number in range(MAX_LAYERS + 2):
        change = {number + 10: page(number), 5: page(number, "five"), 1: bytes(4096) if number == 4 else page(1)}
        pages.update(change)
        snapshot = save(store, on=snapshot, pages=change)
        assert memory(snapshot) == holes_filled(pages)
    assert [path.name for path in snapshot.layers] == ["pages.0", "pages.1"]
    store.check(snapshot)


def test_a_link_that_cannot_be_is_a_copy(store: SnapshotStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first = save(store)

    def no_link(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    second = save(store, on=first, pages={7: page(7)})
    assert second.mem.stat().st_ino != first.mem.stat().st_ino
    assert second.mem.stat().st_blocks <= first.mem.stat().st_blocks
    assert memory(second) == holes_filled({1: page(1), 300: page(300), 7: page(7)})
    store.check(second)


def test_a_diff_on_a_memory_of_another_size(store: SnapshotStore) -> None:
    first = save(store)
    with pytest.raises(SnapshotError, match="cannot be a diff on snapshot"):
        save(store, on=first, pages={}, spec=VmSpec(mem_size_mib=8))
    with pytest.raises(SnapshotError, match="mem is not as large"):
        save(store, spec=VmSpec(mem_size_mib=8))
    assert directories(store) == [first.id]


def test_what_is_held_is_not_removed(store: SnapshotStore, tmp_path: Path) -> None:
    saved = save(store, "x")
    other_server = store_in(tmp_path)
    assert not store.in_use(saved)
    with store.hold(saved) as hold, other_server.hold(saved):
        assert other_server.in_use(saved)
        with pytest.raises(SnapshotInUse, match=f"'x' is in use by process {os.getpid()}"):
            other_server.delete(saved)
        hold.close()
        with pytest.raises(SnapshotInUse):
            store.delete(saved)
    assert not store.in_use(saved)
    store.delete(saved)
    for call in (store.delete, store.hold, store.in_use, store.check):
        with pytest.raises(SnapshotNotFound):
            call(saved)
    assert directories(store) == []


def test_by_force_it_goes_and_who_has_it_open_keeps_it(store: SnapshotStore) -> None:
    saved = save(store)
    before = memory(saved)
    with store.hold(saved), saved.mem.open("rb") as file:
        store.delete(saved, force=True)
        assert store.list() == []
        assert file.read() == before


def test_a_published_draft_can_be_held_without_a_gap(store: SnapshotStore) -> None:
    with store.begin(name="x", scope=SCOPE, expected_bytes=MIB) as draft:
        with pytest.raises(StateError):
            draft.keep()
        write_sparse(draft.files.mem, {})
        draft.files.vmstate.write_bytes(b"v")
        saved = draft.publish(fields(), base=Base.full())
        with pytest.raises(StateError):
            draft.publish(fields(), base=Base.full())
        hold = draft.keep()
    with pytest.raises(SnapshotInUse):
        store.delete(saved)
    hold.close()
    store.delete(saved)


@pytest.mark.parametrize("missing", ["mem", "vmstate"])
def test_a_driver_that_wrote_nothing(store: SnapshotStore, missing: str) -> None:
    with store.begin(name="x", scope=SCOPE, expected_bytes=MIB) as draft:
        if missing == "vmstate":
            write_sparse(draft.files.mem, {})
        with pytest.raises(SnapshotError):
            draft.publish(fields(), base=Base.full())
    assert directories(store) == []


def test_a_discarded_draft_leaves_nothing(store: SnapshotStore) -> None:
    with store.begin(name="x", scope=SCOPE, expected_bytes=MIB) as draft:
        write_sparse(draft.files.mem, {})
        draft.discard()
        draft.discard()
        assert directories(store) == []
        with pytest.raises(StateError):
            draft.publish(fields(), base=Base.full())


def steps_of(tmp_path: Path, layers: int) -> list[str]:
    """Of saving a snapshot over so many layers."""
    base = None
    for number in range(layers + 1 if layers else 0):
        base = save(store_in(tmp_path), on=base, pages={number: page(number)})
    steps: list[str] = []
    save(store_in(tmp_path, step=steps.append), on=base, pages={9: page(9)})
    return steps


def test_the_order_of_publication(tmp_path: Path) -> None:
    begin, end = ["make", "lock", "reserve", "base"], ["manifest", "unreserve", "rename", "fsync", "published"]
    mem, vmstate = ["hash mem", "fsync mem"], ["hash vmstate", "fsync vmstate"]
    assert steps_of(tmp_path / "whole", 0) == [*begin, *mem, *vmstate, *end]
    linked = ["hash mem", *vmstate, "hash pages.0", "hash pages.1", "fsync pages.1"]
    assert steps_of(tmp_path / "layered", 1) == [*begin, "link", "link", "layer", *linked, *end]
    made_one = [*mem[:1], *vmstate, "hash pages.0", "fsync pages.0"]
    assert steps_of(tmp_path / "many", MAX_LAYERS) == [*begin, "link", "layer", "rebase", *made_one, *end]


def test_whatever_is_raised_at_any_step(store: SnapshotStore, tmp_path: Path) -> None:
    base = save(store, pages={1: page(1)})
    base = save(store, on=base, pages={2: page(2)})
    before = directories(store)

    class Interrupted(BaseException):
        """As a cancellation is."""

    def interrupt_at(at: int) -> SnapshotStore:
        count = iter(range(1, 1000))

        def step(_name: str) -> None:
            if next(count) == at:
                raise Interrupted

        return store_in(tmp_path, step=step)

    last = len(steps_of(tmp_path / "counted", 1))
    for at in range(1, last + 1):
        with pytest.raises(Interrupted):
            save(interrupt_at(at), "x", on=base, pages={3: page(3)})
        if at < last:
            assert directories(store) == before, at
    # When all is done it is done.
    store.check(store.get("x"))


def test_the_quota_is_looked_at_before(tmp_path: Path) -> None:
    few = store_in(tmp_path, limits=StoreLimits(max_snapshots=2))
    save(few)
    with few.begin(name=None, scope=SCOPE, expected_bytes=0), pytest.raises(QuotaExceeded, match="2 are"):
        few.begin(name=None, scope=SCOPE, expected_bytes=0)
    small = store_in(tmp_path, limits=StoreLimits(max_bytes=3 * MIB))
    begun = small.begin(name=None, scope=SCOPE, expected_bytes=2 * MIB)
    with begun, pytest.raises(QuotaExceeded, match="3 MiB are allowed"):
        small.begin(name=None, scope=SCOPE, expected_bytes=MIB)
    no_room = store_in(tmp_path, limits=StoreLimits(min_free_bytes=1 << 60))
    with pytest.raises(QuotaExceeded, match="stay free"):
        no_room.begin(name=None, scope=SCOPE, expected_bytes=MIB)
    assert len(directories(few)) == 1


def test_a_limit_on_files_is_found_before_a_monitor_dies_of_it(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (64 * MIB, 64 * MIB))
    with pytest.raises(QuotaExceeded, match="ulimit -f"):
        store.begin(name=None, scope=SCOPE, expected_bytes=60 * MIB)
    with store.begin(name=None, scope=SCOPE, expected_bytes=8 * MIB):
        pass


def test_a_broken_one_is_told_and_can_be_removed(store: SnapshotStore) -> None:
    saved = save(store)
    (saved.directory / "manifest.json").unlink()
    assert store.list() == []
    ((broken, why),) = store.broken().items()
    assert broken == saved.id
    assert "manifest.json: it is missing" in str(why)
    with pytest.raises(SnapshotError, match="missing"):
        store.get(saved.id)
    store.delete(saved.id)
    assert directories(store) == []
    for wrong in ("../x", "", "lock"):
        with pytest.raises(SnapshotNotFound):
            store.delete(wrong)
