"""The image store: a directory for each image, published whole by a rename."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import ImageCorrupt, ImageError, ImageNotFound, SpecError
from ..paths import data_dir
from ..spec import NAME_PATTERN
from .manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, ImageManifest, sha256_of

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
        """What the image needs on the kernel's command line."""
        return self.manifest.boot_args

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"path": str(self.path), **self.manifest.model_dump(mode="json")}


def check_name(name: str) -> str:
    """The name, if it is one; raises :class:`~fc_kernel.errors.SpecError`."""
    import re

    if not re.fullmatch(NAME_PATTERN, name) or name.endswith("\n"):
        raise SpecError("image", name, "1 to 64 of A-Z a-z 0-9 . _ -, starting with a letter or digit")
    return name


class ImageStore:
    """Images by name; nothing outside ``root`` is ever opened."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or data_dir() / "images"

    def list(self) -> list[Image]:
        """All images whose manifest can be read, by name."""
        images = []
        for path in sorted(self.root.iterdir()) if self.root.is_dir() else ():
            if not path.name.startswith("."):
                try:
                    images.append(self.get(path.name))
                except ImageError:
                    continue
        return images

    def get(self, name: str) -> Image:
        """The image; raises :class:`~fc_kernel.errors.ImageNotFound` or :class:`~fc_kernel.errors.ImageCorrupt`."""
        path = self.root / check_name(name)
        manifest_path = path / MANIFEST_NAME
        try:
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

    def verify(self, image: Image) -> None:
        """Hash every file; raises :class:`~fc_kernel.errors.ImageCorrupt` that names the file and both digests."""
        for part in image.manifest.parts:
            path = image.path / part.file
            again = f"build it again with: fc-kernel image build --name {image.name} --replace"
            try:
                if path.is_symlink() or not path.is_file():
                    raise ImageCorrupt(f"image {image.name!r}: {path} is missing; {again}")
                found = sha256_of(path)
            except OSError as error:
                raise ImageCorrupt(f"image {image.name!r}: cannot read {path}: {error.strerror}; {again}") from error
            if found != part.sha256:
                raise ImageCorrupt(
                    f"image {image.name!r}: {path} has the SHA-256 {found}, its manifest says {part.sha256}; {again}"
                )

    def find_current(self, name: str, recipe: str) -> Image | None:
        """The image if it is sound and was made by this recipe; ``None`` when it has to be built."""
        try:
            image = self.get(name)
            self.verify(image)
        except ImageError:
            return None
        return image if image.manifest.recipe == recipe else None

    def remove(self, name: str) -> None:
        """Remove an image; raises :class:`~fc_kernel.errors.ImageNotFound`."""
        path = self.root / check_name(name)
        if not path.is_dir():
            raise ImageNotFound(f"there is no image {name!r}")
        # First out of sight, so that half an image is never seen.
        doomed = self.root / f".removed-{name}"
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
        shutil.rmtree(doomed)
