"""A request to build an image: what it is built from."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SpecError
from .store import check_name

#: A package's name for apt: with ``-`` at its end it would mean a removal.
DEBIAN_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]{0,62}[a-z0-9+.](=[A-Za-z0-9.+:~-]{1,64})?\Z", re.ASCII)
MAX_REQUIREMENTS_BYTES = 1 << 20
#: Requirements files may include each other; more than this is a mistake.
MAX_REQUIREMENTS_FILES = 32
INCLUDES = re.compile(r"(?:-r|--requirement|-c|--constraint)(?:\s+|=)(\S+)")
#: Credentials in the URL of a package index.
CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+(?=@)")


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What to build, and under which name."""

    name: str = "default"
    #: A requirements file for pip.
    requirements: Path | None = None
    #: Debian packages, each with an optional ``=VERSION``.
    packages: tuple[str, ...] = ()
    #: A tar file or directory with a root file system, instead of Debian's.
    source: Path | None = None
    replace: bool = False

    def check(self) -> None:
        """Raise :class:`~fc_kernel.errors.SpecError` if this cannot be built."""
        check_name(self.name)
        for package in self.packages:
            if not DEBIAN_NAME.match(package):
                raise SpecError("package", package, "the name of a Debian package, with =VERSION if need be")
        if self.requirements is not None and not self.requirements.is_file():
            raise SpecError("requirements", str(self.requirements), "a file as pip takes with -r")
        if self.source is not None and not (self.source.is_file() or self.source.is_dir()):
            raise SpecError("from", str(self.source), "a tar file or a directory with a root file system")
        if self.source is not None and (self.requirements or self.packages):
            raise SpecError("from", str(self.source), "a whole root file system, without --requirements and --package")
        self.requirement_lines()

    def requirement_lines(self) -> tuple[str, ...]:
        """The lines of the requirements file and those that it includes, for the manifest: without credentials."""
        if self.requirements is None:
            return ()
        lines: list[str] = []
        waiting = [self.requirements]
        read: list[Path] = []
        while waiting:
            path = waiting.pop(0).resolve()
            if path in read:
                continue
            read.append(path)
            if len(read) > MAX_REQUIREMENTS_FILES:
                raise SpecError(
                    "requirements", str(path), f"at most {MAX_REQUIREMENTS_FILES} files, each including others"
                )
            found = [line.strip() for line in _read_text(path).splitlines()]
            lines += [line for line in found if line and not line.startswith("#")]
            included = [match.group(1) for line in found if (match := INCLUDES.match(line))]
            waiting += [path.parent / name for name in included if "://" not in name]
        return tuple(CREDENTIALS.sub("…", line) for line in lines)

    def recipe(self, *inputs: Any) -> str:
        """A digest that changes when the build would give another image; ``inputs`` are the builder's own."""
        source = None if self.source is None else [str(self.source.resolve()), _fingerprint(self.source)]
        return hashlib.sha256(
            json.dumps([inputs, self.packages, self.requirement_lines(), source]).encode()
        ).hexdigest()


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_REQUIREMENTS_BYTES:
            raise SpecError("requirements", str(path), f"at most {MAX_REQUIREMENTS_BYTES} bytes")
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError("requirements", str(path), f"a readable text file ({error})") from None


def _fingerprint(source: Path) -> str:
    """A digest of the names and inodes of a source: every change of the source changes one of them."""
    digest = hashlib.sha256()
    for name, found in _walk(str(source), ""):
        digest.update(f"{name}\0{found.st_mode}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}\n".encode())
    return digest.hexdigest()


def _walk(path: str, name: str) -> Iterator[tuple[str, os.stat_result]]:
    found = os.stat(path) if not name else os.lstat(path)  # noqa: PTH116 - fast over 100 000 files
    yield name, found
    if stat.S_ISDIR(found.st_mode):
        try:
            names = sorted(os.listdir(path))  # noqa: PTH208 - as above
        except OSError:
            # The build will report the error.
            return
        for each in names:
            yield from _walk(f"{path}/{each}", f"{name}/{each}")
