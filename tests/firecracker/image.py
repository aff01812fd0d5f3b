"""An image store whose image is the bare-metal guest."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fc_kernel.images.manifest import ImageManifest, Part

#: A file that is no part of the tests' guest but has to be there.
PLACEHOLDER = bytes(4096)


def put_image(data_dir: Path, guest: Path) -> None:
    """Make the program ``guest`` the kernel of the image "default" in a data directory."""
    image = data_dir / "images" / "default"
    image.mkdir(parents=True)
    files = {"kernel": guest.read_bytes(), "initrd": PLACEHOLDER, "rootfs": PLACEHOLDER}
    for name, content in files.items():
        (image / name).write_bytes(content)
    manifest = ImageManifest(
        name="default",
        created="2026-01-01T00:00:00+00:00",
        recipe=hashlib.sha256(files["kernel"]).hexdigest(),
        kernel_release="bare",
        python="none",
        boot_args="",
        parts=(
            Part.of("kernel", image / "kernel"),
            Part.of("initrd", image / "initrd"),
            Part.of("rootfs", image / "rootfs"),
        ),
    )
    (image / "manifest.json").write_text(manifest.model_dump_json())
