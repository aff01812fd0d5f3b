"""Where a monitor's program runs: in the place that an executor makes for it.

A file or socket has two names, ours and the monitor's; a driver asks the :class:`Place` for one from the other. So the same
driver runs its monitor directly, as our own process in the run directory, or in a jail, where

- the monitor's root is a directory of its own, and a file is there only when it was admitted (linked into the jail);
- what the monitor writes is fetched from the jail afterwards;
- its uid is another than ours, so that its sockets have to be opened to us;
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

#: How often a socket is tried that the monitor has not made yet; it does so a few milliseconds after its start.
CONNECT_EVERY_S = 0.002
#: It is not there, nobody listens on it yet, or others wait to be accepted.
NOT_YET = (FileNotFoundError, ConnectionRefusedError, BlockingIOError)


class Place(ABC):
    """One VM's place. The driver makes no other assumption about where its monitor runs.

    ``directory`` is the monitor's working directory as the host sees it. What the monitor is told to make under a plain name (a
    socket, a log) appears there under that name.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @abstractmethod
    def admit(self, path: Path, *, writable: bool = False) -> Path:
        """Let the monitor open a file of the host; the answer is the path by which the monitor has to name it.

        It stays admitted until the place is closed. Raises :class:`~fc_kernel.errors.LaunchError`.
        """

    @abstractmethod
    def receiving(self, paths: Sequence[Path]) -> contextlib.AbstractContextManager[list[Path]]:
        """Let the monitor write new files: in the block they have the names it is given, afterwards they are at ``paths``.

        When the block raises, no file is left. Raises :class:`~fc_kernel.errors.MonitorError` when one cannot be brought over.
        """

    @abstractmethod
    async def spawn(self, launch: Launch, console: ConsoleRing) -> MonitorProcess:
        """Start the monitor, in whose words paths are its own. Raises :class:`~fc_kernel.errors.LaunchError`."""

    @abstractmethod
    async def aclose(self) -> None:
        """Take back what was admitted; the monitor has ended. Nothing happens the second time."""

    def admitted(self, plan: BootPlan) -> BootPlan:
        """The plan with every file of it admitted, and named as the monitor has to name it."""
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
        """Connect to a Unix socket that the monitor makes in its directory; tries until it is there, or the caller gives up.

        The socket is for us alone afterwards (0600). Raises :class:`~fc_kernel.errors.LaunchError` when its path is too long
        for a socket, or it cannot be connected to.
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
        """See to it that nobody but us connects to a socket of the monitor's."""
        path.chmod(0o600)


class Executor(ABC):
    """Makes places. One serves all VMs of a host."""

    @abstractmethod
    async def place(self, plan: BootPlan) -> Place:
        """The place for one VM, whose run directory exists. Raises :class:`~fc_kernel.errors.LaunchError`."""


class DirectPlace(Place):
    """The run directory: the monitor is a child of ours with our uid and root, so both sides have the same names."""

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
        """A child of ours."""
        return MonitorProcess.spawn(launch, cwd=self.directory, console=console)

    async def aclose(self) -> None:
        """Nothing was brought anywhere."""


class DirectExecutor(Executor):
    """Runs monitors as our own processes."""

    async def place(self, plan: BootPlan) -> Place:
        """The VM's run directory."""
        return DirectPlace(plan.run_dir)
