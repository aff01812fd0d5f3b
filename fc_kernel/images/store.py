"""The image store: one directory for each image, published as a whole by a rename."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..base.verified import VerifiedFiles
from ..errors import ImageBuildError, ImageCorrupt, ImageError, ImageNotFound, SpecError
from ..settings.spec import NAME_PATTERN
from ..settings.tenant import Tenant
from .manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, ImageManifest, sha256_of
from .staging import REMOVED_PREFIX

ROLES = ("kernel", "initrd", "rootfs")


@dataclass(frozen=True)
class Image:
    """One image in the store."""

    name: str
    path: Path
    manifest: ImageManifest

    def _file(self, role: str) -> Path:
        return self.path / self.manifest.part(role).file

    @property
    def kernel(self) -> Path:
        """The uncompressed kernel."""
        return self._file("kernel")

    @property
    def initrd(self) -> Path:
        """The initramfs without the agent."""
        return self._file("initrd")

    @property
    def rootfs(self) -> Path:
        """The read-only root file system."""
        return self._file("rootfs")

    @property
    def boot_args(self) -> str:
        """What the image needs on Linux's command line."""
        return self.manifest.boot_args

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"path": str(self.path), **self.manifest.model_dump(mode="json")}


def check_name(name: str) -> str:
    """Return the name if it is valid; raises :class:`~fc_kernel.errors.SpecError`."""
    if not re.fullmatch(NAME_PATTERN, name) or name.endswith("\n"):
        raise SpecError("image", name, "1 to 64 of A-Z a-z 0-9 . _ -, starting with a letter or digit")
    return name


class ImageStore:
    """Images by name; nothing outside ``root`` is ever opened. ``cache_dir`` holds the digests of verified files."""

    def __init__(self, root: Path, cache_dir: Path) -> None:
        self.root = root
        self._records = VerifiedFiles(cache_dir)

    @classmethod
    def of(cls, tenant: Tenant) -> ImageStore:
        """The tenant's images."""
        return cls(tenant.image_dir, tenant.cache_dir)

    def has(self, name: str) -> bool:
        """Whether there is an image of that name, intact or not."""
        return os.path.lexists(self.root / check_name(name))

    def names(self) -> list[str]:
        """The names of all images, intact or not."""
        found = self.root.iterdir() if self.root.is_dir() else ()
        return sorted(path.name for path in found if re.fullmatch(NAME_PATTERN, path.name))

    def images(self) -> Iterator[Image | ImageCorrupt]:
        """All images, sorted by name; an image with an unusable manifest is given as its error."""
        for name in self.names():
            try:
                yield self.get(name)
            except ImageCorrupt as error:
                yield error
            except ImageNotFound:
                # Removed meanwhile.
                continue

    def get(self, name: str) -> Image:
        """The image; raises :class:`~fc_kernel.errors.ImageNotFound` or :class:`~fc_kernel.errors.ImageCorrupt`."""
        path = self.root / check_name(name)
        manifest_path = path / MANIFEST_NAME
        try:
            if path.is_symlink():
                raise ImageCorrupt(f"image {name!r}: {path} is a link; nothing outside {self.root} is used")
            with manifest_path.open("rb") as file:
                text = file.read(MAX_MANIFEST_BYTES)
        except FileNotFoundError:
            build = "fc-kernel image build" + ("" if name == "default" else f" --name {name}")
            raise ImageNotFound(f"there is no image {name!r}; build it with: {build}") from None
        except OSError as error:
            raise ImageCorrupt(f"image {name!r}: cannot read {manifest_path}: {error.strerror}") from error
        try:
            manifest = ImageManifest.model_validate_json(text)
            for role in ROLES:
                manifest.part(role)
        except (ValidationError, KeyError) as error:
            first = str(error).splitlines()[0]
            raise ImageCorrupt(f"image {name!r}: {manifest_path} is damaged ({first}); build the image again") from None
        return Image(name, path, manifest)

    def verify(self, image: Image, *, unless_unchanged: bool = False) -> None:
        """Hash every file; raises :class:`~fc_kernel.errors.ImageCorrupt` with the file's name and both digests.

        With ``unless_unchanged`` a file that was hashed within a day and has not changed since is not read again.
        """
        hash_of = self._records.sha256_of if unless_unchanged else sha256_of
        for part in image.manifest.parts:
            path = image.path / part.file
            again = f"build it again with: fc-kernel image build --name {image.name} --replace"
            try:
                if path.is_symlink() or not path.is_file():
                    raise ImageCorrupt(f"image {image.name!r}: {path} is missing; {again}")
                found = hash_of(path)
            except OSError as error:
                raise ImageCorrupt(f"image {image.name!r}: cannot read {path}: {error.strerror}; {again}") from error
            if found != part.sha256:
                raise ImageCorrupt(
                    f"image {image.name!r}: {path} has the SHA-256 {found}, its manifest says {part.sha256}; {again}"
                )

    def find_current(self, name: str, recipe: str) -> Image | None:
        """The image if it is intact and was made by this recipe; ``None`` when it has to be built."""
        try:
            image = self.get(name)
            self.verify(image)
        except ImageError:
            return None
        return image if image.manifest.recipe == recipe else None

    def publish(self, name: str, staged: Path, *, replace: bool) -> Image:
        """Give a finished image its name; raises :class:`~fc_kernel.errors.ImageBuildError` if the name is taken.

        With ``replace`` an old image of that name is removed; a VM that runs from it keeps its files open.
        """
        target = self.root / check_name(name)
        with self._locked():
            old = None
            if os.path.lexists(target):
                if not replace:
                    raise ImageBuildError(
                        f"the image {name!r} was built by someone else meanwhile; it is left as it is"
                    )
                old = self._put_aside(target)
            try:
                staged.rename(target)
            except OSError:
                if old is not None:
                    old.rename(target)
                raise
            image = self.get(name)
        if old is not None:
            _remove(old)
        return image

    def remove(self, name: str) -> None:
        """Remove an image; raises :class:`~fc_kernel.errors.ImageNotFound`. A VM that runs from it is not affected."""
        path = self.root / check_name(name)
        try:
            with self._locked():
                aside = self._put_aside(path)
        except FileNotFoundError:
            raise ImageNotFound(f"there is no image {name!r}") from None
        except OSError as error:
            raise ImageError(f"cannot remove the image {name!r}: {error}") from error
        _remove(aside)

    def _put_aside(self, path: Path) -> Path:
        # Renamed first, so that nobody sees half an image; the next build completes a removal that was killed.
        aside = self.root / f"{REMOVED_PREFIX}{path.name}-{secrets.token_hex(4)}"
        path.rename(aside)
        return aside

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock under which names are given and removed."""
        lock = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
