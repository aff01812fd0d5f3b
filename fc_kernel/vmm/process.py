"""The monitor process: spawned in a session of its own, bound to our life, watched, and always reaped."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, LaunchError, MonitorExited
from ..settings.spec import VmSpec
from .base import VmmExit
from .console import ConsoleRing
from .journal import JournalEntry

READ_BYTES = 1 << 16
#: A monitor has a few descriptors for each drive and connection.
MAX_OPEN_FILES = 4096
#: A snapshot's memory file is as large as the guest's memory; a write beyond the limit kills the monitor.
FILE_SIZE_SLACK_BYTES = 16 << 20
#: After SIGKILL only a process stuck in the kernel still lives.
REAP_DEADLINE_S = 10.0
#: A killed process that is not gone by then is stuck in the kernel; the loop does not wait for it.
STUCK_S = 1.0
#: What a pipe holds at most (``/proc/sys/fs/pipe-max-size``).
LAST_READS = (1 << 20) // READ_BYTES
#: What a process wrote before its end is there already and only has to be read.
LAST_WORDS_S = 0.2


@dataclass(frozen=True)
class ResourceLimits:
    """Limits that the kernel sets on the monitor process."""

    max_file_bytes: int
    max_open_files: int = MAX_OPEN_FILES

    @classmethod
    def for_guest(cls, spec: VmSpec, *also: Path) -> ResourceLimits:
        """Limits under which a guest of that shape can write its drives, and its memory into a snapshot.

        ``also`` names files of the size that the monitor may have to write, such as the memory file of a snapshot.
        """
        written = [drive.path_on_host for drive in spec.extra_drives if not drive.is_read_only]
        if spec.rootfs is not None and not spec.rootfs_read_only:
            written.append(spec.rootfs)
        sizes = [path.stat().st_size for path in (*written, *also) if path.exists()]
        return cls(max_file_bytes=max((spec.mem_size_mib or 0) << 20, *sizes, 0) + FILE_SIZE_SLACK_BYTES)


def wrapped(argv: Sequence[str], limits: ResourceLimits) -> list[str]:
    """``argv`` behind util-linux's ``setpriv`` and ``prlimit``, which set what they are told and exec the rest.

    Raises :class:`~fc_kernel.errors.ConfigError` where they are missing.
    """
    setpriv, prlimit = shutil.which("setpriv"), shutil.which("prlimit")
    if setpriv is None or prlimit is None:
        raise ConfigError("setpriv and prlimit are needed: apt-get install util-linux")
    return [
        setpriv, "--pdeathsig", "KILL", "--",
        prlimit, "--core=0", f"--nofile={limits.max_open_files}", f"--fsize={limits.max_file_bytes}", "--",
        *argv,
    ]  # fmt: skip


#: ``linux/prctl.h``
PR_SET_THP_DISABLE = 41


@contextlib.contextmanager
def _huge_pages(wanted: bool) -> Iterator[None]:
    """Whether what is spawned in the block may have huge pages. It inherits that from us, for whom it is so meanwhile, too."""
    if wanted:
        yield
        return
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0)


class MonitorProcess:
    """A running monitor. Made by :meth:`spawn` on the event loop whose thread lives as long as the monitor may."""

    def __init__(self, process: subprocess.Popen[bytes], console: ConsoleRing) -> None:
        loop = asyncio.get_running_loop()
        assert process.stdout is not None  # noqa: S101 - spawn asks for a pipe
        self._process = process
        self._console = console
        self._loop = loop
        self._output = process.stdout.fileno()
        self._pidfd = os.pidfd_open(process.pid)
        self._exit: asyncio.Future[VmmExit] = loop.create_future()
        os.set_blocking(self._output, False)
        loop.add_reader(self._output, self._read)
        loop.add_reader(self._pidfd, self._ended)

    @classmethod
    def spawn(
        cls,
        argv: Sequence[str],
        *,
        cwd: Path,
        limits: ResourceLimits,
        console: ConsoleRing,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        huge_pages: bool = True,
    ) -> MonitorProcess:
        """Start a program; its stdout and stderr go to ``console``. Raises :class:`~fc_kernel.errors.LaunchError`.

        The process gets SIGKILL when the calling thread ends: it does not outlive us, however we end.
        """
        try:
            with _huge_pages(huge_pages):
                process = subprocess.Popen(
                    wrapped(argv, limits),
                    cwd=cwd,
                    env=dict(env) if env is not None else {"PATH": os.environ.get("PATH", os.defpath)},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    # Its sockets and files are for us alone, wherever it makes them.
                    umask=0o077,
                    pass_fds=tuple(pass_fds),
                )
        except OSError as error:
            raise LaunchError(f"cannot start {argv[0]}: {error}") from error
        try:
            return cls(process, console)
        except BaseException:
            process.kill()
            process.wait()
            raise

    @property
    def pid(self) -> int:
        """The process id; it is the program's own, the wrappers have exec'ed it."""
        return self._process.pid

    @property
    def exited(self) -> VmmExit | None:
        """How it ended, or ``None`` while it runs."""
        return self._exit.result() if self._exit.done() else None

    def record(self, run_dir: Path, *, vm_id: str, monitor: str, labels: dict[str, str]) -> None:
        """Write the journal's entry; call it when the program itself runs, not a wrapper.

        Raises :class:`~fc_kernel.errors.LaunchError` when the process is gone or the entry cannot be written.
        """
        try:
            JournalEntry.of_process(self.pid, vm_id=vm_id, monitor=monitor, labels=labels).write(run_dir)
        except ProcessLookupError:
            raise LaunchError(f"{monitor} ended while it was starting", console=self._console.tail()) from None
        except OSError as error:
            raise LaunchError(f"cannot write in the run directory {run_dir}: {error.strerror}") from error

    async def wait(self) -> VmmExit:
        """Return when the process has ended; any number of tasks may wait."""
        return await asyncio.shield(self._exit)

    async def guard(self, what: str, awaitable: asyncio.Future[object] | asyncio.Task[object]) -> None:
        """Wait for ``awaitable``, but raise :class:`~fc_kernel.errors.MonitorExited` as soon as the process ends."""
        exit_waiter = asyncio.ensure_future(self.wait())
        waited_for: set[asyncio.Future[Any]] = {exit_waiter, awaitable}
        try:
            await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
            if not awaitable.done():
                # What it said last says more than its exit status, and may still be in the socket.
                await asyncio.wait({awaitable}, timeout=LAST_WORDS_S)
            if awaitable.done():
                awaitable.result()
                return
            raise MonitorExited(f"{what}: {exit_waiter.result()}", returncode=exit_waiter.result().returncode)
        finally:
            for task in (exit_waiter, awaitable):
                if not task.done():
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task

    def send_signal(self, signum: signal.Signals) -> None:
        """Send a signal; nothing happens if the process has ended."""
        if not self._exit.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signum)

    async def kill(self) -> VmmExit:
        """SIGKILL, and reap."""
        self.send_signal(signal.SIGKILL)
        async with asyncio.timeout(REAP_DEADLINE_S):
            return await self.wait()

    async def aclose(self) -> None:
        """Kill if it runs, reap, and close every descriptor, even when cancelled."""
        try:
            if not self._exit.done():
                await self.kill()
        finally:
            self._release()

    def _release(self) -> None:
        if self._pidfd < 0:
            return
        if not self._exit.done():
            # Cancelled, or stuck: what can still be done without waiting is done.
            self.send_signal(signal.SIGKILL)
            self._loop.remove_reader(self._pidfd)
            try:
                returncode = self._process.wait(STUCK_S)
            except subprocess.TimeoutExpired:
                returncode = -signal.SIGKILL  # it is so, as soon as the kernel lets go of it
            self._exit.set_result(VmmExit(returncode, tuple(self._console.tail())))
        os.close(self._pidfd)
        self._pidfd = -1
        self._close_output()

    def _read(self) -> None:
        try:
            data = os.read(self._output, READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self._console.write(data)
        else:
            self._close_output()

    def _close_output(self) -> None:
        if self._process.stdout is not None and not self._process.stdout.closed:
            self._loop.remove_reader(self._output)
            self._process.stdout.close()

    def _ended(self) -> None:
        returncode = self._process.poll()
        if returncode is None:
            return
        self._loop.remove_reader(self._pidfd)
        # A closed descriptor's number may be another file's by now, and a child that lives on may write for ever.
        for _ in range(LAST_READS):
            if self._process.stdout is None or self._process.stdout.closed:
                break
            try:
                data = os.read(self._output, READ_BYTES)
            except OSError:
                break
            if not data:
                break
            self._console.write(data)
        self._exit.set_result(VmmExit(returncode, tuple(self._console.tail())))
