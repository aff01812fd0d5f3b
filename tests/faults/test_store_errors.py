"""A full disk or an I/O error at every call of the store: nothing half-made is seen, and the next try works."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fc_kernel.errors import QuotaExceeded, SnapshotError
from fc_kernel.snapshots import Snapshot, SnapshotStore, export_snapshot, import_snapshot
from fc_kernel.snapshots.manifest import MAX_LAYERS

from ..snapshots_made import SCOPE, directories, memory, page, save, store_in
from .failing_os import CHANGES, NEEDS_ROOM, FailingOs, install

#: More calls than any of the changes makes.
MOST_CALLS = 400


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return store_in(tmp_path)


def raising(number: int) -> Callable[[str], None]:
    def fault(_name: str) -> None:
        raise OSError(number, os.strerror(number))

    return fault


def failures(change: Callable[[], object], number: int, *, lasting: bool) -> Iterator[tuple[str, Exception | None]]:
    """Do the change again and again, each time failing one call later, until it is through without."""
    calls = NEEDS_ROOM if number == errno.ENOSPC else CHANGES
    for at in range(1, MOST_CALLS):
        failing = FailingOs(at, raising(number), calls=calls, lasting=lasting)
        raised = None
        with pytest.MonkeyPatch.context() as patch:
            install(patch, failing)
            try:
                change()
            except SnapshotError as error:
                raised = error
        if failing.count < at:
            assert raised is None
            return
        yield failing.failed, raised
    pytest.fail("it never ends")


def nothing_is_left(store: SnapshotStore, before: list[str]) -> None:
    """Nothing is seen but what was there, and what could not be removed is swept."""
    if "x" in [each.name for each in store.list()]:
        # Published, and then neither the directory's fsync nor the way back was possible: then all of it is there.
        store.check(store.get("x"))
        store.delete(store.get("x"))
    assert [entry for entry in directories(store) if not entry.startswith(".")] == before
    store.sweep()
    assert directories(store) == before


FAULTS = [(errno.ENOSPC, False), (errno.ENOSPC, True), (errno.EIO, False), (errno.EROFS, True)]


@pytest.mark.parametrize(
    ("number", "lasting", "layers"),
    [*((*fault, layers) for fault in FAULTS for layers in (0, 2)), (errno.ENOSPC, True, MAX_LAYERS)],
)
def test_saving(store: SnapshotStore, number: int, lasting: bool, layers: int) -> None:
    base: Snapshot | None = None
    for layer in range(layers):
        base = save(store, f"base{layer}", on=base, pages={layer: page(layer)})
    pages = {3: page(3, "changed"), 77: page(77)}
    before = directories(store)
    tried = refused = 0

    def change() -> None:
        save(store, "x", on=base, pages=pages, notebook=b"{}")

    for failed, error in failures(change, number, lasting=lasting):
        tried += 1
        if error is not None:
            refused += 1
            if number == errno.ENOSPC:
                assert isinstance(error, QuotaExceeded), failed
            assert number == errno.EROFS or "x" not in [each.name for each in store.list()]
            nothing_is_left(store, before)
        else:
            # It could do without that call, or it was one of removing what was there before.
            store.check(store.get("x"))
            store.delete(store.get("x"))
        if base is not None:
            store.check(base)
    assert tried >= 10
    assert refused > tried / 2
    saved = store.get("x")
    store.check(saved)
    whole = memory(saved)
    assert whole[3 * 4096 : 4 * 4096] == pages[3]
    assert len(store.list()) == layers + 1


@pytest.mark.parametrize(("number", "lasting"), FAULTS)
def test_deleting(store: SnapshotStore, number: int, lasting: bool) -> None:
    base = save(store, "base")
    save(store, "x", on=base, pages={9: page(9)})

    def change() -> None:
        store.delete(store.get("x"))

    for _failed, _error in failures(change, number, lasting=lasting):
        store.sweep()
        left = [each.name for each in store.list()]
        assert left in (["base"], ["base", "x"])
        for each in store.list():
            store.check(each)
        if left == ["base"]:
            save(store, "x", on=base, pages={9: page(9)})
    assert [each.name for each in store.list()] == ["base"]
    assert store.sweep() == []
    assert directories(store) == [base.id]


@pytest.mark.parametrize(("number", "lasting"), FAULTS)
def test_renaming(store: SnapshotStore, number: int, lasting: bool) -> None:
    saved = save(store, "a")
    names = ["a"]

    def change() -> None:
        store.rename(saved, f"n{len(names)}")

    for _failed, error in failures(change, number, lasting=lasting):
        (found,) = store.list()
        if error is None:
            assert found.name == f"n{len(names)}"
        else:
            # A new name that may not outlive a power cut is an error, too.
            assert found.name in (names[-1], f"n{len(names)}")
        names.append(found.name)
        store.check(found)
        # What cannot be removed is replaced the next time.
        left = {path.name for path in found.directory.iterdir()} - (
            {".manifest.json.new"} if number == errno.EROFS else set()
        )
        assert left == {"lock", "manifest.json", "mem", "vmstate"}


@pytest.mark.parametrize(("number", "lasting"), FAULTS)
def test_exporting_and_importing(store: SnapshotStore, tmp_path: Path, number: int, lasting: bool) -> None:
    base = save(store, "base")
    saved = save(store, "x", on=base, pages={9: page(9)})
    target = tmp_path / "x.tar"
    for failed, error in failures(lambda: export_snapshot(saved, target), number, lasting=lasting):
        assert target.exists() is (error is None) or failed in ("fsync", "unlink")
        target.unlink(missing_ok=True)
        for left in tmp_path.glob(".x.tar*"):
            # Where even removing fails, nothing can be removed.
            assert number == errno.EROFS or failed == "unlink"
            left.unlink()
    other = store_in(tmp_path / "other")

    def take() -> None:
        import_snapshot(other, target, scope=SCOPE)

    for failed, error in failures(take, number, lasting=lasting):
        if error is not None:
            if number == errno.ENOSPC:
                assert isinstance(error, QuotaExceeded), failed
            nothing_is_left(other, [])
        else:
            other.check(other.get("x"))
            other.delete(other.get("x"))
    assert memory(other.get("x")) == memory(saved)


def test_holding(store: SnapshotStore) -> None:
    saved = save(store)
    for _failed, _error in failures(lambda: store.hold(saved).close(), errno.EIO, lasting=False):
        assert not store.in_use(saved)
    store.delete(saved)
