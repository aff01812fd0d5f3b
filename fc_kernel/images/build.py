"""Building images: Debian by ``mmdebstrap``, Python packages by the host's ``pip``, the file system by ``mkfs.erofs``.

All of it happens in a staging directory inside the store, which becomes the image by one rename, or is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..errors import ImageBuildError, SpecError
from .initramfs import base_initramfs, init_script
from .kernel import find_kernel, uncompressed
from .manifest import MANIFEST_NAME, ImageManifest, Part
from .steps import CommandFailed, Runner, require_programs
from .store import Image, ImageStore, check_name

Progress = Callable[..., None]

SUITE = "bookworm"
#: Debian 12's Python; its packages' directory is not ``site-packages``.
PYTHON = "3.11"
DIST_PACKAGES = f"usr/local/lib/python{PYTHON}/dist-packages"
KERNEL_PACKAGE = "linux-image-cloud-amd64"
DEBIAN_PACKAGES = ("python3", "ca-certificates", "procps")
PYTHON_PACKAGES = ("ipykernel>=7", "pip", "numpy", "pandas", "matplotlib", "ipywidgets")
#: Debian 12 has glibc 2.36; wheels name the oldest that they run on.
PLATFORMS = tuple(f"manylinux_2_{minor}_x86_64" for minor in range(36, 4, -1)) + ("manylinux2014_x86_64",)
#: ``no_timer_check``: emulation sometimes loses the timer test's interrupt and hangs. The rest saves time, or says that a
#: panic ends the machine.
BOOT_ARGS = "console=ttyS0 quiet panic=-1 no_timer_check tsc=reliable random.trust_cpu=on mitigations=off"
#: Raised when the steps below change what comes out of them.
RECIPE_VERSION = 1
#: Same inputs, same bytes: what would otherwise be random or now in the file system.
EPOCH = "1700000000"
FILE_SYSTEM_UUID = "6f0c6b1e-3d7a-4f0e-9f0a-fc0000000001"
DEBIAN_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]{0,63}(=[A-Za-z0-9.+:~-]{1,64})?\Z", re.ASCII)
MAX_REQUIREMENTS_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What to build."""

    name: str = "default"
    requirements: Path | None = None
    packages: tuple[str, ...] = ()
    #: A tar or directory with a root file system, in place of Debian's.
    source: Path | None = None
    replace: bool = False

    def check(self) -> None:
        """Raise :class:`~fc_kernel.errors.SpecError` for what cannot be built."""
        check_name(self.name)
        for package in self.packages:
            if not DEBIAN_NAME.match(package):
                raise SpecError("package", package, "the name of a Debian package, with =VERSION if need be")
        if self.requirements is not None and not self.requirements.is_file():
            raise SpecError("requirements", str(self.requirements), "a file as pip takes with -r")
        if self.source is not None and not self.source.exists():
            raise SpecError("from", str(self.source), "a tar file or a directory with a root file system")
        if self.source is not None and (self.requirements or self.packages):
            raise SpecError("from", str(self.source), "a whole root file system, without --requirements and --package")

    def requirement_lines(self) -> tuple[str, ...]:
        """The lines of the requirements file."""
        if self.requirements is None:
            return ()
        if self.requirements.stat().st_size > MAX_REQUIREMENTS_BYTES:
            raise SpecError("requirements", str(self.requirements), f"at most {MAX_REQUIREMENTS_BYTES} bytes")
        lines = self.requirements.read_text().splitlines()
        return tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))

    def recipe(self) -> str:
        """A digest that changes when the build would give something else."""
        source = "" if self.source is None else f"{self.source.resolve()}:{self.source.stat().st_mtime_ns}"
        inputs = [
            RECIPE_VERSION, SUITE, DEBIAN_PACKAGES, PYTHON_PACKAGES, BOOT_ARGS, init_script().decode(),
            self.packages, self.requirement_lines(), source,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def build_image(request: BuildRequest, store: ImageStore, progress: Progress = lambda *_: None) -> Image:
    """Build and publish an image; ``progress(step)`` is told what is being done.

    Raises :class:`~fc_kernel.errors.ImageBuildError` with the last lines of what failed; then nothing is left. Takes some
    minutes and about 3 GiB of disk on the way.
    """
    request.check()
    target = store.root / request.name
    if target.exists() and not request.replace:
        raise ImageBuildError(f"the image {request.name!r} exists; --replace builds it again")
    require_programs("mmdebstrap", "mkfs.erofs", "dpkg-deb", "depmod")
    store.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.ExitStack() as cleanup:
        staging = Path(tempfile.mkdtemp(prefix=".building-", dir=store.root))
        runner = Runner(staging, EPOCH)
        cleanup.callback(runner.remove_tree, staging)
        out = staging / "image"
        out.mkdir()
        try:
            release, python = _build(request, runner, staging, out, progress)
        except CommandFailed as error:
            raise ImageBuildError(f"{error.step} failed: {error.last_lines}") from error
        except OSError as error:
            raise ImageBuildError(f"the build failed: {error}") from error
        progress("digests")
        manifest = ImageManifest(
            name=request.name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            recipe=request.recipe(),
            kernel_release=release,
            python=python,
            boot_args=BOOT_ARGS if python == "/usr/bin/python3" else f"{BOOT_ARGS} fc.python={python}",
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
        if target.exists():
            store.remove(request.name)
        out.rename(target)
    return store.get(request.name)


def _build(request: BuildRequest, runner: Runner, staging: Path, out: Path, progress: Progress) -> tuple[str, str]:
    debs = staging / "debs"
    debs.mkdir()
    hooks = [_kernel_hook(), f"sync-out /.debs {debs}"]
    if request.source is None:
        packages = staging / "python"
        progress("Python packages (pip)")
        _pip(request, runner, packages)
        progress("Debian packages (mmdebstrap)")
        script = staging / "finish.sh"
        script.write_text(_finish_script())
        hooks += [
            f"sync-in {packages} /{DIST_PACKAGES}",
            f'sh {script} "$1"',
            f"download /.rootfs.erofs {out / 'rootfs.erofs'}",
        ]
        include = ",".join((*DEBIAN_PACKAGES, *request.packages))
        runner.run("mmdebstrap", [*_mmdebstrap("minbase", hooks), f"--include={include}", SUITE, "/dev/null"])
        python = "/usr/bin/python3"
    else:
        progress("guest kernel (mmdebstrap)")
        runner.run("mmdebstrap", [*_mmdebstrap("custom", hooks), SUITE, "/dev/null"])
        progress("root file system")
        python = _from_source(request.source, runner, staging, out)
    progress("guest kernel")
    unpacked = staging / "unpacked"
    for deb in sorted(debs.rglob("*.deb")):
        runner.run("dpkg-deb", ["dpkg-deb", "-x", str(deb), str(unpacked)])
    image, modules, release = find_kernel(unpacked)
    runner.run("depmod", ["depmod", "-b", str(modules.parents[2]), release])
    (out / "vmlinux").write_bytes(uncompressed(image.read_bytes()))
    (out / "initrd.img").write_bytes(base_initramfs(unpacked / "bin/busybox", modules))
    return release, python


def _mmdebstrap(variant: str, hooks: list[str]) -> list[str]:
    words = ["mmdebstrap", "--format=null", f"--variant={variant}", '--aptopt=Acquire::Languages "none"']
    words += [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("man", "doc", "locale", "info")]
    return [*words, *(f"--customize-hook={hook}" for hook in hooks)]


def _kernel_hook() -> str:
    """Download, but do not install, the kernel that the meta package names, and busybox."""
    find = f"apt-cache depends {KERNEL_PACKAGE} | sed -n 's/.*Depends: //p' | head -n 1"
    download = f"apt-get -o APT::Sandbox::User=root download $({find}) busybox-static"
    return f'mkdir -p "$1/.debs" && cd "$1/.debs" && export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" && {download}'


def _pip(request: BuildRequest, runner: Runner, target: Path) -> None:
    words = [*runner.pip, "install", "--quiet", "--no-compile", "--target", str(target), "--python-version", PYTHON]
    words += ["--implementation", "cp", "--only-binary=:all:", *(f"--platform={name}" for name in PLATFORMS)]
    words += PYTHON_PACKAGES
    if request.requirements is not None:
        words += ["-r", str(request.requirements.resolve())]
    runner.run("pip", words)


def _finish_script() -> str:
    """Runs in mmdebstrap's namespace with the root as ``$1``: bytecode, small files, the file system."""
    return f"""set -eu
root=$1
chroot "$root" python3 -m compileall -q -j 2 --invalidation-mode unchecked-hash \\
  /usr/lib/python3 /usr/lib/python{PYTHON} /{DIST_PACKAGES} >/dev/null || true
rm -f "$root"/usr/lib/python{PYTHON}/EXTERNALLY-MANAGED "$root"/etc/machine-id "$root"/etc/hostname
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/* "$root"/.debs
printf '127.0.0.1 localhost microvm\\n::1 localhost\\n' >"$root"/etc/hosts
: >"$root"/etc/resolv.conf
{_mkfs('"$root"/.rootfs.erofs', '"$root"')} --exclude-path=.rootfs.erofs
"""


def _mkfs(image: str, root: str) -> str:
    """Without extended attributes: asking proc and devpts for them fails, and root needs no file capabilities.

    Uncompressed: decompression costs an emulated guest more than the page cache gains.
    """
    return f"mkfs.erofs --quiet -x-1 -T{EPOCH} -U{FILE_SYSTEM_UUID} '--exclude-regex=^(proc|sys|dev|run|tmp)/.+' {image} {root}"


def _from_source(source: Path, runner: Runner, staging: Path, out: Path) -> str:
    root = source.resolve()
    if source.is_file():
        root = staging / "root"
        root.mkdir()
        runner.run(
            "tar", [*runner.as_root, "tar", "-x", "--numeric-owner", "-f", str(source.resolve()), "-C", str(root)]
        )
    python = _find_python(root)
    for directory in ("proc", "sys", "dev", "run", "tmp"):
        if source.is_file():
            (root / directory).mkdir(exist_ok=True)
    command = _mkfs(str(out / "rootfs.erofs"), str(root))
    runner.run("mkfs.erofs", [*runner.as_root, "sh", "-c", command])
    return python


def _find_python(root: Path) -> str:
    """The interpreter that has ipykernel; raises :class:`~fc_kernel.errors.ImageBuildError` when none has."""
    for python, places in (
        ("/usr/local/bin/python3", "usr/local/lib/python3*/site-packages"),
        ("/usr/bin/python3", "usr/local/lib/python3*/dist-packages"),
        ("/usr/bin/python3", "usr/lib/python3*/site-packages"),
        ("/usr/bin/python3", "usr/lib/python3/dist-packages"),
        ("/opt/conda/bin/python3", "opt/conda/lib/python3*/site-packages"),
    ):
        has = any((place / "ipykernel").is_dir() and (place / "zmq").is_dir() for place in root.glob(places))
        if has and os.path.lexists(root / python.lstrip("/")):
            return python
    raise ImageBuildError(f"no Python with ipykernel and pyzmq in {root}; install ipykernel in it first")
