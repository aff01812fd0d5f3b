"""The monitor process: its limits and surroundings, its last words, and that it always ends and is always reaped."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from fc_kernel.errors import ConfigError, LaunchError, MonitorExited
from fc_kernel.settings.spec import DriveSpec, VmSpec
from fc_kernel.vmm import process as process_module
from fc_kernel.vmm.console import ConsoleRing
from fc_kernel.vmm.journal import read_entry
from fc_kernel.vmm.launch import Launch, ResourceLimits, wrapped
from fc_kernel.vmm.process import MonitorProcess

DEADLINE_S = 30.0
LIMITS = ResourceLimits(max_file_bytes=1 << 20)


class Spawned:
    """A process and what it wrote."""

    def __init__(self, cwd: Path, *argv: str, **options: Any) -> None:
        self.console = ConsoleRing()
        options.setdefault("limits", LIMITS)
        self.process = MonitorProcess.spawn(Launch(argv=argv, **options), cwd=cwd, console=self.console)

    async def says(self, text: str) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while text not in "\n".join(self.console.tail(100)):
                await asyncio.sleep(0.005)


Spawn = Callable[..., Spawned]


@pytest.fixture
async def spawn(tmp_path: Path) -> AsyncIterator[Spawn]:
    made: list[Spawned] = []

    def make(*argv: str, **options: Any) -> Spawned:
        made.append(Spawned(tmp_path, *argv, **options))
        return made[-1]

    yield make
    for spawned in made:
        await spawned.process.aclose()


def child_of(spawned: Spawned) -> subprocess.Popen[bytes]:
    child = spawned.process._process
    assert child is not None
    return child


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


async def test_its_surroundings(spawn: Spawn, tmp_path: Path) -> None:
    code = """
