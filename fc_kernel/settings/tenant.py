"""Whose kernels they are: one user's directories, limits and policy, passed down and never looked up."""

from __future__ import annotations

import getpass
import os
from dataclasses import dataclass
from pathlib import Path

from ..base.paths import cache_dir, data_dir, runtime_dir
from .config import FcKernelConfig


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """One owner of kernels and snapshots on this host. Two tenants of one process share nothing but code.

    ``data_dir`` holds snapshots and templates, ``image_dir`` images, ``cache_dir`` what can be made again, ``run_dir`` the
    private directories of running VMs. ``config`` has the limits and the policy.
    """

    owner: str
    data_dir: Path
    image_dir: Path
    cache_dir: Path
    run_dir: Path
    config: FcKernelConfig

    @classmethod
    def of_this_process(cls, config: FcKernelConfig) -> Tenant:
        """The user of this process, with the directories that its environment names.

        Raises :class:`~fc_kernel.errors.RunDirError` when the run directory is not private.
        """
        return cls(
            owner=user_name(),
            data_dir=data_dir(),
            image_dir=data_dir() / "images",
            cache_dir=cache_dir(),
            run_dir=runtime_dir(),
            config=config,
        )


def user_name() -> str:
    """The name of this process's user, or ``uid-`` and its number where the system knows no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.geteuid()}"
