"""Staging directories: gone after whatever happens; a dead builder's are swept, a living one's are not."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fc_kernel.images.staging import PREFIX, REMOVED_PREFIX, staging_dir, sweep

BUILDER = """
import shutil, sys
from pathlib import Path
from fc_kernel.images.staging import staging_dir
with staging_dir(Path(sys.argv[1]), shutil.rmtree) as path:
    (path / "half").touch()
    print(path, flush=True)
    sys.stdin.read()
"""


class Builder:
    """A build in another process that goes on until it is told to end."""

    def __init__(self, root: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", BUILDER, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.path = Path(self.process.stdout.readline().strip())

    def end(self, *, kill: bool) -> None:
        if kill:
            self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit])
def test_it_is_gone_afterwards(tmp_path: Path, error: type[BaseException] | None) -> None:
    expected = pytest.raises(error) if error else contextlib.nullcontext()
    with expected, staging_dir(tmp_path, shutil.rmtree) as path:
        assert path.parent == tmp_path
        assert path.stat().st_mode & 0o777 == 0o700
        (path / "file").touch()
        if error:
            raise error
    assert list(tmp_path.iterdir()) == []


def test_a_living_builder_is_left_alone_and_a_dead_ones_work_is_swept(tmp_path: Path) -> None:
    living, killed = Builder(tmp_path), Builder(tmp_path)
    try:
        killed.end(kill=True)
        assert killed.path.is_dir()
        sweep(tmp_path, shutil.rmtree)
        assert list(tmp_path.iterdir()) == [living.path]
        assert (living.path / "half").exists()
    finally:
        living.end(kill=False)
    assert list(tmp_path.iterdir()) == []


def test_only_what_builds_left_is_swept(tmp_path: Path) -> None:
    kept = [tmp_path / "default", tmp_path / ".hidden", tmp_path / f"{PREFIX}file", tmp_path / f"{PREFIX}link"]
    kept[0].mkdir()
    kept[1].mkdir()
    kept[2].touch()
    kept[3].symlink_to(kept[0])
    for name in (f"{PREFIX}dead", f"{REMOVED_PREFIX}default-0a"):
        (tmp_path / name / "deep").mkdir(parents=True)
    sweep(tmp_path, shutil.rmtree)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_builders_and_sweepers_at_once(tmp_path: Path) -> None:
    """No builder ever loses its directory while it works."""
    lost: list[Path] = []
    done = threading.Event()

    def build() -> None:
        for _ in range(50):
            with staging_dir(tmp_path, shutil.rmtree) as path:
                try:
                    (path / "file").touch()
                    (path / "file").unlink()
                except OSError:
                    lost.append(path)

    def keep_sweeping() -> None:
        while not done.is_set():
            sweep(tmp_path, lambda path: shutil.rmtree(path, ignore_errors=True))

    builders = [threading.Thread(target=build, name=f"builder-{number}") for number in range(4)]
    sweeper = threading.Thread(target=keep_sweeping, name="sweeper")
    for thread in (sweeper, *builders):
        thread.start()
    for thread in builders:
        thread.join()
    done.set()
    sweeper.join()
    assert lost == []
    assert list(tmp_path.iterdir()) == []
