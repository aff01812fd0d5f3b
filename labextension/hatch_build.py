"""Builds the JupyterLab extension into the package, where that is needed and can be done.

A wheel and an sdist carry the built extension, so whoever installs them needs no Node.js. What was built is used again
until a source changes. An editable install takes what is there, and is no reason to build.

    python labextension/hatch_build.py          # build, if a source has changed
    python labextension/hatch_build.py --link   # and put it where this environment's JupyterLab looks
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

NAME = "fc-kernel"
HERE = Path(__file__).resolve().parent
BUILT = HERE.parent / "fc_kernel" / "labextension"
#: Names the sources that it was built of.
STAMP = BUILT / "static" / "sources.sha256"
SOURCES = ("package.json", "package-lock.json", "tsconfig.json", "schema", "src", "style")
SHARED = f"share/jupyter/labextensions/{NAME}"
#: What the bundler asks for.
MIN_NODE = (20, 19)


class CannotBuild(Exception):
    """Something is missing; the message says what."""


def sources_digest() -> str:
    """Changes with every source."""
    digest = hashlib.sha256()
    for name in SOURCES:
        path = HERE / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(f"{file.relative_to(HERE)}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def is_current() -> bool:
    """Whether what is built is what the sources say."""
    return STAMP.exists() and STAMP.read_text() == sources_digest()


def build() -> None:
    """Build, unless that has been done; raises :class:`CannotBuild`."""
    if is_current():
        return
    install()
    for leftover in (BUILT, HERE / "lib"):
        shutil.rmtree(leftover, ignore_errors=True)
    run("npm", "run", "build")
    STAMP.write_text(sources_digest())


def install() -> None:
    """The packages of the lock file, kept outside the checkout, so that a fresh clone has them at once."""
    where = HERE / "node_modules"
    lock = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / NAME / "npm" / lock[:16]
    if where.is_dir() and not where.is_symlink():
        # Whoever works on the extension installs by hand.
        return
    if not (cache / ".complete").exists():
        check_node()
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(parents=True)
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(HERE / name, cache)
        run("npm", "ci", "--ignore-scripts", cwd=cache)
        (cache / ".complete").touch()
    where.unlink(missing_ok=True)
    where.symlink_to(cache / "node_modules")


def check_node() -> None:
    """Raises :class:`CannotBuild` where Node.js is missing or too old."""
    wanted = f"building the JupyterLab extension needs Node.js {MIN_NODE[0]}.{MIN_NODE[1]} or later with npm"
    if not (shutil.which("node") and shutil.which("npm")):
        raise CannotBuild(f"{wanted}; a wheel, or an sdist of a release, has it built")
    found = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if tuple(int(part) for part in found.lstrip("v").split(".")[:2]) < MIN_NODE:
        raise CannotBuild(f"{wanted}, found {found}")


def run(*command: str, cwd: Path = HERE) -> None:
    """Run a program; what it says is shown when it fails."""
    check_node()
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotBuild(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def link() -> None:
    """Put both extensions where this environment's Jupyter looks, as links, as a wheel would: a new build is seen at once."""
    for target, source in (
        (SHARED, BUILT),
        ("etc/jupyter/jupyter_server_config.d/fc_kernel.json", HERE.parent / "fc_kernel/server/config/fc_kernel.json"),
    ):
        place = Path(sys.prefix) / target
        if place.is_symlink() or place.is_file():
            place.unlink()
        elif place.exists():
            shutil.rmtree(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(source)


def shared_data() -> dict[str, str]:
    """The files of a wheel: where they are, and where they go."""
    files = {str(file): f"{SHARED}/{file.relative_to(BUILT)}" for file in BUILT.rglob("*") if file.is_file()}
    files[str(HERE / "install.json")] = f"{SHARED}/install.json"
    return files


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:
    # Run by hand.
    pass
else:

    class LabExtension(BuildHookInterface[Any]):
        """The hook of ``pyproject.toml``."""

        PLUGIN_NAME = "custom"

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            """Called before a wheel or an sdist is made."""
            if version == "editable":
                if BUILT.exists():
                    build_data["shared_data"].update(shared_data())
                return
            build()
            if self.target_name == "wheel":
                build_data["shared_data"].update(shared_data())
            else:
                # Files that version control ignores.
                build_data["artifacts"].append("/fc_kernel/labextension")


if __name__ == "__main__":
    try:
        build()
    except CannotBuild as error:
        sys.exit(f"{Path(__file__).name}: {error}")
    if "--link" in sys.argv[1:]:
        link()
