"""Run directories are private, short enough for a socket, locked by their owner, and never taken from a living one."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fc_kernel.base import paths
from fc_kernel.base.paths import LOCK_NAME, MAX_SOCKET_PATH_BYTES, RunDir, new_vm_id, owner_is_dead, runtime_dir
from fc_kernel.errors import ConfigError, RunDirError

OLD_S = 3600


@pytest.fixture
def base(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime directory that is not there yet, with a short path."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="fc", dir="/tmp") as path:
        monkeypatch.setenv("FC_KERNEL_RUNTIME_DIR", f"{path}/run")
        yield Path(path, "run")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def taken(path: Path) -> bool:
    """Whether the directory counts as an orphan's."""
    lock = owner_is_dead(path)
    if lock is not None:
        os.close(lock)
    return lock is not None


def made_old(path: Path) -> None:
    os.utime(path, (time.time() - OLD_S, time.time() - OLD_S))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_it_is_made_private_whatever_the_umask(base: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        assert runtime_dir() == base
        run_dir = RunDir.create(runtime_dir(), new_vm_id())
    finally:
        os.umask(before)
    assert mode(base) == mode(run_dir.path) == 0o700
    assert mode(run_dir.path / LOCK_NAME) & 0o077 == 0
    run_dir.remove()
    assert runtime_dir() == base


def test_where_it_is(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base.parent.joinpath("session").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base.parent / "session"))
    assert runtime_dir() == base
    monkeypatch.delenv("FC_KERNEL_RUNTIME_DIR")
    assert runtime_dir() == base.parent / "session/fc-kernel"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert paths.runtime_path() == Path(f"/tmp/fc-kernel-{os.geteuid()}")


