"""Builds the JupyterLab extension into the package, where necessary and possible.

A wheel and an sdist contain the built extension, so installing them needs no Node.js. A build is reused until a source
changes. An editable install takes an existing build, and does not build.

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
#: The file in the build with the digest of its sources.
STAMP = BUILT / "static" / "sources.sha256"
SOURCES = ("package.json", "package-lock.json", "tsconfig.json", "schema", "src", "style")
SHARED = f"share/jupyter/labextensions/{NAME}"
#: The version that the bundler requires.
MIN_NODE = (20, 19)


class CannotBuild(Exception):
    """A build is not possible; the message says what is missing."""


def sources_digest() -> str:
    """A digest of all sources."""
    digest = hashlib.sha256()
    for name in SOURCES:
        path = HERE / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(f"{file.relative_to(HERE)}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def is_current() -> bool:
    """Whether the build is of the current sources."""
    return STAMP.exists() and STAMP.read_text() == sources_digest()


def build() -> None:
    """Build, unless the build is current; raises :class:`CannotBuild`."""
    if is_current():
        return
    install()
    for leftover in (BUILT, HERE / "lib"):
        shutil.rmtree(leftover, ignore_errors=True)
    run("npm", "run", "build")
    STAMP.write_text(sources_digest())


def install() -> None:
    """Install the packages of the lock file, outside the checkout, so that a fresh clone has them at once."""
    where = HERE / "node_modules"
    lock = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / NAME / "npm" / lock[:16]
    if where.is_dir() and not where.is_symlink():
        # A developer of the extension has installed them by hand.
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
    """Raise :class:`CannotBuild` where Node.js is missing or too old."""
    wanted = f"building the JupyterLab extension needs Node.js {MIN_NODE[0]}.{MIN_NODE[1]} or later with npm"
    if not (shutil.which("node") and shutil.which("npm")):
        raise CannotBuild(f"{wanted}; a wheel, or an sdist of a release, has it built")
    found = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if tuple(int(part) for part in found.lstrip("v").split(".")[:2]) < MIN_NODE:
        raise CannotBuild(f"{wanted}, found {found}")


def run(*command: str, cwd: Path = HERE) -> None:
    """Run a program; raises :class:`CannotBuild` with its output when it fails."""
    check_node()
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotBuild(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def link() -> None:
    """Link both extensions to where this environment's Jupyter looks for them, so that a new build is seen at once."""
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
    """The data files of a wheel: source → destination."""
    files = {str(file): f"{SHARED}/{file.relative_to(BUILT)}" for file in BUILT.rglob("*") if file.is_file()}
    files[str(HERE / "install.json")] = f"{SHARED}/install.json"
    return files


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:
    # Run by hand, without hatchling.
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
                # These files are ignored by version control.
                build_data["artifacts"].append("/fc_kernel/labextension")


if __name__ == "__main__":
    try:
        build()
    except CannotBuild as error:
        sys.exit(f"{Path(__file__).name}: {error}")
    if "--link" in sys.argv[1:]:
        link()
