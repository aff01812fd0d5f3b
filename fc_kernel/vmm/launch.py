"""How a monitor's program is started: its limits, its lifetime, and the wrappers around its command line."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from ..errors import ConfigError
from ..settings.spec import VmSpec

#: A monitor has a few descriptors for each drive and connection.
MAX_OPEN_FILES = 4096
#: A snapshot's memory file is as large as the guest's memory; a write beyond the limit kills the monitor.
FILE_SIZE_SLACK_BYTES = 16 << 20
#: ``linux/prctl.h``
PR_SET_THP_DISABLE = 41


class Lifetime(StrEnum):
    """Whether a monitor outlives the process that started it."""

    #: It gets SIGKILL when the thread that spawned it ends for any reason. Its console is a pipe to us.
    BOUND = "bound"
    #: It goes on running; another process can attach to it by its journal entry. Its console is a file in the run directory.
    DETACHED = "detached"


@dataclass(frozen=True)
class ResourceLimits:
    """Limits that Linux enforces on the monitor process."""

    max_file_bytes: int
    max_open_files: int = MAX_OPEN_FILES

    @classmethod
    def for_guest(cls, spec: VmSpec, *also: Path) -> ResourceLimits:
        """Limits that let a guest of this spec write its drives, and the monitor a snapshot of its memory.

        ``also`` names existing files that are as large as a file that the monitor may write, such as a snapshot's memory.
        """
        written = [drive.path_on_host for drive in spec.extra_drives if not drive.is_read_only]
        if spec.rootfs is not None and not spec.rootfs_read_only:
            written.append(spec.rootfs)
        sizes = [path.stat().st_size for path in (*written, *also) if path.exists()]
        return cls(max_file_bytes=max((spec.mem_size_mib or 0) << 20, *sizes, 0) + FILE_SIZE_SLACK_BYTES)


@dataclass(frozen=True, kw_only=True)
class Launch:
    """The program that a driver wants started, with its arguments; paths are as the monitor sees them."""

    argv: Sequence[str]
    limits: ResourceLimits
    lifetime: Lifetime = Lifetime.BOUND
    #: The whole environment; by default a PATH and nothing else.
    env: Mapping[str, str] = field(default_factory=lambda: {"PATH": os.environ.get("PATH", os.defpath)})
    #: Descriptors that the monitor inherits. A jail closes them, so a driver that needs one cannot run in a jail.
    pass_fds: Sequence[int] = ()
    #: Whether Linux may give it huge pages.
    huge_pages: bool = True


def wrapped(argv: Sequence[str], limits: ResourceLimits, lifetime: Lifetime = Lifetime.BOUND) -> list[str]:
    """``argv`` behind util-linux's ``setpriv`` and ``prlimit``, which set the limits and exec the rest.

    Raises :class:`~fc_kernel.errors.ConfigError` where they are missing.
    """
    setpriv, prlimit = shutil.which("setpriv"), shutil.which("prlimit")
    if setpriv is None or prlimit is None:
        raise ConfigError("setpriv and prlimit are needed: apt-get install util-linux")
    return [
        *([setpriv, "--pdeathsig", "KILL", "--"] if lifetime is Lifetime.BOUND else []),
        prlimit, "--core=0", f"--nofile={limits.max_open_files}", f"--fsize={limits.max_file_bytes}", "--",
        *argv,
    ]  # fmt: skip


@contextlib.contextmanager
def huge_pages(wanted: bool) -> Iterator[None]:
    """Whether processes spawned in the block may have huge pages. They inherit this from us, so it holds for us meanwhile."""
    if wanted:
        yield
        return
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0)
