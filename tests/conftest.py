"""No test leaves anything behind: processes, descriptors, threads, tasks, sockets, directories."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import settings

# A slow example on a busy machine is no failure. `--hypothesis-profile=thorough` tries more examples.
settings.register_profile("steady", deadline=None)
settings.register_profile("thorough", deadline=None, max_examples=3000)
settings.load_profile("steady")

# A shell starts a background run with SIGINT ignored, and all its children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

#: Ending may take a while; only what never ends is a leak.
DEADLINE_S = 20.0
#: One engine and its threads stay for the whole process, by design; so do helper threads of libraries.
KEPT_DESCRIPTORS = 8
KEPT_THREADS = (
    "fc-kernel-engine",
    "fc-kernel-client",
    "asyncio_",
    "ThreadPoolExecutor",
    "pytest_timeout",
    "IOPub",
    "Thread-",
    "AnyIO",
)


#: How each image of the tests is built.
IMAGES = {"default": [], "r": ["--package", "r-cran-irkernel", "--no-template"]}


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--build-images``, which scripts/test gives."""
    parser.addoption("--build-images", action="store_true", help="first build the guest images that the tests need")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what the chosen tests boot; unit tests boot nothing, and need no image."""
    if not session.config.option.build_images or session.config.option.collectonly:
        return
    needed = {mark.kwargs.get("image", "default") for item in session.items for mark in item.iter_markers("vm")}
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        for name in sorted(needed):
            command = [sys.executable, "-m", "fc_kernel.cli", "image", "build", "--if-missing", "--name", name]
            print(f"\nthe guest image {name} (built once; reused while its digests match)", flush=True)
            if subprocess.run([*command, *IMAGES[name]], check=False).returncode != 0:
                raise pytest.UsageError(f"the image {name} could not be built")


@pytest.fixture(scope="session", autouse=True)
def short_private_runtime_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run directories of the tests, apart from those of kernels that run on this machine."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="fck", dir="/tmp") as path:
        patch = pytest.MonkeyPatch()
        patch.setenv("FC_KERNEL_RUNTIME_DIR", path)
        yield Path(path)
        patch.undo()


@pytest.fixture(scope="session", autouse=True)
def what_stays_is_there(short_private_runtime_dir: Path) -> None:
    """The engine's and the client's threads are a process's own: no test is the one that leaves them and their loops."""
    from fc_kernel.host.client import HostClient
    from fc_kernel.host.engine import Engine

    Engine.shared()
    HostClient._background()


class ProcessResources:
    """The processes, descriptors, threads, sockets and directories that this process has now."""

    def __init__(self, runtime_dir: Path) -> None:
        children = psutil.Process().children(recursive=True) if _has_children() else []
        self.processes = {(child.pid, _name(child)) for child in children}
        self.threads = {
            thread.name
            for thread in threading.enumerate()
            if thread.is_alive() and not thread.name.startswith(KEPT_THREADS)
        }
        self.directories = {path.name for path in runtime_dir.iterdir()}

    def more_than(self, before: ProcessResources) -> dict[str, set[object]]:
        more: dict[str, set[Any]] = {
            "processes": self.processes - before.processes,
            "threads": self.threads - before.threads,
            "directories": self.directories - before.directories,
        }
        return {kind: things for kind, things in more.items() if things}


def _has_children() -> bool:
    """A quick first check, because looking at all processes of the machine takes longer than most tests."""
    for thread in Path("/proc/self/task").iterdir():
        try:
            if (thread / "children").read_bytes():
                return True
        except FileNotFoundError:
            # A thread that has just ended, unless it is a kernel that does not tell.
            if thread.exists():
                return True
    return False


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:200]
    except psutil.Error:
        return "?"


def open_descriptors() -> list[str]:
    """The open descriptors of this process."""
    names = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            names.append(str(entry.readlink()))
        except OSError:
            continue
    return names


@pytest.fixture(autouse=True)
def nothing_is_left(short_private_runtime_dir: Path) -> Iterator[None]:
    """Fails a test that leaves something; module-wide kernels were there before and after."""
    before = ProcessResources(short_private_runtime_dir)
    descriptors = len(open_descriptors())
    yield
    # The young objects are this test's; looking at all of them would take longer than most tests.
    gc.collect(1)
    end = time.monotonic() + DEADLINE_S
    while left := _left(ProcessResources(short_private_runtime_dir).more_than(before), descriptors):
        if time.monotonic() > end:
            pytest.fail(f"left behind: {left}")
        gc.collect()
        time.sleep(0.05)


def _left(more: dict[str, set[object]], descriptors: int) -> dict[str, object]:
    """What was left behind; connections may still be closing."""
    now = open_descriptors()
    return {**more, **({"descriptors": now} if len(now) > descriptors + KEPT_DESCRIPTORS else {})}


@pytest.fixture(autouse=True)
def no_task_is_left() -> Iterator[None]:
    """The engine's loop is idle after a test, except for module-wide kernels."""
    from fc_kernel.host.engine import Engine

    yield
    engine = Engine._shared
    if engine is not None and not engine.loop.is_closed():

        async def tasks() -> list[str]:
            names = {"watch", "agent-control"}
            return [
                task.get_name()
                for task in asyncio.all_tasks()
                if task is not asyncio.current_task()
                and task.get_name() not in names
                and "Task-" not in task.get_name()
            ]

        end = time.monotonic() + DEADLINE_S
        while left := [name for name in engine.run_blocking(tasks()) if name not in ("linger", "fail-pending")]:
            # The task of a cell's request ends a little after the cell.
            assert time.monotonic() < end, left
            time.sleep(0.05)