import os, resource, signal, ctypes
print("session", os.getsid(0) == os.getpid())
print("directory", os.getcwd())
print("environment", sorted(os.environ))
print("stdin", os.readlink("/proc/self/fd/0"))
print("descriptors", sorted(int(n) for n in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + n)))
print("core", resource.getrlimit(resource.RLIMIT_CORE))
print("files", resource.getrlimit(resource.RLIMIT_NOFILE))
print("size", resource.getrlimit(resource.RLIMIT_FSIZE))
death = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(death))
print("death", death.value)
print("umask", oct(os.umask(0)))
"""
    spawned = spawn(*python(code))
    assert (await spawned.process.wait()).returncode == 0
    said = dict(line.split(" ", 1) for line in spawned.console.tail())
    assert said["session"] == "True"
    assert said["directory"] == str(tmp_path)
    assert "PATH" in said["environment"]
    assert "HOME" not in said["environment"]
    assert said["stdin"] == "/dev/null"
    assert said["descriptors"] == "[0, 1, 2]"
    assert said["core"] == "(0, 0)"
    assert said["files"] == "(4096, 4096)"
    assert said["size"] == "(1048576, 1048576)"
    assert said["death"] == str(int(signal.SIGKILL))
    assert said["umask"] == "0o77"


async def test_its_environment_and_descriptors_are_those_given(spawn: Spawn) -> None:
    reading, writing = os.pipe()
    try:
        code = "import os, sys; print(os.environ['ONLY'], 'PATH' in os.environ); os.write(int(sys.argv[1]), b'here')"
        spawned = spawn(*python(code), str(writing), env={"ONLY": "this"}, pass_fds=[writing])
        assert (await spawned.process.wait()).returncode == 0
        assert os.read(reading, 10) == b"here"
        assert spawned.console.tail() == ["this False"]
    finally:
        os.close(reading)
        os.close(writing)


def test_limits_follow_what_the_guest_may_write(tmp_path: Path) -> None:
    large, small = tmp_path / "large", tmp_path / "small"
    for path, size in ((large, 3 << 30), (small, 1 << 20)):
        with path.open("wb") as file:
            file.truncate(size)
    drive = DriveSpec(drive_id="data", path_on_host=large, is_read_only=False)
    memory = VmSpec(mem_size_mib=512)
    least = ResourceLimits.for_guest(memory).max_file_bytes
    assert least > 512 << 20
    assert ResourceLimits.for_guest(memory, small).max_file_bytes == least
    for limits in (
        ResourceLimits.for_guest(memory, large),
        ResourceLimits.for_guest(memory.model_copy(update={"extra_drives": (drive,)})),
        ResourceLimits.for_guest(memory.model_copy(update={"rootfs": large, "rootfs_read_only": False})),
    ):
        assert limits.max_file_bytes > 3 << 30
    read_only = drive.model_copy(update={"is_read_only": True})
    for update in ({"extra_drives": (read_only,)}, {"rootfs": large, "rootfs_read_only": True}):
        assert ResourceLimits.for_guest(memory.model_copy(update=update)).max_file_bytes == least


async def test_a_file_larger_than_the_limit_ends_it(spawn: Spawn) -> None:
    code = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_DFL); open('f', 'wb').write(bytes(2 << 20))"
    exited = await spawn(*python(code)).process.wait()
    assert exited.returncode == -signal.SIGXFSZ


@pytest.mark.parametrize("missing", ["setpriv", "prlimit"])
def test_without_the_programs_that_set_limits(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None if name == missing else f"/usr/bin/{name}")
    with pytest.raises(ConfigError, match="apt-get install util-linux"):
        wrapped(["true"], LIMITS)


async def test_a_program_that_is_not_there(spawn: Spawn) -> None:
    spawned = spawn("/no/such/program")
    exited = await spawned.process.wait()
    assert exited.returncode != 0
    assert "/no/such/program" in "\n".join(exited.console)
    assert str(exited) == f"the monitor exited with status {exited.returncode}"


async def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="cannot start true"):
        Spawned(tmp_path / "missing", "true")


async def test_its_last_words_are_in_its_exit(spawn: Spawn) -> None:
    spawned = spawn("sh", "-c", "echo to stdout; echo to stderr >&2; printf unfinished; exit 7")
    waiting = [asyncio.ensure_future(spawned.process.wait()) for _ in range(3)]
    exits = await asyncio.gather(*waiting)
    assert {exited.returncode for exited in exits} == {7}
    assert exits[0].console == ("to stdout", "to stderr", "unfinished")
    assert spawned.process.exited == exits[0]


async def test_a_waiter_that_gives_up_does_not_harm_the_others(spawn: Spawn) -> None:
    spawned = spawn("sleep", "600")
    impatient = asyncio.ensure_future(spawned.process.wait())
    await asyncio.sleep(0)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    assert spawned.process.exited is None
    assert (await spawned.process.kill()).returncode == -signal.SIGKILL


async def test_signals(spawn: Spawn) -> None:
    spawned = spawn(*python("import signal, time\nprint('ready', flush=True)\ntime.sleep(600)"))
    await spawned.says("ready")
    spawned.process.send_signal(signal.SIGTERM)
    exited = await spawned.process.wait()
    assert exited.returncode == -signal.SIGTERM
    assert str(exited) == "the monitor was killed by signal 15"
    spawned.process.send_signal(signal.SIGKILL)
    assert await spawned.process.kill() == exited


async def test_closing_ends_and_reaps_and_may_be_done_twice(spawn: Spawn) -> None:
    spawned = spawn("sleep", "600")
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    pid = spawned.process.pid
    await spawned.process.aclose()
    await spawned.process.aclose()
    assert not psutil.pid_exists(pid)
    assert len(os.listdir("/proc/self/fd")) == descriptors - 2  # noqa: PTH208
    assert (await spawned.process.wait()).returncode == -signal.SIGKILL


async def test_a_cancelled_close_still_closes(spawn: Spawn) -> None:
    spawned = spawn("sleep", "600")
    pid = spawned.process.pid
    closing = asyncio.ensure_future(spawned.process.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert not psutil.pid_exists(pid)
    assert spawned.process.exited is not None


async def test_a_process_stuck_in_the_kernel_does_not_stop_the_loop(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that cannot be killed for now stands for one that waits for a broken disk."""
    spawned = spawn("sleep", "600")
    pid = spawned.process.pid
    with monkeypatch.context() as patch:
        patch.setattr(process_module, "REAP_DEADLINE_S", 0.05)
        patch.setattr(process_module, "STUCK_S", 0.05)
        patch.setattr(spawned.process, "send_signal", lambda _: None)
        with pytest.raises(TimeoutError):
            await spawned.process.aclose()
    assert (await spawned.process.wait()).returncode == -signal.SIGKILL
    assert psutil.pid_exists(pid)
    os.kill(pid, signal.SIGKILL)
    assert await asyncio.to_thread(child_of(spawned).wait, DEADLINE_S) == -signal.SIGKILL


