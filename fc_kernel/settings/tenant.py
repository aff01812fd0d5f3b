"""The tenant: one user's directories, limits and policy, passed down and never looked up."""

from __future__ import annotations

import getpass
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.paths import cache_dir, data_dir, runtime_path
from .config import FcKernelConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class Tenant:
    """One owner of kernels and snapshots on this host. Two tenants of one process share nothing but code.

    ``data_dir`` holds snapshots and templates, ``image_dir`` images, ``cache_dir`` what can be made again, ``run_dir`` the
    private directories of running VMs. ``config`` has the limits and the policy; it does not change any more. Tenants are
    equal when all of these are equal, the configuration by its values.
    """

    owner: str
    data_dir: Path
    image_dir: Path
    cache_dir: Path
    run_dir: Path
    config: FcKernelConfig

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tenant) and (self._key, self._policy) == (other._key, other._policy)

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[str, Path, Path, Path, Path]:
        return self.owner, self.data_dir, self.image_dir, self.cache_dir, self.run_dir

    @property
    def _policy(self) -> dict[str, Any]:
        return {name: getattr(self.config, name) for name in self.config.class_trait_names(config=True)}

    @classmethod
    def of_this_process(cls, config: FcKernelConfig) -> Tenant:
        """The user of this process, with the directories that its environment names. None of them is made or checked here."""
        return cls(
            owner=user_name(),
            data_dir=data_dir(),
            image_dir=data_dir() / "images",
            cache_dir=cache_dir(),
            run_dir=runtime_path(),
            config=config,
        )


def user_name() -> str:
    """The name of this process's user, or ``uid-`` and its number where the system knows no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.geteuid()}"
