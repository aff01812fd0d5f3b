"""The content of an image's ``manifest.json``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MANIFEST_NAME = "manifest.json"
#: A manifest has a few kilobytes; a larger file is not ours.
MAX_MANIFEST_BYTES = 1 << 20


class Part(BaseModel):
    """One file of an image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["kernel", "initrd", "rootfs"]
    file: str = Field(pattern=r"^[a-z][a-z0-9.]{0,40}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=1)

    @classmethod
    def of(cls, role: Literal["kernel", "initrd", "rootfs"], path: Path) -> Part:
        """The part with this role and the digest of the file."""
        return cls(role=role, file=path.name, sha256=sha256_of(path), size_bytes=path.stat().st_size)


class ImageManifest(BaseModel):
    """The files' digests, and what the image was made from. ``recipe`` changes when a new build would differ."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    name: str
    created: str
    recipe: str
    kernel_release: str
    python: str
    boot_args: str
    source: str = "debian"
    packages: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    parts: tuple[Part, ...]

    def part(self, role: str) -> Part:
        """The part with this role; raises :class:`KeyError`."""
        for part in self.parts:
            if part.role == role:
                return part
        raise KeyError(role)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits; raises :class:`OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
