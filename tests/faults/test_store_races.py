"""Several writers on one store, in threads and in processes: every name is given once, and all that is seen is whole."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fc_kernel.errors import QuotaExceeded, SnapshotError, SnapshotExists, SnapshotInUse, SnapshotNotFound
from fc_kernel.snapshots import Snapshot
from fc_kernel.snapshots.store import StoreLimits

from ..snapshots_made import SCOPE, directories, memory, page, save, store_in

ROOT = Path(__file__).parents[2]
WRITERS = 8
DEADLINE_S = 120


def at_once(number: int, do: Callable[[int], object]) -> list[object]:
    """Do it in as many threads at once; what each returned or raised."""
    barrier = threading.Barrier(number)

    def one(which: int) -> object:
        barrier.wait(DEADLINE_S)
        try:
            return do(which)
        except SnapshotError as error:
            return error

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(one, range(number)))


def test_one_of_eight_gets_a_name(tmp_path: Path) -> None:
    results = at_once(
        WRITERS,
        lambda _: store_in(tmp_path).begin(name="x", scope=SCOPE, expected_bytes=0),
    )
    (won,) = [each for each in results if not isinstance(each, SnapshotError)]
    assert sum(isinstance(each, SnapshotExists) for each in results) == WRITERS - 1
    won.discard()  # type: ignore[attr-defined]
    assert directories(store_in(tmp_path)) == []


def test_one_of_eight_saves_a_name(tmp_path: Path) -> None:
    results = at_once(WRITERS, lambda _: save(store_in(tmp_path), "x"))
    (won,) = [each for each in results if isinstance(each, Snapshot)]
    assert sum(isinstance(each, SnapshotExists) for each in results) == WRITERS - 1
    store = store_in(tmp_path)
    assert directories(store) == [won.id]
    store.check(won)


def test_eight_unnamed_ones_get_eight_names_and_share_a_base(tmp_path: Path) -> None:
    base = save(store_in(tmp_path), "base")
    results = at_once(WRITERS, lambda which: save(store_in(tmp_path), on=base, pages={which: page(which)}))
    store = store_in(tmp_path)
    assert sorted(each.name for each in results) == [f"s{number}" for number in range(1, WRITERS + 1)]  # type: ignore[attr-defined]
    assert base.mem.stat().st_nlink == WRITERS + 1
    for which, each in enumerate(results):
        assert isinstance(each, Snapshot)
        store.check(each)
        assert memory(each)[which * 4096 : (which + 1) * 4096] == page(which)


def test_the_quota_holds_for_all_together(tmp_path: Path) -> None:
    results = at_once(WRITERS, lambda _: save(store_in(tmp_path, limits=StoreLimits(max_snapshots=3))))
    assert sum(isinstance(each, Snapshot) for each in results) == 3
    assert sum(isinstance(each, QuotaExceeded) for each in results) == WRITERS - 3
    assert len(directories(store_in(tmp_path))) == 3


def test_removing_against_holding(tmp_path: Path) -> None:
    """Either it is held and stays, or it is gone and cannot be held."""
    for _ in range(10):
        saved = save(store_in(tmp_path))
        results = at_once(
            2,
            lambda which: (store_in(tmp_path).hold, store_in(tmp_path).delete)[which](saved),  # noqa: B023
        )
        if isinstance(results[1], SnapshotInUse):
            assert saved.mem.exists()
            results[0].close()  # type: ignore[attr-defined]
            store_in(tmp_path).delete(saved)
        else:
            assert isinstance(results[0], SnapshotNotFound)
        assert directories(store_in(tmp_path)) == []


SERVER = """
import sys
from pathlib import Path
from tests.snapshots_made import page, save, store_in
from fc_kernel.errors import SnapshotNotFound
store = store_in(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[2])):
    base = store.get("base")
    saved = save(store, on=base, pages={number: page(number, sys.argv[3])})
    assert store.broken() == {}
    for each in store.list():
        try:
            store.check(each)
        except SnapshotNotFound:
            # The other server has just removed it.
            pass
    if number % 3 == 0:
        store.delete(saved)
    else:
        print(saved.name, saved.id, flush=True)
"""


def test_two_servers(tmp_path: Path) -> None:
    base = save(store_in(tmp_path), "base")
    each_saves = 12
    servers = [
        subprocess.Popen(
            [sys.executable, "-c", SERVER, str(tmp_path), str(each_saves), str(which)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for which in range(2)
    ]
    for server in servers:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
    told: dict[str, str] = {}
    for server in servers:
        assert server.stdin is not None
        server.stdin.write("go\n")
        server.stdin.flush()
    for server in servers:
        out, err = server.communicate(timeout=DEADLINE_S)
        assert (server.returncode, err) == (0, "")
        for line in out.splitlines():
            name, snapshot_id = line.split()
            told[snapshot_id] = name
    store = store_in(tmp_path)
    found = {each.id: each.name for each in store.list() if each.id != base.id}
    assert found == told
    assert len(set(found.values())) == len(found) == 2 * each_saves * 2 // 3
    assert store.broken() == {}
    assert store.sweep() == []
    for each in store.list():
        store.check(each)


@pytest.mark.parametrize("begun", [True, False])
def test_a_name_is_free_again_when_its_writer_is_dead(tmp_path: Path, begun: bool) -> None:
    code = """
import os, sys
from pathlib import Path
from tests.snapshots_made import *
draft = store_in(Path(sys.argv[1])).begin(name="x", scope=SCOPE, expected_bytes=0)
print("begun", flush=True)
sys.stdin.readline()
os._exit(1)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdin is not None
        assert writer.stdout.readline() == "begun\n"
        store = store_in(tmp_path)
        with pytest.raises(SnapshotExists):
            store.begin(name="x", scope=SCOPE, expected_bytes=0)
        if begun:
            writer.kill()
    assert save(store, "x").name == "x"
    assert len(directories(store)) == 1
