"""The initramfs: made once for an image from its kernel's modules; the agent is added at each start."""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

from ..errors import ImageBuildError
from ..guest.payload import guest_files
from .cpio import Entry, archive
from .manifest import sha256_of
from .store import Image

#: The modules that a guest needs for its root, its channels and its entropy; a kernel may have some built in.
WANTED_MODULES = (
    "virtio_mmio",
    "virtio_blk",
    "virtio_console",
    "virtio-rng",
    "virtio_net",
    "vmw_vsock_virtio_transport",
    "erofs",
    "overlay",
)
#: Mount points, and a console that Linux opens before devtmpfs is mounted.
DIRECTORIES = ("dev", "proc", "sys", "run", "ro", "rw", "newroot")


def base_initramfs(busybox: Path, modules_dir: Path) -> bytes:
    """An archive with busybox, the init script and the modules below ``modules_dir``, in load order.

    Raises :class:`~fc_kernel.errors.ImageBuildError` for a kernel that lacks a module.
    """
    entries = {
        "init": Entry(init_script(), 0o755),
        "bin/busybox": Entry(busybox.read_bytes(), 0o755),
        "dev/console": Entry(mode=0o600, device=(5, 1)),
    }
    entries.update({f"{name}/.keep": Entry() for name in DIRECTORIES})
    order = load_order(modules_dir, WANTED_MODULES)
    for path in order:
        entries[f"modules/{path.name}"] = Entry(path.read_bytes())
    entries["modules/order"] = Entry("".join(f"{path.name}\n" for path in order).encode())
    return archive(entries)


def init_script() -> bytes:
    """``/init`` of the initramfs."""
    return files(__package__).joinpath("init.sh").read_bytes()


def load_order(modules_dir: Path, wanted: Iterable[str]) -> list[Path]:
    """The modules and what they depend on, dependencies first (``man 5 modules.dep``)."""
    depends: dict[str, list[str]] = {}
    for line in (modules_dir / "modules.dep").read_text().splitlines():
        name, _, needs = line.partition(":")
        depends[name] = needs.split()
    by_name = {Path(name).name.partition(".ko")[0].replace("-", "_"): name for name in depends}
    built_in = {
        Path(line).name.partition(".ko")[0].replace("-", "_")
        for line in (modules_dir / "modules.builtin").read_text().splitlines()
    }
    order: list[str] = []
    for module in wanted:
        key = module.replace("-", "_")
        if key in built_in:
            continue
        if key not in by_name:
            raise ImageBuildError(f"the guest kernel has no module {module}")
        # modules.dep lists the nearest dependency first, so the last one is loaded first.
        for name in [*reversed(depends[by_name[key]]), by_name[key]]:
            if name not in order:
                order.append(name)
    return [modules_dir / name for name in order]


@functools.cache
def _agent(also: tuple[str, ...] = ()) -> bytes:
    """An archive with this package's agent; it does not change while the process lives."""
    return archive({f"fc/{name}": Entry(data) for name, data in guest_files(also).items()})


def agent_digest(image: Image, also: Sequence[str] = ()) -> str:
    """A digest of the first programs of a guest of this image: its initramfs and the agent."""
    return hashlib.sha256(image.manifest.part("initrd").sha256.encode() + _agent(tuple(also))).hexdigest()


def boot_initrd(image: Image, cache_dir: Path, also: Sequence[str] = ()) -> Path:
    """A file with the image's initramfs and an archive of the agent, in the cache under the digest of both.

    Linux unpacks one archive after the other, so the agent is always this package's own. ``also`` is as for
    :func:`~fc_kernel.guest.payload.guest_files`.
    """
    agent = _agent(tuple(also))
    digest = agent_digest(image, also)
    directory = cache_dir / "initrd"
    target = directory / f"{digest}.img"
    content = None
    if target.is_file():
        content = image.initrd.read_bytes() + agent
        if target.stat().st_size == len(content) and sha256_of(target) == hashlib.sha256(content).hexdigest():
            return target
    content = content or image.initrd.read_bytes() + agent
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, staged = tempfile.mkstemp(dir=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(staged).replace(target)
    except BaseException:
        Path(staged).unlink(missing_ok=True)
        raise
    return target
