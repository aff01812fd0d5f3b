"""The monitor process: watched through a pidfd, whether we spawned it or found it, and never left behind by accident."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from ..errors import LaunchError, MonitorExited, StateError
from .base import VmmExit
from .console import ConsoleFile, ConsoleRing
from .journal import JournalEntry, read_entry
from .launch import Launch, Lifetime, huge_pages, wrapped

READ_BYTES = 1 << 16
#: After SIGKILL only a process stuck in the kernel still lives.
REAP_DEADLINE_S = 10.0
#: A killed process that is not gone by then is stuck in the kernel; the loop does not wait for it.
STUCK_S = 1.0
#: What a pipe holds at most (``/proc/sys/fs/pipe-max-size``).
LAST_READS = (1 << 20) // READ_BYTES
#: What a process wrote before its end is there already and only has to be read.
LAST_WORDS_S = 0.2
#: A file is no pipe that says when there is something to read; a console is looked at by people.
LOOK_AT_FILE_S = 0.25

#: Detached children that were let go. Somebody has to collect their exit status while we live.
_let_go: list[subprocess.Popen[bytes]] = []


class MonitorProcess:
    """A running monitor, made by :meth:`spawn` or :meth:`attach`.

    A bound one is spawned on an event loop whose thread lives as long as the monitor may.
    """

    def __init__(
        self,
        pid: int,
        pidfd: int,
        console: ConsoleRing,
        *,
        child: subprocess.Popen[bytes] | None = None,
        file: ConsoleFile | None = None,
    ) -> None:
        """Takes ``pidfd`` and ``file``; the console is the child's pipe where there is no file."""
        loop = asyncio.get_running_loop()
        self._pid = pid
        self._pidfd = pidfd
        self._process = child
        self._console = console
        self._file = file
        self._loop = loop
        self._exit: asyncio.Future[VmmExit] = loop.create_future()
        self._output = -1
        self._look: asyncio.TimerHandle | None = None
        if child is not None and child.stdout is not None:
            self._output = child.stdout.fileno()
            os.set_blocking(self._output, False)
            loop.add_reader(self._output, self._read)
        if file is not None:
            self._look_at_file()
        loop.add_reader(pidfd, self._ended)

    @classmethod
    def spawn(cls, launch: Launch, *, cwd: Path, console: ConsoleRing) -> MonitorProcess:
        """Start a program in ``cwd``; its stdout and stderr go to ``console``. Raises :class:`~fc_kernel.errors.LaunchError`.

        A bound process gets SIGKILL when the calling thread ends: it does not outlive us, however we end.
        """
        _let_go[:] = [process for process in _let_go if process.poll() is None]
        with contextlib.ExitStack() as on_failure:
            file = None
            try:
                if launch.lifetime is Lifetime.DETACHED:
                    file = ConsoleFile.create(cwd)
                    on_failure.callback(file.close)
                with huge_pages(launch.huge_pages):
                    process = subprocess.Popen(
                        wrapped(launch.argv, launch.limits, launch.lifetime),
                        cwd=cwd,
                        env=dict(launch.env),
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE if file is None else file.fileno(),
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                        # Its sockets and files are for us alone, wherever it makes them.
                        umask=0o077,
                        pass_fds=tuple(launch.pass_fds),
                    )
            except OSError as error:
                raise LaunchError(f"cannot start {launch.argv[0]}: {error}") from error
            on_failure.callback(process.wait)
            on_failure.callback(process.kill)
            pidfd = os.pidfd_open(process.pid)
            on_failure.callback(os.close, pidfd)
            made = cls(process.pid, pidfd, console, child=process, file=file)
            on_failure.pop_all()
            return made

    @classmethod
    def attach(cls, run_dir: Path, console: ConsoleRing) -> MonitorProcess:
        """A detached monitor that another process spawned, by its journal entry; how it ends will not be known.

        The caller owns ``run_dir`` (holds its lock). Raises :class:`~fc_kernel.errors.StateError` where there is no entry or
        it is of a bound monitor, and :class:`~fc_kernel.errors.MonitorExited` when the process is gone.
        """
        entry = read_entry(run_dir)
        if entry is None or entry.lifetime != Lifetime.DETACHED:
            raise StateError(f"{run_dir} has no journal entry of a detached monitor")
        gone = MonitorExited(f"the monitor of {run_dir} has ended", returncode=None)
        with contextlib.ExitStack() as on_failure:
            try:
                pidfd = os.pidfd_open(entry.pid)
            except OSError:
                raise gone from None
            on_failure.callback(os.close, pidfd)
            # Checked after the pidfd is open: from here on the descriptor, not the number, is the process.
            if not entry.names(entry.pid):
                raise gone
            file = None
            # Without its console a monitor is still worth having.
            with contextlib.suppress(OSError):
                file = ConsoleFile.reopen(run_dir)
                on_failure.callback(file.close)
            made = cls(entry.pid, pidfd, console, file=file)
            on_failure.pop_all()
            return made

    @property
    def pid(self) -> int:
        """The process id; it is the program's own, the wrappers have exec'ed it."""
        return self._pid

    @property
    def exited(self) -> VmmExit | None:
        """How it ended, or ``None`` while it runs."""
        return self._exit.result() if self._exit.done() and self._exit.exception() is None else None

    def record(
        self,
        run_dir: Path,
        *,
        vm_id: str,
        monitor: str,
        labels: dict[str, str],
        lifetime: Lifetime = Lifetime.BOUND,
    ) -> None:
        """Write the journal's entry; call it when the program itself runs, not a wrapper.

        Raises :class:`~fc_kernel.errors.LaunchError` when the process is gone or the entry cannot be written.
        """
        try:
            entry = JournalEntry.of_process(self.pid, vm_id=vm_id, monitor=monitor, labels=labels, lifetime=lifetime)
            entry.write(run_dir)
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

    def detach(self) -> None:
        """Stop watching, and leave a detached process running for whoever attaches to it; nothing happens if it has ended.

        Raises :class:`~fc_kernel.errors.StateError` for a bound one, which would end with us.
        """
        if self._file is None:
            raise StateError("a bound monitor cannot be let go")
        if not self._exit.done():
            if self._process is not None:
                _let_go.append(self._process)
            self._loop.remove_reader(self._pidfd)
            self._exit.set_exception(StateError("the monitor was let go"))
            # Perhaps nobody waits.
            self._exit.exception()
        self._close()

    async def aclose(self) -> None:
        """Kill if it runs, reap, and close every descriptor, even when cancelled."""
        try:
            if not self._exit.done():
                await self.kill()
        finally:
            self._release()

    def _release(self) -> None:
        if not self._exit.done():
            # Cancelled, or stuck: what can still be done without waiting is done.
            self.send_signal(signal.SIGKILL)
            self._loop.remove_reader(self._pidfd)
            returncode = None
            if self._process is not None:
                try:
                    returncode = self._process.wait(STUCK_S)
                except subprocess.TimeoutExpired:
                    returncode = -signal.SIGKILL  # it is so, as soon as the kernel lets go of it
            self._exit.set_result(VmmExit(returncode, tuple(self._console.tail())))
        self._close()

    def _close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if self._look is not None:
            self._look.cancel()
        if self._file is not None:
            self._file.close()
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
        if self._process is not None and self._process.stdout is not None and not self._process.stdout.closed:
            self._loop.remove_reader(self._output)
            self._process.stdout.close()

    def _look_at_file(self) -> None:
        assert self._file is not None  # noqa: S101 - it is what is looked at
        # A disk that is full or broken costs console lines, no kernel.
        with contextlib.suppress(OSError):
            self._file.read_into(self._console)
        self._look = self._loop.call_later(LOOK_AT_FILE_S, self._look_at_file)

    def _ended(self) -> None:
        returncode = None
        if self._process is not None:
            returncode = self._process.poll()
            if returncode is None:
                return
        self._loop.remove_reader(self._pidfd)
        self._read_last_words()
        self._exit.set_result(VmmExit(returncode, tuple(self._console.tail())))

    def _read_last_words(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.read_into(self._console)
            return
        # A closed descriptor's number may be another file's by now, and a child that lives on may write for ever.
        for _ in range(LAST_READS):
            if self._process is None or self._process.stdout is None or self._process.stdout.closed:
                break
            try:
                data = os.read(self._output, READ_BYTES)
            except OSError:
                break
            if not data:
                break
            self._console.write(data)
