"""Running the programs that build an image, so that none outlives us or leaves files behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from ..errors import ImageBuildError

#: The programs that a build runs, and their Debian packages.
BUILD_PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "mkfs.erofs": "erofs-utils",
    "dpkg-deb": "dpkg",
    "depmod": "kmod",
    "tar": "tar",
    "unshare": "util-linux",
    "setpriv": "util-linux",
}
#: How much of a failed program's output goes into the error.
LAST_LINES = 6
LAST_LINE_CHARS = 300
#: A killed program's children end with it, which may take a moment.
REMOVAL_TIMEOUT_S = 10.0
#: Programs must not inherit the caller's umask: it would change the image.
UMASK = 0o022

#: Maps a line of output to the progress that it tells, or to ``None`` if it may explain an error.
Detail = Callable[[str], str | None]


class CommandFailed(Exception):
    """A program ended with another status than 0."""

    def __init__(self, step: str, status: int, lines: list[str]) -> None:
        self.step = step
        self.last_lines = " | ".join(lines) or f"exit status {status}"
        super().__init__(f"{step}: exit status {status}")


def missing_packages() -> list[str]:
    """The Debian packages that a build needs and this host lacks."""
    return sorted({package for program, package in BUILD_PROGRAMS.items() if which(program) is None})


def require_programs() -> None:
    """Raise :class:`~fc_kernel.errors.ImageBuildError` with the packages that are missing."""
    if missing := missing_packages():
        raise ImageBuildError(f"needs programs that are not installed: apt-get install {' '.join(missing)}")


def which(name: str) -> str | None:
    """As :func:`shutil.which`, but also looks in the directories of root's PATH."""
    return shutil.which(name, path=_path())


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


class Runner:
    """Runs programs with their output kept for the error message, and removes what they made."""

    def __init__(self, as_root: list[str], epoch: str) -> None:
        self._env = {**os.environ, "SOURCE_DATE_EPOCH": epoch, "LC_ALL": "C.UTF-8", "PATH": _path()}
        #: The prefix for a command that must be root over the files that it makes.
        self.as_root = as_root
        #: The pip of this environment, which knows the host's indexes and proxies.
        self.pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]

    def keep_temporaries_in(self, directory: Path) -> None:
        """Make programs put their temporary files there from now on."""
        self._env["TMPDIR"] = str(directory)

    def run(self, step: str, command: list[str], *, progress: Callable[[str], None], detail: Detail) -> None:
        """Run a program to its end; raises :class:`CommandFailed`. No process is left, whatever happens."""
        lines: deque[str] = deque(maxlen=LAST_LINES)
        with subprocess.Popen(
            # If we are killed, Linux kills the program, and with its namespaces all that it started.
            ["setpriv", "--pdeathsig", "KILL", "--", *command],
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            umask=UMASK,
            start_new_session=True,
        ) as process:
            try:
                assert process.stdout is not None  # noqa: S101 - a pipe was asked for
                for line in process.stdout:
                    if text := line.strip()[:LAST_LINE_CHARS]:
                        if (done := detail(text)) is not None:
                            progress(done)
                        else:
                            lines.append(text)
                status = process.wait()
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
        if status != 0:
            raise CommandFailed(step, status, list(lines))

    def remove_tree(self, path: Path) -> None:
        """Remove a directory, including files of other users of our namespace."""
        end = time.monotonic() + REMOVAL_TIMEOUT_S
        while os.path.lexists(path):
            # Never into a mount that a program may have left.
            command = [*self.as_root, "rm", "-rf", "--one-file-system", "--", str(path)]
            subprocess.run(command, check=False, capture_output=True)
            if time.monotonic() > end:
                break
            time.sleep(0 if not os.path.lexists(path) else 0.1)
