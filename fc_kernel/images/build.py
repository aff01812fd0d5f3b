"""Building images: Debian by ``mmdebstrap``, Python packages by the host's ``pip``, the file system by ``mkfs.erofs``.

The build works in a staging directory inside the store, which one rename turns into the image; else it is removed.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from ..errors import ImageBuildError
from . import debian, wheels
from .initramfs import base_initramfs, init_script
from .kernel import find_kernel, uncompressed
from .manifest import MANIFEST_NAME, ImageManifest, Part
from .namespaces import root_namespaces
from .request import BuildRequest
from .rootfs import EPOCH, find_python, mkfs_command, tar_command
from .staging import staging_dir, sweep
from .steps import CommandFailed, Runner, require_programs
from .store import Image, ImageStore

__all__ = ["BuildRequest", "Progress", "build_image", "recipe"]

MACHINE = "x86_64"
#: ``no_timer_check``: emulation sometimes loses the interrupt of the timer test and hangs. The rest saves time, or makes a
#: panic end the machine.
BOOT_ARGS = (
    "console=ttyS0 quiet panic=-1 no_timer_check tsc=reliable random.trust_cpu=on mitigations=off init_on_alloc=0"
)
#: Raised by one when the steps below change the resulting image.
RECIPE_VERSION = 2


class Progress(Protocol):
    """Is told which step runs, and how far a long step is."""

    def __call__(self, step: str, detail: str = "") -> None:
        """Called as a step begins, and again with each new detail."""


def recipe(request: BuildRequest) -> str:
    """A digest that changes when a build would give another image."""
    return request.recipe(
        RECIPE_VERSION,
        debian.SUITE,
        debian.DEBIAN_PACKAGES,
        wheels.PYTHON_PACKAGES,
        BOOT_ARGS,
        init_script().decode(),
    )


def build_image(request: BuildRequest, store: ImageStore, progress: Progress = lambda step, detail="": None) -> Image:
    """Build and publish an image.

    Raises :class:`~fc_kernel.errors.ImageBuildError` with the last lines of the failed program. Nothing is left then, nor
    after a ``KeyboardInterrupt`` or ``SystemExit``. Takes a few minutes, and meanwhile about 2 GiB of disk.
    """
    request.check()
    if not request.replace and store.has(request.name):
        raise ImageBuildError(f"the image {request.name!r} exists; --replace builds it again")
    if platform.machine() != MACHINE:
        raise ImageBuildError(f"images can be built on {MACHINE}; this machine is {platform.machine()}")
    require_programs()
    runner = Runner(root_namespaces(), EPOCH)
    try:
        store.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        sweep(store.root, runner.remove_tree)
        with staging_dir(store.root, runner.remove_tree) as staging:
            runner.keep_temporaries_in(staging)
            out = staging / "image"
            out.mkdir()
            build = _Build(request, runner, staging, out, progress)
            release, python = build.run()
            progress("digests")
            _write_manifest(request, out, release, python)
            return store.publish(request.name, out, replace=request.replace)
    except CommandFailed as error:
        raise ImageBuildError(f"{error.step} failed: {error.last_lines}") from error
    except OSError as error:
        raise ImageBuildError(f"the build failed: {error}") from error


def _write_manifest(request: BuildRequest, out: Path, release: str, python: str) -> None:
    manifest = ImageManifest(
        name=request.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        recipe=recipe(request),
        kernel_release=release,
        python=python,
        boot_args=BOOT_ARGS if python == wheels.INTERPRETER else f"{BOOT_ARGS} fc.python={python}",
        source="debian" if request.source is None else str(request.source),
        packages=request.packages,
        requirements=request.requirement_lines(),
        parts=(
            Part.of("kernel", out / "vmlinux"),
            Part.of("initrd", out / "initrd.img"),
            Part.of("rootfs", out / "rootfs.erofs"),
        ),
    )
    (out / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=1) + "\n")
    for file in out.iterdir():
        file.chmod(0o400)
        # All files are on the disk before the image gets its name.
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


class _Build:
    """The steps of one build, in its staging directory."""

    def __init__(self, request: BuildRequest, runner: Runner, staging: Path, out: Path, progress: Progress) -> None:
        self._request = request
        self._runner = runner
        self._staging = staging
        self._rootfs = out / "rootfs.erofs"
        self._out = out
        self._progress = progress
        self._debs = staging / "debs"
        self._debs.mkdir()

    def run(self) -> tuple[str, str]:
        """Run all steps; returns the kernel's release and the path of the guest's interpreter."""
        if self._request.source is None:
            python = self._debian()
        else:
            python = self._from_source(self._request.source)
            self._mmdebstrap("guest kernel (mmdebstrap)", debian.kernel_hook(self._debs), packages=None)
        return self._kernel(), python

    def _debian(self) -> str:
        tree = self._staging / "python"
        tree.mkdir()
        command = wheels.pip_command(self._runner.pip, tree, self._request.requirements)
        self._run("Python packages (pip)", command, wheels.progress_of)
        wheels.arrange(tree)
        hook = f"set -e\n(\n{debian.kernel_hook(self._debs)})\n{debian.rootfs_hook(tree, self._rootfs)}"
        self._mmdebstrap("Debian packages (mmdebstrap)", hook, packages=self._request.packages)
        return wheels.INTERPRETER

    def _from_source(self, source: Path) -> str:
        root = source.resolve()
        if root.is_file():
            root = self._staging / "root"
            root.mkdir()
            self._run("root file system (tar)", [*self._runner.as_root, *tar_command(source.resolve(), root)])
        python = find_python(root)
        command = mkfs_command(self._rootfs, '"$1"')
        self._run("root file system (mkfs.erofs)", [*self._runner.as_root, "sh", "-c", command, "sh", str(root)])
        return python

    def _kernel(self) -> str:
        self._progress("guest kernel")
        unpacked = self._staging / "unpacked"
        for deb in sorted(self._debs.glob("*.deb")):
            self._run("guest kernel (dpkg-deb)", ["dpkg-deb", "-x", str(deb), str(unpacked)])
        image, modules, release = find_kernel(unpacked)
        self._run("guest kernel (depmod)", ["depmod", "-b", str(modules.parents[2]), release])
        (self._out / "vmlinux").write_bytes(uncompressed(image.read_bytes()))
        (self._out / "initrd.img").write_bytes(base_initramfs(unpacked / "bin/busybox", modules))
        return release

    def _mmdebstrap(self, step: str, script: str, *, packages: tuple[str, ...] | None) -> None:
        hook = self._staging / "hook.sh"
        hook.write_text(script)
        command = [*self._runner.as_root, *debian.mmdebstrap_command(hook, packages=packages)]
        self._run(step, command, debian.progress_of)

    def _run(self, step: str, command: list[str], detail: Callable[[str], str | None] = lambda _: None) -> None:
        self._progress(step)
        self._runner.run(step, command, progress=lambda done: self._progress(step, done), detail=detail)
