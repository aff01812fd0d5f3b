"""Debian by ``mmdebstrap``: the default root file system, and the kernel that every image boots."""

from __future__ import annotations

import shlex
from pathlib import Path

from .rootfs import mkfs_command
from .wheels import DIST_PACKAGES, PREFIX, PYTHON

SUITE = "bookworm"
KERNEL_PACKAGE = "linux-image-cloud-amd64"
DEBIAN_PACKAGES = ("python3", "ca-certificates", "procps")
#: Lines of apt and mmdebstrap that only tell progress, or repeat that there was an error.
CHATTER = ("Reading ", "Building ", "W: Download is performed unsandboxed", "E: setup failed", "E: mmdebstrap failed")
#: How many files one process compiles. The output depends on what the process compiled before, so the groups are fixed.
COMPILE_GROUP = 8


def mmdebstrap_command(hook: Path, *, packages: tuple[str, ...] | None) -> list[str]:
    """The command for a root file system with ``packages``, or an empty one with ``None``; ``hook`` does the rest."""
    variant = "custom" if packages is None else "minbase"
    # In mode "root", because we are root in our own namespaces, whoever we are outside.
    words = ["mmdebstrap", "--mode=root", "--format=null", f"--variant={variant}"]
    words += ['--aptopt=Acquire::Languages "none"', f'--customize-hook=sh {shlex.quote(str(hook))} "$1"']
    words += [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("man", "doc", "locale", "info")]
    if packages is not None:
        words.append(f"--include={','.join((*DEBIAN_PACKAGES, *packages))}")
    return [*words, SUITE, "/dev/null"]


def progress_of(line: str) -> str | None:
    """The progress that a line of ``mmdebstrap`` tells; ``None`` for other lines."""
    if line.startswith("I: "):
        return line.removeprefix("I: ")
    return "…" if line.startswith(CHATTER) else None


def kernel_hook(debs: Path) -> str:
    """Shell script that downloads, without installing, the kernel that the meta package names, and busybox."""
    # Not "set -o pipefail", which Debian's sh lacks: without a name apt-get download would do nothing, successfully.
    return f"""set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
cd {shlex.quote(str(debs))}
kernel=$(apt-cache depends {KERNEL_PACKAGE} | sed -n 's/.*Depends: //p' | head -n 1)
test -n "$kernel"
apt-get -q -o APT::Sandbox::User=root download "$kernel" busybox-static
"""


def rootfs_hook(python_tree: Path, image: Path) -> str:
    """Shell script with the root as ``$1``: add Python packages, remove what differs between builds, make the image."""
    compile_all = (
        r"find /usr/lib/python3/dist-packages /usr/lib/python"
        rf"{PYTHON} /{DIST_PACKAGES} -mindepth 1 -maxdepth 1 -print0 | LC_ALL=C sort -z | "
        rf'xargs -0 -n {COMPILE_GROUP} -P "$1" python3 -m compileall -q -f --invalidation-mode unchecked-hash'
    )
    return f"""set -eu
root=$1
mkdir -p "$root/{PREFIX}"
cp -R --no-preserve=ownership,timestamps {shlex.quote(str(python_tree))}/. "$root/{PREFIX}/"
find "$root/usr" -name __pycache__ -prune -exec rm -rf {{}} +
# A file in another version's syntax, as some packages ship, fails to compile and does no harm.
PYTHONHASHSEED=0 chroot "$root" sh -c {shlex.quote(compile_all)} sh "$(nproc)" >/dev/null || [ $? = 123 ]
cd "$root"
rm -f usr/lib/python{PYTHON}/EXTERNALLY-MANAGED etc/machine-id etc/hostname
rm -f etc/passwd- etc/group- etc/shadow- etc/gshadow- etc/subuid- etc/subgid- var/cache/ldconfig/aux-cache
rm -rf var/lib/apt/lists/* var/cache/apt/* var/cache/debconf/*-old var/lib/dpkg/*-old var/log/*
printf '127.0.0.1 localhost microvm\\n::1 localhost\\n' >etc/hosts
: >etc/resolv.conf
printf '[global]\nroot-user-action = ignore\ndisable-pip-version-check = true\n' >etc/pip.conf
{mkfs_command(image, '"$root"')}
"""
