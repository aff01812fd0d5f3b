"""Where a monitor's program runs: in a *place* that an executor makes for it.

A file or socket has two names, ours and the monitor's; the :class:`Place` translates between them. So the same driver can
run its monitor directly, as our own process in the run directory, or in a jail, where

- the monitor's root is a directory of its own, which has only the files that were admitted (linked into the jail);
- what the monitor writes is moved out of the jail afterwards;
- its uid is not ours, so that we need to be given access to its sockets;
- a helper forks it and closes every descriptor but 0 to 2, so that its pid comes from a file and nothing is inherited.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..base.paths import MAX_SOCKET_PATH_BYTES
from ..errors import LaunchError
from .base import BootPlan
from .console import ConsoleRing
from .launch import Launch
from .process import MonitorProcess

#: How often to try a socket that the monitor has not made yet; it does so a few milliseconds after its start.
CONNECT_EVERY_S = 0.002
#: The socket does not exist, nobody listens yet, or others wait to be accepted.
NOT_YET = (FileNotFoundError, ConnectionRefusedError, BlockingIOError)


class Place(ABC):
    """The place of one VM. Drivers assume nothing else about where their monitor runs.

    ``directory`` is the monitor's working directory as the host sees it. What the monitor is told to make under a plain name (a
    socket, a log) appears there under that name.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @abstractmethod
    def admit(self, path: Path, *, writable: bool = False) -> Path:
        """Let the monitor open a file of the host; returns the monitor's path of it.

        It stays admitted until the place is closed. Raises :class:`~fc_kernel.errors.LaunchError`.
        """

    @abstractmethod
    def receiving(self, paths: Sequence[Path]) -> contextlib.AbstractContextManager[list[Path]]:
        """Let the monitor write new files: in the block it writes to the paths given, afterwards the files are at ``paths``.

        When the block raises, no file is left. Raises :class:`~fc_kernel.errors.MonitorError` when one cannot be moved out.
        """

    @abstractmethod
    async def spawn(self, launch: Launch, console: ConsoleRing) -> MonitorProcess:
        """Start the monitor; the paths in ``launch`` are the monitor's. Raises :class:`~fc_kernel.errors.LaunchError`."""

    @abstractmethod
    async def aclose(self) -> None:
        """Undo what was admitted, after the monitor has ended; may be called twice."""

    def admitted(self, plan: BootPlan) -> BootPlan:
        """Admit every file of the plan; returns the plan with the monitor's paths."""
        spec = plan.spec
        drives = tuple(
            drive.model_copy(
                update={"path_on_host": self.admit(drive.path_on_host, writable=not drive.is_read_only)},
            )
            for drive in spec.extra_drives
        )
        changes: dict[str, object] = {"extra_drives": drives}
        if spec.kernel is not None:
            changes["kernel"] = self.admit(spec.kernel)
        if spec.rootfs is not None:
            changes["rootfs"] = self.admit(spec.rootfs, writable=not spec.rootfs_read_only)
        initrd = None if plan.initrd is None else self.admit(plan.initrd)
        return replace(plan, spec=spec.model_copy(update=changes), initrd=initrd)

    async def connect(self, name: str) -> socket.socket:
        """Connect to a Unix socket that the monitor makes in its directory; tries until it exists or the caller cancels.

        Afterwards only we can use the socket (0600). Raises :class:`~fc_kernel.errors.LaunchError` when its path is too long,
        or the connection fails.
        """
        path = self.directory / name
        length = len(os.fsencode(path))
        if length > MAX_SOCKET_PATH_BYTES:
            raise LaunchError(
                f"the socket's path {str(path)!r} has {length} bytes, and may have {MAX_SOCKET_PATH_BYTES}; "
                "set FC_KERNEL_RUNTIME_DIR to a shorter path"
            )
        loop = asyncio.get_running_loop()
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            try:
                await loop.sock_connect(sock, str(path))
                self.keep_private(path)
            except NOT_YET:
                sock.close()
            except OSError as error:
                sock.close()
                raise LaunchError(f"cannot connect to {path}: {error.strerror}") from error
            except BaseException:
                sock.close()
                raise
            else:
                return sock
            await asyncio.sleep(CONNECT_EVERY_S)

    def keep_private(self, path: Path) -> None:
        """Make sure that nobody but us can connect to a socket of the monitor."""
        path.chmod(0o600)


class Executor(ABC):
    """Makes places; one executor serves all VMs of a host."""

    @abstractmethod
    async def place(self, plan: BootPlan) -> Place:
        """Make the place of a VM whose run directory exists. Raises :class:`~fc_kernel.errors.LaunchError`."""


class DirectPlace(Place):
    """The run directory: the monitor is our child with our uid and root, so both sides use the same paths."""

    def admit(self, path: Path, *, writable: bool = False) -> Path:
        """The same path."""
        return path

    @contextlib.contextmanager
    def receiving(self, paths: Sequence[Path]) -> Iterator[list[Path]]:
        """The same paths."""
        try:
            yield list(paths)
        except BaseException:
            for path in paths:
                path.unlink(missing_ok=True)
            raise

    async def spawn(self, launch: Launch, console: ConsoleRing) -> MonitorProcess:
        """Start our child process."""
        return MonitorProcess.spawn(launch, cwd=self.directory, console=console)

    async def aclose(self) -> None:
        """Do nothing: no file was moved."""


class DirectExecutor(Executor):
    """Runs monitors as our own processes."""

    async def place(self, plan: BootPlan) -> Place:
        """The VM's run directory."""
        return DirectPlace(plan.run_dir)