async def test_a_flood_of_a_child_that_lives_on_does_not_stop_the_loop(spawn: Spawn, tmp_path: Path) -> None:
    """The process is dead, its child writes for ever into the same pipe."""
    spawned = spawn("sh", "-c", "yes & echo $! >child; exit 3")
    exited = await asyncio.wait_for(spawned.process.wait(), DEADLINE_S)
    assert exited.returncode == 3
    child = psutil.Process(int((tmp_path / "child").read_text()))
    assert child.is_running()
    await spawned.process.aclose()
    await asyncio.to_thread(psutil.wait_procs, [child], DEADLINE_S)
    assert not child.is_running()


async def test_a_closed_outputs_number_is_not_read(spawn: Spawn) -> None:
    """It is another file's by then."""
    spawned = spawn("sh", "-c", "echo last; exec >&- 2>&-; exec sleep 600")
    await spawned.says("last")
    number = spawned.process._output
    async with asyncio.timeout(DEADLINE_S):
        while not (child_of(spawned).stdout is None or child_of(spawned).stdout.closed):  # type: ignore[union-attr]
            await asyncio.sleep(0.005)
    reading, writing = os.pipe()
    os.write(writing, b"of somebody else")
    if reading != number:
        os.dup2(reading, number)
    try:
        exited = await spawned.process.kill()
        assert exited.console == ("last",)
        assert os.read(number, 100) == b"of somebody else"
    finally:
        for descriptor in {reading, writing, number}:
            os.close(descriptor)


async def test_guard_returns_or_says_how_it_ended(spawn: Spawn) -> None:
    spawned = spawn("sh", "-c", "echo no luck; exit 5")
    never: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    with pytest.raises(MonitorExited, match="the API: the monitor exited with status 5") as caught:
        await spawned.process.guard("the API", never)
    assert caught.value.returncode == 5
    assert never.cancelled()
    living = spawn("sleep", "600")
    await living.process.guard("the API", asyncio.ensure_future(asyncio.sleep(0)))

    async def broken() -> None:
        raise LaunchError("broken")

    with pytest.raises(LaunchError, match="broken"):
        await living.process.guard("the API", asyncio.ensure_future(broken()))


async def test_recording(spawn: Spawn, run_dir: Path) -> None:
    spawned = spawn("sh", "-c", "echo ready; exec sleep 600")
    await spawned.says("ready")
    async with asyncio.timeout(DEADLINE_S):
        while psutil.Process(spawned.process.pid).name() != "sleep":
            await asyncio.sleep(0.005)
    spawned.process.record(run_dir, vm_id=run_dir.name, monitor="qemu", labels={})
    entry = read_entry(run_dir)
    assert entry is not None
    assert entry.names(spawned.process.pid)
    with pytest.raises(LaunchError, match="cannot write in the run directory"):
        spawned.process.record(run_dir / "missing", vm_id=run_dir.name, monitor="qemu", labels={})
    await spawned.process.kill()
    with pytest.raises(LaunchError, match="ended while it was starting"):
        spawned.process.record(run_dir, vm_id=run_dir.name, monitor="qemu", labels={})


def test_it_ends_with_the_thread_that_started_it(tmp_path: Path) -> None:
    """The kernel sees to it: nobody closes anything here."""
    pids: list[int] = []

    def start() -> None:
        async def run() -> None:
            spawned = Spawned(tmp_path, "sh", "-c", "echo ready; exec sleep 600")
            await spawned.says("ready")
            pids.append(spawned.process.pid)
            kept.append(spawned)
            await asyncio.sleep(0)
            loop = asyncio.get_running_loop()
            loop.remove_reader(spawned.process._pidfd)
            loop.remove_reader(spawned.process._output)

        asyncio.run(run())

    kept: list[Spawned] = []
    thread = threading.Thread(target=start)
    thread.start()
    thread.join(DEADLINE_S)
    process = child_of(kept[0])
    end = time.monotonic() + DEADLINE_S
    while process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert process.returncode == -signal.SIGKILL
    assert process.stdout is not None
    process.stdout.close()
    os.close(kept[0].process._pidfd)