def test_a_relative_directory_is_made_absolute(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(base.parent)
    monkeypatch.setenv("FC_KERNEL_RUNTIME_DIR", "run")
    assert runtime_dir() == base


def refusal() -> str:
    with pytest.raises(RunDirError) as caught:
        runtime_dir()
    assert isinstance(caught.value, ConfigError)
    assert "FC_KERNEL_RUNTIME_DIR" in str(caught.value)
    return str(caught.value)


def test_a_symbolic_link_is_refused(base: Path) -> None:
    base.parent.joinpath("elsewhere").mkdir(mode=0o700)
    base.symlink_to(base.parent / "elsewhere")
    assert "lrwx" in refusal()


@pytest.mark.parametrize("loose", [0o701, 0o710, 0o704, 0o770, 0o777, 0o1777])
def test_a_directory_that_others_may_enter_is_refused(base: Path, loose: int) -> None:
    base.mkdir()
    base.chmod(loose)
    assert "must be a directory of uid" in refusal()
    with pytest.raises(RunDirError):
        RunDir.create(runtime_dir(), new_vm_id())


def test_another_users_directory_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base.mkdir(mode=0o700)
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    assert f"must be a directory of uid {other}" in refusal()


def test_a_file_in_its_place_is_an_error(base: Path) -> None:
    base.write_text("")
    with pytest.raises(RunDirError, match="File exists"):
        runtime_dir()


def test_a_place_where_nothing_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FC_KERNEL_RUNTIME_DIR", "/proc/nowhere")
    with pytest.raises(RunDirError, match="cannot make the run directory '/proc/nowhere'"):
        runtime_dir()


@pytest.mark.parametrize("character", ["a", "ä"])
def test_a_path_too_long_for_a_socket(base: Path, character: str, monkeypatch: pytest.MonkeyPatch) -> None:
    room = MAX_SOCKET_PATH_BYTES - 1 - 2 * paths.VM_ID_BYTES - paths.LONGEST_SOCKET_NAME
    fitting = str(base) + "/" + character * ((room - len(str(base)) - 1) // len(character.encode()))
    monkeypatch.setenv("FC_KERNEL_RUNTIME_DIR", fitting)
    run_dir = RunDir.create(runtime_dir(), new_vm_id())
    longest = run_dir.path / ("s" * (paths.LONGEST_SOCKET_NAME - 1))
    assert len(os.fsencode(longest)) <= MAX_SOCKET_PATH_BYTES
    run_dir.remove()
    monkeypatch.setenv("FC_KERNEL_RUNTIME_DIR", fitting + character)
    assert f"at most {MAX_SOCKET_PATH_BYTES} bytes" in refusal()
    assert not Path(fitting + character).exists()


def test_ids_are_short_and_differ() -> None:
    ids = {new_vm_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch("[0-9a-f]{8}", vm_id) for vm_id in ids)


def test_an_id_that_is_taken(base: Path) -> None:
    run_dir = RunDir.create(runtime_dir(), "00000001")
    with pytest.raises(RunDirError, match="00000001"):
        RunDir.create(runtime_dir(), "00000001")
    assert list(base.iterdir()) == [run_dir.path]
    assert not taken(run_dir.path)
    run_dir.remove()


def test_a_failure_leaves_no_directory_and_no_descriptor(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    monkeypatch.setattr(fcntl, "flock", full)
    with pytest.raises(RunDirError, match="No space left"):
        RunDir.create(runtime_dir(), new_vm_id())
    assert list(base.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208


def test_removing_takes_everything_and_may_be_done_twice(base: Path) -> None:
    run_dir = RunDir.create(runtime_dir(), new_vm_id())
    (run_dir.path / "sub").mkdir()
    (run_dir.path / "sub/file").write_text("x")
    outside = base.parent / "outside"
    outside.write_text("kept")
    (run_dir.path / "link").symlink_to(outside)
    run_dir.remove()
    run_dir.remove()
    assert list(base.iterdir()) == []
    assert outside.read_text() == "kept"


def test_an_owner_that_lives_keeps_its_directory(base: Path) -> None:
    run_dir = RunDir.create(runtime_dir(), new_vm_id())
    made_old(run_dir.path)
    assert not taken(run_dir.path)
    run_dir.remove()
    assert not taken(run_dir.path)


OWNER = """
import sys
from fc_kernel.base.paths import RunDir, runtime_dir
RunDir.create(runtime_dir(), sys.argv[1])
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def dead_owners(base: Path) -> Path:
    """The directory of a process that was killed."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, "0000000d"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"\n"
        assert not taken(base / "0000000d")
        owner.kill()
    return base / "0000000d"


def test_a_dead_owners_directory_is_free_at_once(dead_owners: Path) -> None:
    assert taken(dead_owners)


def test_one_taker_at_a_time(dead_owners: Path) -> None:
    lock = owner_is_dead(dead_owners)
    assert lock is not None
    assert not taken(dead_owners)
    os.close(lock)
    assert taken(dead_owners)


def test_a_directory_removed_under_the_taker(dead_owners: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another reaper removes it after we opened the lock and before we hold it."""
    import shutil

    flock = fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        shutil.rmtree(dead_owners)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    assert owner_is_dead(dead_owners) is None


def a_link(lock: Path) -> None:
    lock.symlink_to("/etc/passwd")


def a_directory(lock: Path) -> None:
    lock.mkdir()


def nothing(lock: Path) -> None:
    assert not lock.exists()


@pytest.mark.parametrize("instead", [a_link, a_directory, nothing])
def test_without_a_lock_it_is_an_orphans_after_a_while(base: Path, instead: object) -> None:
    assert callable(instead)
    path = runtime_dir() / "00000002"
    path.mkdir()
    instead(path / LOCK_NAME)
    assert not taken(path)
    made_old(path)
    assert taken(path)
    lock = owner_is_dead(path)
    assert lock is not None
    assert not taken(path), "two reapers"
    os.close(lock)


def test_a_directory_in_the_making_is_spared(base: Path) -> None:
    """Its lock is there and not yet held."""
    path = runtime_dir() / ".00000003"
    path.mkdir()
    (path / LOCK_NAME).touch()
    assert not taken(path)
    made_old(path)
    assert taken(path)


def test_what_cannot_be_told_is_spared(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = runtime_dir() / "00000004"
    path.mkdir()
    (path / LOCK_NAME).touch()

    def too_many(*_: object, **__: object) -> int:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", too_many)
        assert owner_is_dead(path) is None
    assert taken(path)


@pytest.mark.parametrize(
    ("ours", "theirs", "function", "below_home"),
    [
        ("FC_KERNEL_DATA_DIR", "XDG_DATA_HOME", paths.data_dir, ".local/share"),
        ("FC_KERNEL_CACHE_DIR", "XDG_CACHE_HOME", paths.cache_dir, ".cache"),
    ],
)
def test_data_and_caches(
    ours: str, theirs: str, function: object, below_home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(function)
    monkeypatch.delenv(ours, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(theirs, raising=False)
    assert function() == tmp_path / below_home / "fc-kernel"
    monkeypatch.setenv(theirs, "/xdg")
    assert function() == Path("/xdg/fc-kernel")
    monkeypatch.setenv(ours, "/ours")
    assert function() == Path("/ours")
