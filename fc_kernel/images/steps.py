"""Running the programs that build an image."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import deque
from pathlib import Path

from ..errors import ImageBuildError

#: Which Debian package brings a program.
PACKAGES = {"mmdebstrap": "mmdebstrap", "mkfs.erofs": "erofs-utils", "dpkg-deb": "dpkg", "depmod": "kmod", "tar": "tar"}
LAST_LINES = 6


class CommandFailed(Exception):
    """A program ended with another status than 0."""

    def __init__(self, step: str, status: int, lines: list[str]) -> None:
        self.step = step
        self.last_lines = " | ".join(lines) or f"exit status {status}"
        super().__init__(f"{step}: exit status {status}")


def require_programs(*names: str) -> None:
    """Raise :class:`~fc_kernel.errors.ImageBuildError` that names the packages of the programs that are missing."""
    missing = [PACKAGES[name] for name in names if which(name) is None]
    if missing:
        raise ImageBuildError(f"needs programs that are not installed: apt-get install {' '.join(missing)}")


def which(name: str) -> str | None:
    """As :func:`shutil.which`, also where only root's PATH leads."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


class Runner:
    """Runs programs with their output kept for the error message, and removes what they made."""

    def __init__(self, staging: Path, epoch: str) -> None:
        self._env = {**os.environ, "SOURCE_DATE_EPOCH": epoch, "TMPDIR": str(staging), "LC_ALL": "C.UTF-8"}
        self._env["PATH"] = f"{self._env.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        #: In front of a command that has to look like root to the files that it makes.
        self.as_root = [] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--map-auto", "--"]
        #: The pip of this environment, which knows the host's indexes and proxies.
        self.pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]

    def run(self, step: str, command: list[str]) -> None:
        """Run to the end; raises :class:`CommandFailed`."""
        lines: deque[str] = deque(maxlen=LAST_LINES)
        with subprocess.Popen(
            command,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            try:
                assert process.stdout is not None  # noqa: S101 - a pipe was asked for
                for line in process.stdout:
                    if line.strip():
                        lines.append(line.strip()[:300])
                status = process.wait()
            except BaseException:
                process.kill()
                raise
        if status != 0:
            raise CommandFailed(step, status, list(lines))

    def remove_tree(self, path: Path) -> None:
        """Remove a directory, also what belongs to other users of our namespace."""
        if self.as_root and path.exists():
            subprocess.run([*self.as_root, "rm", "-rf", str(path)], check=False, capture_output=True)
        shutil.rmtree(path, ignore_errors=True)
