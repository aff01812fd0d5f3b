"""Two hundred damaged snapshots: each is refused before a monitor could open anything of it, and no other is harmed."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fc_kernel.errors import SnapshotCorrupt, SnapshotError, SnapshotIncompatible
from fc_kernel.snapshots import Cpu, Host, ImageRef, Snapshot

from ..snapshots_made import memory, page, save, store_in

PARTS = ["mem", "vmstate", "pages.0", "pages.1", "notebook.ipynb", "manifest.json"]
ROUNDS = 200


class Damage:
    """One snapshot to be damaged, and another to take files from."""

    def __init__(self, victim: Snapshot, foreign: Snapshot, dice: random.Random) -> None:
        self.victim, self.foreign, self.dice = victim, foreign, dice
        self.part = dice.choice(PARTS)
        self.path = victim.directory / self.part

    def _changed(self, data: bytes) -> None:
        # A file of its own: what is shared with others stays as it is.
        self.path.unlink()
        self.path.write_bytes(data)

    def truncate(self) -> None:
        data = self.path.read_bytes()
        self._changed(data[: self.dice.randrange(len(data))])

    def extend(self) -> None:
        self._changed(self.path.read_bytes() + b"\0")

    def flip(self) -> None:
        data = bytearray(self.path.read_bytes())
        data[self.dice.randrange(len(data))] ^= 1 << self.dice.randrange(8)
        self._changed(bytes(data))

    def missing(self) -> None:
        self.path.unlink()

    def swapped(self) -> None:
        other = self.dice.choice([part for part in PARTS if part != self.part])
        mine, theirs = self.path.read_bytes(), (self.victim.directory / other).read_bytes()
        self._changed(theirs)
        self.path = self.victim.directory / other
        self._changed(mine)

    def of_another(self) -> None:
        self._changed((self.foreign.directory / self.part).read_bytes())

    def future(self) -> None:
        self.path = self.victim.directory / "manifest.json"
        said = json.loads(self.path.read_bytes())
        self._changed(json.dumps({**said, "format": self.dice.choice([3, 99, "1", None, [1]])}).encode())

    def edited(self) -> None:
        self.path = self.victim.directory / "manifest.json"
        said = json.loads(self.path.read_bytes())
        changes: list[dict[str, Any]] = [
            {"monitor": "other"}, {"id": self.foreign.id}, {"name": "y"}, {"more": 1}, {"parts": []},
        ]  # fmt: skip
        change = self.dice.choice(changes)
        self._changed(json.dumps({**said, **change}, indent=1).encode() + b"\n")

    def link(self) -> None:
        target = self.path.rename(self.path.with_name("elsewhere"))
        self.path.symlink_to(target)

    def fifo(self) -> None:
        self.path.unlink()
        os.mkfifo(self.path)

    def directory(self) -> None:
        self.path.unlink()
        self.path.mkdir()

    def mode(self) -> None:
        data = self.path.read_bytes()
        self._changed(data)
        self.path.chmod(self.dice.choice([0o000, 0o200, 0o666, 0o622, 0o620, 0o602]))

    def linked_directory(self) -> None:
        target = self.victim.directory.rename(self.victim.directory.with_name("elsewhere"))
        self.victim.directory.symlink_to(target)


KINDS = [name for name, value in vars(Damage).items() if callable(value) and not name.startswith("_")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A store with a victim and a foreign snapshot, to be copied."""
    path = tmp_path_factory.mktemp("made")
    store = store_in(path)
    ids = []
    for salt in ("victim", "foreign"):
        first = save(store, f"{salt}1", pages={1: page(1, salt), 900: page(2, salt)})
        second = save(store, f"{salt}2", on=first, pages={5: page(5, salt)})
        notebook = f'{{"of": "{salt}"}}'.encode()
        ids.append(save(store, salt, on=second, pages={1: page(6, salt), 7: page(7, salt)}, notebook=notebook).id)
    return path, ids[0], ids[1]


