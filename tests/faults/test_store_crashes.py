"""A server that is killed before any call of the store: afterwards there is all of a snapshot, or nothing of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fc_kernel.errors import SnapshotNotFound
from fc_kernel.snapshots import Snapshot, SnapshotStore, export_snapshot, import_snapshot

from ..snapshots_made import SCOPE, directories, holes_filled, memory, page, save, store_in
from .failing_os import FailingOs, install

ROOT = Path(__file__).parents[2]
PAGES, CHANGED = {1: page(1), 9: page(9)}, {9: page(9, "changed")}
DEADLINE_S = 250


def saving(store: SnapshotStore, base: Snapshot) -> None:
    save(store, "x", on=base, pages=CHANGED, notebook=b"{}")


def saving_whole(store: SnapshotStore, _base: Snapshot) -> None:
    save(store, "x", pages={**PAGES, **CHANGED})


def importing(store: SnapshotStore, _base: Snapshot) -> None:
    import_snapshot(store, store.root.parent / "x.tar", scope=SCOPE)


def deleting(store: SnapshotStore, _base: Snapshot) -> None:
    store.delete(store.get("x"))


def renaming(store: SnapshotStore, _base: Snapshot) -> None:
    store.rename(store.get("x"), "y")


#: What is done, and what of the names is there before and after it.
CHANGES: dict[str, tuple[Callable[[SnapshotStore, Snapshot], None], str | None, str | None]] = {
    "saving": (saving, None, "x"),
    "saving_whole": (saving_whole, None, "x"),
    "importing": (importing, None, "x"),
    "deleting": (deleting, "x", None),
    "renaming": (renaming, "x", "y"),
}


def prepared(path: Path, change: str) -> tuple[SnapshotStore, Snapshot]:
    path.mkdir()
    store = store_in(path)
    base = save(store, "base", pages=PAGES)
    if CHANGES[change][1] == "x" or change == "importing":
        x = save(store, "x", on=base, pages=CHANGED)
        if change == "importing":
            export_snapshot(x, path / "x.tar")
            store.delete(x)
    return store, base


def die(_name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at(at: int, store: SnapshotStore, base: Snapshot, change: str) -> int:
    """Do it in a process of its own that kills itself before its call of that number; returns how the process ended."""
    pid = os.fork()
    if pid == 0:
        try:
            install(pytest.MonkeyPatch(), FailingOs(at, die))
            CHANGES[change][0](store, base)
        except BaseException as error:
            sys.stderr.write(repr(error))
            os._exit(3)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def look(store: SnapshotStore, base: Snapshot, change: str) -> dict[str, Any]:
    """What the next server finds; raises when it is not whole."""
    expected = holes_filled({**PAGES, **CHANGED})
    names = [each.name for each in store.list()]
    broken = store.broken()
    for name in ("x", "y"):
        try:
            found = store.get(name)
        except SnapshotNotFound:
            continue
        store.check(found)
        assert memory(found) == expected
    store.check(base)
    swept = store.sweep()
    left = [name for name in directories(store) if name not in {each.id for each in store.list()}]
    # The same can be done now, or what was begun was done.
    again = "not needed"
    if CHANGES[change][2] not in [each.name for each in store.list()] and change != "deleting":
        CHANGES[change][0](store, base)
        again = "done"
    return {"names": names, "broken": len(broken), "swept": len(swept), "left": left, "again": again}


def main(path: Path, change: str) -> None:
    """Kill at the first call, the second, … until it is through; one line of JSON for each."""
    for at in range(1, 1000):
        store, base = prepared(path / str(at), change)
        status = killed_at(at, store, base, change)
        print(json.dumps({"at": at, "status": status, **look(store_in(path / str(at)), base, change)}), flush=True)
        if status != -signal.SIGKILL:
            return


def code(path: str, change: str) -> str:
    return (
        f"from pathlib import Path; from tests.faults.test_store_crashes import main; main(Path({path!r}), {change!r})"
    )


@pytest.mark.parametrize("change", CHANGES)
def test_killed_before_any_call(tmp_path: Path, change: str) -> None:
    _, before, after = CHANGES[change]
    # Not by forking this process, which has threads.
    done = subprocess.run(
        [sys.executable, "-c", code(str(tmp_path), change)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    *killed, last = lines
    assert last["status"] == 0
    assert len(killed) > 5
    assert {line["status"] for line in killed} == {-signal.SIGKILL}
    seen = [tuple(sorted(set(line["names"]) - {"base"})) for line in killed]
    states = [tuple(filter(None, [before])), tuple(filter(None, [after]))]
    assert set(seen) <= set(states)
    # At first it was as before, and from some call on as after.
    assert seen[0] == states[0]
    assert seen == sorted(seen, key=states.index)
    assert {(line["broken"], tuple(line["left"])) for line in lines} == {(0, ())}
    if change.startswith("saving"):
        assert any(line["swept"] for line in killed)


def test_a_living_writer_is_not_swept(tmp_path: Path) -> None:
    store, other = store_in(tmp_path), store_in(tmp_path)
    with store.begin(name="x", scope=SCOPE, expected_bytes=0) as draft:
        assert other.sweep() == []
        assert draft.directory.is_dir()
        assert other.list() == []


@pytest.mark.parametrize("kind", ["file", "link", "directory", "fifo", "empty", "no lock"])
def test_what_is_in_a_drafts_place_is_swept(tmp_path: Path, kind: str) -> None:
    store = store_in(tmp_path)
    save(store)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    planted = store.root / ".0123456789abcdef.partial"
    if kind == "file":
        planted.touch()
    elif kind == "link":
        planted.symlink_to(outside)
    elif kind == "fifo":
        os.mkfifo(planted)
    else:
        planted.mkdir()
        if kind == "directory":
            (planted / "lock").symlink_to(outside / "file")
        elif kind == "no lock":
            (planted / "mem").write_bytes(b"x")
    assert store.sweep() == [planted.name]
    assert not os.path.lexists(planted)
    assert (outside / "file").exists()
