"""A monitor's process: watched through a pidfd, whether we spawned it or attached to it, and never leaked."""

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
#: A killed process that still exists after this time is stuck in the kernel; the loop does not wait for it.
STUCK_S = 1.0
#: The most that a pipe holds (``/proc/sys/fs/pipe-max-size``).
LAST_READS = (1 << 20) // READ_BYTES
#: For reading what a process wrote before its end, which is in the pipe already.
LAST_WORDS_S = 0.2
#: How often a console file is read: a file, unlike a pipe, does not say when there is something to read.
LOOK_AT_FILE_S = 0.25

#: Detached children that are not watched any more: their exit status still has to be collected.
_let_go: list[subprocess.Popen[bytes]] = []


class MonitorProcess:
    """A running monitor, made by :meth:`spawn` or :meth:`attach`.

    A bound one must be spawned on a thread that lives at least as long as the monitor should.
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
        """Take over ``pidfd`` and ``file``; without a file the console is the child's pipe."""
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

        A bound process gets SIGKILL when the calling thread ends, so it never outlives us.
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
                        # Only we may use its sockets and files, wherever it makes them.
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
        """Attach to a detached monitor that another process spawned, by its journal entry; its exit status will be unknown.

        The caller holds the lock of ``run_dir``. Raises :class:`~fc_kernel.errors.StateError` if there is no entry or the
        monitor is a bound one, and :class:`~fc_kernel.errors.MonitorExited` if the process is gone.
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
            # Checked after the pidfd is open: from now on the descriptor, not the number, identifies the process.
            if not entry.names(entry.pid):
                raise gone
            file = None
            # A monitor without its console is still useful.
            with contextlib.suppress(OSError):
                file = ConsoleFile.reopen(run_dir)
                on_failure.callback(file.close)
            made = cls(entry.pid, pidfd, console, file=file)
            on_failure.pop_all()
            return made

    @property
    def pid(self) -> int:
        """The process id; it is the program's own, because the wrappers exec it."""
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
        """Write the journal entry; call it when the program itself runs, not a wrapper.

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
                # Its last words say more than its exit status, and may still be in the socket.
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
        """Kill (SIGKILL) and reap."""
        self.send_signal(signal.SIGKILL)
        async with asyncio.timeout(REAP_DEADLINE_S):
            return await self.wait()

    def detach(self) -> None:
        """Stop watching, and leave a detached process running for another owner; nothing happens if it has ended.

        Raises :class:`~fc_kernel.errors.StateError` for a bound process, which would end with us.
        """
        if self._file is None:
            raise StateError("a bound monitor cannot be let go")
        if not self._exit.done():
            if self._process is not None:
                _let_go.append(self._process)
            self._loop.remove_reader(self._pidfd)
            self._exit.set_exception(StateError("the monitor was let go"))
            # Retrieved, because perhaps nobody waits.
            self._exit.exception()
        self._close()

    async def aclose(self) -> None:
        """Kill the process if it runs, reap it, and close every descriptor, even when cancelled."""
        try:
            if not self._exit.done():
                await self.kill()
        finally:
            self._release()

    def _release(self) -> None:
        if not self._exit.done():
            # Cancelled, or stuck: do what needs no waiting.
            self.send_signal(signal.SIGKILL)
            self._loop.remove_reader(self._pidfd)
            returncode = None
            if self._process is not None:
                try:
                    returncode = self._process.wait(STUCK_S)
                except subprocess.TimeoutExpired:
                    returncode = -signal.SIGKILL  # as it will be once it is not stuck any more
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
        # A full or broken disk costs lines of the console, but no kernel.
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
        # A closed descriptor's number may be another file's by now, and a surviving child may write for ever.
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