def test_each_is_refused(made: tuple[Path, str, str], tmp_path: Path) -> None:
    path, victim_id, foreign_id = made
    dice = random.Random(20)
    told: set[str] = set()
    for number in range(ROUNDS):
        here = tmp_path / str(number)
        shutil.copytree(path, here)
        store = store_in(here)
        victim, foreign = store.get(victim_id), store.get(foreign_id)
        # What was known of the files before does not help whoever damages them.
        store.check(victim)
        damage = Damage(victim, foreign, dice)
        kind = KINDS[number % len(KINDS)]
        getattr(damage, kind)()
        with pytest.raises((SnapshotCorrupt, SnapshotIncompatible)) as caught:
            store.check(victim, Host(monitor="qemu"))
        told.add(str(caught.value))
        if isinstance(caught.value, SnapshotCorrupt) and kind in (
            "truncate",
            "flip",
            "missing",
            "link",
            "fifo",
            "mode",
        ):
            assert caught.value.part == damage.part, kind
        store.check(foreign)
        # It can still be looked for and removed.
        store.list()
        store.broken()
        store.delete(victim_id)
        assert victim_id not in {each.id for each in store.list()}
        assert not os.path.lexists(victim.directory)
        shutil.rmtree(here)
    assert len(told) > 50


@pytest.mark.parametrize(
    ("here", "field"),
    [
        (Host(monitor="firecracker"), "monitor"),
        (Host(monitor="qemu", monitor_version="10.0"), "monitor_version"),
        (Host(cpu=Cpu.of("Other", ["sse", "fpu"])), "cpu.model"),
        (Host(cpu=Cpu.of("Some CPU", ["sse", "fpu", "avx"])), "cpu.flags"),
        (Host(agent_protocol=1), "agent_protocol"),
        (Host(image=ImageRef(name="renamed", kernel_sha256="a" * 64, rootfs_sha256="b" * 64)), None),
        (Host(image=ImageRef(name="default", kernel_sha256="c" * 64, rootfs_sha256="b" * 64)), "image.kernel"),
        (Host(image=ImageRef(name="default", kernel_sha256="a" * 64, rootfs_sha256="c" * 64)), "image.rootfs"),
        (Host(), None),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, here: Host, field: str | None) -> None:
    store = store_in(tmp_path)
    saved = save(store)
    if field is None:
        store.check(saved, here)
        return
    with pytest.raises(SnapshotIncompatible) as caught:
        store.check(saved, here)
    assert caught.value.field == field
    assert repr(caught.value.have)[:20] in str(caught.value)


def test_a_disk_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_in(tmp_path)
    saved = save(store)

    def broken(*_: object, **__: object) -> str:
        raise OSError(errno.EIO, "Input/output error")

    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr("fc_kernel.snapshots.root.memory_digest", broken)
    with pytest.raises(SnapshotCorrupt, match=r"mem: .*Input/output error"):
        store.check(saved)


@pytest.mark.parametrize("what", ["link", "file", "fifo", "loop"])
def test_a_root_that_is_no_directory(tmp_path: Path, what: str) -> None:
    root = tmp_path / "snapshots"
    if what == "file":
        root.touch()
    elif what == "fifo":
        os.mkfifo(root)
    else:
        root.symlink_to(root if what == "loop" else "/etc")
    store = store_in(tmp_path)
    calls: list[Callable[[], object]] = [store.list, store.broken, lambda: store.get("x"), lambda: save(store)]
    for call in calls:
        with pytest.raises(SnapshotError):
            call()


def test_nothing_outside_the_store_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name never gets into a path, whatever it is."""
    store = store_in(tmp_path)
    saved = save(store, "x")
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "manifest.json").write_bytes((saved.directory / "manifest.json").read_bytes())
    opened: list[str] = []
    real = os.open

    def spy(path: object, *args: object, **more: object) -> int:
        opened.append(os.fspath(path))  # type: ignore[call-overload]
        return real(path, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", spy)
    for ref in ("../secret", str(secret), "../snapshots/" + saved.id, "secret", "..", "."):
        with pytest.raises(SnapshotError):
            store.get(ref)
        with pytest.raises(SnapshotError):
            store.delete(ref)
    assert not [path for path in opened if "secret" in path or ".." in path]


def test_the_memory_is_as_it_was(made: tuple[Path, str, str]) -> None:
    path, victim_id, _ = made
    whole = memory(store_in(path).get(victim_id))
    assert whole[4096 : 2 * 4096] == page(6, "victim")
