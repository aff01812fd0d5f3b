"""Python packages for the guest: the host's pip fetches them for the guest's Python; then they are laid out for it."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import io
from pathlib import Path

from ..errors import ImageBuildError

#: Debian 12's Python; its packages' directory is not ``site-packages``.
PYTHON = "3.11"
INTERPRETER = "/usr/bin/python3"
#: Where Debian's Python expects packages that pip installs.
PREFIX = "usr/local"
DIST_PACKAGES = f"{PREFIX}/lib/python{PYTHON}/dist-packages"
PYTHON_PACKAGES = ("ipykernel>=7", "pip", "numpy", "pandas", "matplotlib", "ipywidgets")
#: Debian 12 has glibc 2.36; wheels name the oldest version that they run on.
PLATFORMS = (*(f"manylinux_2_{minor}_x86_64" for minor in range(36, 4, -1)), "manylinux2014_x86_64")
#: With ``--target`` pip puts these directories beside the packages; they belong in the prefix.
PREFIX_DIRECTORIES = ("bin", "etc", "share", "include")
#: The path that pip records for a file in the prefix, and its path from the packages' directory.
RECORDED, ACTUAL = "../../", "../../../"
#: First words of the lines in which pip tells its progress; other lines may explain an error.
PROGRESS_WORDS = ("Collecting", "Downloading", "Using", "Installing", "Successfully", "Looking", "Obtaining")


def pip_command(pip: list[str], tree: Path, requirements: Path | None) -> list[str]:
    """The command that installs into ``tree``, the future prefix; :func:`arrange` must follow."""
    if importlib.util.find_spec("pip") is None:
        raise ImageBuildError("pip is missing from this Python environment: python -m ensurepip")
    words = [*pip, "install", "--no-compile", "--progress-bar=off", "--root-user-action=ignore"]
    words += ["--target", str(tree / Path(DIST_PACKAGES).relative_to(PREFIX)), "--python-version", PYTHON]
    words += ["--implementation", "cp", "--only-binary=:all:", *(f"--platform={name}" for name in PLATFORMS)]
    words += PYTHON_PACKAGES
    if requirements is not None:
        words += ["--requirement", str(requirements.resolve())]
    return words


def progress_of(line: str) -> str | None:
    """The progress that a line of pip tells; ``None`` for other lines."""
    first, _, rest = line.partition(" ")
    if first in PROGRESS_WORDS:
        return f"{first.lower()} {rest.split(' from ')[0].split(' (')[0]}"[:60]
    return "…" if first == "Requirement" else None


def arrange(tree: Path) -> None:
    """Move scripts and data from the packages into the prefix, and make the scripts use the guest's interpreter."""
    packages = tree / Path(DIST_PACKAGES).relative_to(PREFIX)
    for name in PREFIX_DIRECTORIES:
        if (packages / name).is_dir() and not (packages / name / "__init__.py").exists():
            (packages / name).rename(tree / name)
    scripts = sorted((tree / "bin").iterdir()) if (tree / "bin").is_dir() else []
    for script in scripts:
        content = script.read_bytes()
        if (changed := _with_interpreter(content)) != content:
            script.write_bytes(changed)
    for record in sorted(packages.glob("*.dist-info/RECORD")):
        record.write_text(_corrected(record.read_text(), packages))


def _with_interpreter(content: bytes) -> bytes:
    """The script with the guest's interpreter instead of the host's, which pip wrote."""
    line, _, rest = content.partition(b"\n")
    if line == b"#!/bin/sh" and rest.startswith(b"'''exec'"):
        # pip's form for an interpreter whose path is too long or has spaces takes two more lines.
        rest = rest.split(b"\n", 2)[2]
    elif not (line.startswith(b"#!") and b"python" in line):
        return content
    return f"#!{INTERPRETER}\n".encode() + rest


def _corrected(record: str, packages: Path) -> str:
    """An installed package's ``RECORD`` (PyPA's "Recording installed projects"), corrected for the moved files."""
    rows = []
    for row in csv.reader(io.StringIO(record)):
        name, *rest = row
        if name.startswith(RECORDED) and not name.startswith(ACTUAL):
            name = ACTUAL + name.removeprefix(RECORDED)
            path = packages / name
            if path.is_file():
                content = path.read_bytes()
                digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                rest = [f"sha256={digest}", str(len(content))]
        rows.append([name, *rest])
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(sorted(rows))
    return out.getvalue()
