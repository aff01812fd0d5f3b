"""Downloading a Firecracker release, verifying it, and installing it where it is looked for."""

from __future__ import annotations

import contextlib
import hashlib
import platform
import re
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from ...errors import ConfigError
from .program import FirecrackerProgram, find_firecracker, installed_path
from .versions import RECOMMENDED_VERSION, features_of, parse_version

RELEASES = "https://github.com/firecracker-microvm/firecracker/releases/download"
#: A release's archive has some 10 MB, and the unpacked program less than this.
MAX_ARCHIVE_BYTES = 256 << 20
MAX_CHECKSUM_BYTES = 4096
TIMEOUT_S = 60.0
AS_IT_IS = {"Accept-Encoding": "identity"}

Progress = Callable[[int, int | None], None]


def install_firecracker(
    data_dir: Path,
    *,
    version: str = RECOMMENDED_VERSION,
    source: str | None = None,
    sha256: str | None = None,
    progress: Progress = lambda _done, _total: None,
    releases: str = RELEASES,
) -> FirecrackerProgram:
    """Install a release below a data directory and return it.

    ``source`` is a path or URL of an archive, instead of the project's own release; without ``sha256`` the checksum comes from
    the file beside the archive (its name and ``.sha256.txt``), as the project publishes it. ``progress(done, total)`` counts
    bytes. Raises :class:`~fc_kernel.errors.ConfigError`; nothing has changed then.
    """
    number = ".".join(map(str, parse_version(version)))
    features_of(parse_version(number))
    if platform.machine() != "x86_64":
        raise ConfigError(f"supported on x86_64, not on {platform.machine()}")
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ConfigError(f"--sha256 is {sha256!r}; allowed: 64 hexadecimal digits")
    archive_name = f"firecracker-v{number}-x86_64.tgz"
    where = source or f"{releases}/v{number}/{archive_name}"
    target = installed_path(data_dir, number)
    with _directory(target.parent), tempfile.TemporaryDirectory(prefix=".installing-", dir=target.parent) as staging:
        archive = Path(staging) / "archive.tgz"
        found = _copy(where, archive, progress)
        wanted = (sha256 or _published(where)).lower()
        if found != wanted:
            raise ConfigError(f"{where} has the SHA-256 {found}, not {wanted}; it was not installed")
        program = Path(staging) / "firecracker"
        _unpack(archive, number, program, where)
        program.chmod(0o755)
        told = find_firecracker(str(program))
        if told.version != number:
            raise ConfigError(f"{where} holds Firecracker {told.version}, not {number}; --version says which is wanted")
        program.replace(target)
    return find_firecracker(str(target))


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[None]:
    """Make a directory, and remove it if the block fails."""
    made = [each for each in (path, *path.parents) if not each.exists()]
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield
    except BaseException as error:
        for each in made:
            with contextlib.suppress(OSError):
                each.rmdir()
        if isinstance(error, OSError):
            raise ConfigError(f"cannot install into {path}: {error.strerror or error}") from error
        raise


def _is_url(where: str) -> bool:
    return where.startswith(("http://", "https://"))


def _copy(where: str, target: Path, progress: Progress) -> str:
    """Copy an archive and return its SHA-256."""
    digest = hashlib.sha256()
    done = 0
    try:
        with target.open("xb") as out, contextlib.ExitStack() as stack:
            if _is_url(where):
                response = stack.enter_context(
                    # The raw bytes: some servers declare a .tgz as a compressed .tar, which the client would decompress.
                    httpx.stream("GET", where, headers=AS_IT_IS, follow_redirects=True, timeout=TIMEOUT_S)
                )
                response.raise_for_status()
                total = int(response.headers.get("content-length", 0)) or None
                chunks = response.iter_raw()
            else:
                file = stack.enter_context(Path(where).open("rb"))
                total = Path(where).stat().st_size
                chunks = iter(lambda: file.read(1 << 20), b"")
            for chunk in chunks:
                done += len(chunk)
                if done > MAX_ARCHIVE_BYTES:
                    raise ConfigError(f"{where} has more than {MAX_ARCHIVE_BYTES} bytes; it is no Firecracker release")
                digest.update(chunk)
                out.write(chunk)
                progress(done, total)
    except (httpx.HTTPError, OSError, ValueError) as error:
        raise ConfigError(
            f"cannot fetch {where}: {_reason(error)}; with a copy at hand: --from FILE --sha256 DIGEST"
        ) from error
    return digest.hexdigest()


def _published(where: str) -> str:
    """The digest in the checksum file beside the archive."""
    beside = f"{where}.sha256.txt"
    try:
        if _is_url(where):
            response = httpx.get(beside, follow_redirects=True, timeout=TIMEOUT_S)
            response.raise_for_status()
            text = response.text[:MAX_CHECKSUM_BYTES]
        else:
            with Path(beside).open() as file:
                text = file.read(MAX_CHECKSUM_BYTES)
    except (httpx.HTTPError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"no checksum for {where}: {_reason(error)}; give --sha256") from error
    match = re.match(r"([0-9a-fA-F]{64})\b", text.strip())
    if match is None:
        raise ConfigError(f"{beside} holds no SHA-256: {text[:80]!r}; give --sha256")
    return match[1]


def _reason(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code} {error.response.reason_phrase}"
    return f"{type(error).__name__}: {error}"


def _unpack(archive: Path, number: str, target: Path, where: str) -> None:
    """Extract only the program from the archive, by its name in a release."""
    name = f"firecracker-v{number}-x86_64"
    wanted = {f"release-v{number}-x86_64/{name}", name, "firecracker"}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.isfile() and member.name.removeprefix("./") in wanted and member.size <= MAX_ARCHIVE_BYTES:
                    content = tar.extractfile(member)
                    assert content is not None  # noqa: S101 - it is a file
                    with target.open("xb") as out:
                        while chunk := content.read(1 << 20):
                            out.write(chunk)
                    return
    except (tarfile.TarError, zlib.error, OSError, EOFError) as error:
        raise ConfigError(f"{where} is no archive of a release: {error}") from error
    raise ConfigError(f"{where} holds no firecracker-v{number}-x86_64")
