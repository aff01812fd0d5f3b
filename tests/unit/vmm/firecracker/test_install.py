"""``fc-kernel firecracker install`` against a real HTTP server: what is verified is placed, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fc_kernel.errors import ConfigError, MonitorUnavailable, UnsupportedByMonitor
from fc_kernel.vmm.firecracker import install
from fc_kernel.vmm.firecracker.install import install_firecracker
from fc_kernel.vmm.firecracker.program import find_firecracker

from ....firecracker_double.site import (
    ARCHIVE_PATH,
    GOOD,
    NAME,
    VERSION,
    Site,
    archive,
    checksum,
    file,
    link,
    program,
    release,
    serving,
)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FC_KERNEL_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def tree(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else b""
        for path in sorted(directory.rglob("*"))
    }


def refused(data_dir: Path, message: str, **options: Any) -> None:
    """The installation fails with one error, and nothing has changed, whether or not a version was there before."""
    parent = data_dir.parent
    for _ in range(2):
        before = tree(parent)
        with pytest.raises(ConfigError, match=message):
            install_firecracker(data_dir, version=VERSION, **options)
        assert tree(parent) == before
        installed = data_dir / "firecracker" / VERSION / "firecracker"
        installed.parent.mkdir(parents=True, exist_ok=True)
        installed.write_bytes(b"the one from before")


def test_good_release(site: Site, data_dir: Path) -> None:
    site.publish()
    counted: list[tuple[int, int | None]] = []
    done = install_firecracker(
        data_dir, version=VERSION, releases=site.releases, progress=lambda done, total: counted.append((done, total))
    )
    assert done.version == VERSION
    assert done.path == data_dir / "firecracker" / VERSION / "firecracker"
    assert done.path.read_bytes() == program()
    assert os.access(done.path, os.X_OK)
    assert tree(data_dir).keys() == {"firecracker", f"firecracker/{VERSION}", f"firecracker/{VERSION}/firecracker"}
    assert counted[-1] == (len(GOOD), len(GOOD))
    assert site.asked == [ARCHIVE_PATH, f"{ARCHIVE_PATH}.sha256.txt"]


def test_installed_release_is_found(site: Site, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.publish()
    install_firecracker(data_dir, version=VERSION, releases=site.releases)
    monkeypatch.delenv("FC_KERNEL_FIRECRACKER", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert find_firecracker(data_dir=data_dir).path == data_dir / "firecracker" / VERSION / "firecracker"


def test_installed_again_over_itself(site: Site, data_dir: Path) -> None:
    site.publish()
    first = install_firecracker(data_dir, version=VERSION, releases=site.releases)
    first.path.write_bytes(b"damaged")
    assert install_firecracker(data_dir, version=VERSION, releases=site.releases).path.read_bytes() == program()


def test_redirects_are_followed(site: Site, data_dir: Path) -> None:
    site.publish()
    for path in (ARCHIVE_PATH, f"{ARCHIVE_PATH}.sha256.txt"):
        site.redirects[path] = f"{site.url}/elsewhere{path}"
        site.files[f"/elsewhere{path}"] = site.files.pop(path)
    assert install_firecracker(data_dir, version=VERSION, releases=site.releases).version == VERSION


def test_endless_redirects(site: Site, data_dir: Path) -> None:
    site.redirects[ARCHIVE_PATH] = site.archive
    refused(data_dir, "cannot fetch .*TooManyRedirects", releases=site.releases)


def test_archive_that_the_server_calls_compressed(site: Site, data_dir: Path) -> None:
    """Some servers say ``Content-Encoding: gzip`` of every .tgz; the archive is taken as it is, or its digest would be off."""
    site.publish()
    site.headers["Content-Encoding"] = "gzip"
    digest = hashlib.sha256(GOOD).hexdigest()
    assert install_firecracker(data_dir, version=VERSION, source=site.archive, sha256=digest).version == VERSION


def test_wrong_digest(site: Site, data_dir: Path) -> None:
    site.publish(says=checksum(b"something else"))
    refused(data_dir, "has the SHA-256 [0-9a-f]{64}, not [0-9a-f]{64}; it was not installed", releases=site.releases)


def test_one_flipped_bit(site: Site, data_dir: Path) -> None:
    flipped = bytearray(GOOD)
    flipped[len(GOOD) // 2] ^= 1
    site.publish(bytes(flipped), says=checksum(GOOD))
    refused(data_dir, "has the SHA-256", releases=site.releases)


def test_truncated_download(site: Site, data_dir: Path) -> None:
    site.publish()
    site.truncated.add(ARCHIVE_PATH)
    refused(data_dir, "cannot fetch .*; with a copy at hand: --from FILE --sha256 DIGEST", releases=site.releases)


def test_truncated_archive_with_its_own_digest(site: Site, data_dir: Path) -> None:
    site.publish(GOOD[: len(GOOD) // 2])
    refused(data_dir, "is no archive of a release|holds no", releases=site.releases)


def test_unreachable(data_dir: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        refused(data_dir, "cannot fetch .*ConnectError", releases=url)


def test_unknown_host(data_dir: Path) -> None:
    refused(data_dir, "cannot fetch", source="http://no-such-host.invalid/a.tgz")


def test_no_such_release(site: Site, data_dir: Path) -> None:
    refused(data_dir, "404", releases=site.releases)


def test_no_checksum_file(site: Site, data_dir: Path) -> None:
    site.files[ARCHIVE_PATH] = GOOD
    refused(data_dir, "no checksum for .*; give --sha256", releases=site.releases)


@pytest.mark.parametrize("says", [b"", b"not a digest", b"<html>", b"\xff\xfe", b"abc123  file", b"0" * 70])
def test_checksum_file_without_a_digest(site: Site, data_dir: Path, says: bytes) -> None:
    site.publish(says=says)
    refused(data_dir, "holds no SHA-256: .*; give --sha256", releases=site.releases)


def test_digest_in_place_of_the_checksum_file(site: Site, data_dir: Path) -> None:
    site.files[ARCHIVE_PATH] = GOOD
    digest = hashlib.sha256(GOOD).hexdigest().upper()
    assert install_firecracker(data_dir, version=VERSION, releases=site.releases, sha256=digest).version == VERSION
    assert site.asked == [ARCHIVE_PATH]


def test_wrong_digest_given(site: Site, data_dir: Path) -> None:
    site.publish()
    refused(data_dir, "it was not installed", releases=site.releases, sha256="0" * 64)


@pytest.mark.parametrize("sha256", ["", "0" * 63, "0" * 65, "x" * 64, "0" * 64 + "\n"])
def test_what_is_no_digest(site: Site, data_dir: Path, sha256: str) -> None:
    site.publish()
    refused(data_dir, "allowed: 64 hexadecimal digits", releases=site.releases, sha256=sha256)
    assert site.asked == []


def test_oversized_download(site: Site, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.publish()
    monkeypatch.setattr(install, "MAX_ARCHIVE_BYTES", len(GOOD) - 1)
    refused(data_dir, f"more than {len(GOOD) - 1} bytes", releases=site.releases)


def test_from_a_file(tmp_path: Path, data_dir: Path) -> None:
    path = tmp_path / "copy.tgz"
    path.write_bytes(GOOD)
    (tmp_path / "copy.tgz.sha256.txt").write_bytes(checksum(GOOD))
    assert install_firecracker(data_dir, version=VERSION, source=str(path)).path.read_bytes() == program()


def test_from_a_file_with_a_digest(tmp_path: Path, data_dir: Path) -> None:
    path = tmp_path / "copy.tgz"
    path.write_bytes(GOOD)
    digest = hashlib.sha256(GOOD).hexdigest()
    assert install_firecracker(data_dir, version=VERSION, source=str(path), sha256=digest).version == VERSION


def test_from_a_file_without_any_digest(tmp_path: Path, data_dir: Path) -> None:
    (tmp_path / "copy.tgz").write_bytes(GOOD)
    refused(data_dir, "no checksum for .*; give --sha256", source=str(tmp_path / "copy.tgz"))


def test_from_a_file_that_is_missing(tmp_path: Path, data_dir: Path) -> None:
    refused(data_dir, "cannot fetch .*No such file", source=str(tmp_path / "missing.tgz"))


@pytest.mark.parametrize(
    "members",
    {
        "symlink": [link(NAME, tarfile.SYMTYPE, "/bin/sh")],
        "symlink in a release": [link(f"release-v{VERSION}-x86_64/{NAME}", tarfile.SYMTYPE, "/bin/sh")],
        "hard link": [link(NAME, tarfile.LNKTYPE, "/bin/sh")],
        "device": [link(NAME, tarfile.CHRTYPE, "")],
        "fifo": [link(NAME, tarfile.FIFOTYPE, "")],
        "directory": [link(NAME, tarfile.DIRTYPE, "")],
        "climbing": [file(f"../../{NAME}", program()), file(f"release/../../{NAME}", program())],
        "absolute": [file(f"/tmp/{NAME}", program())],
        "elsewhere": [file(f"somewhere/{NAME}", program())],
        "through a link": [link("out", tarfile.SYMTYPE, "/tmp"), file(f"out/{NAME}", program())],
        "another version": [file("release-v1.15.0-x86_64/firecracker-v1.15.0-x86_64", program("1.15.0"))],
        "empty": [],
    }.items(),
    ids=lambda item: item[0],
)
def test_malicious_archive(
    site: Site, data_dir: Path, members: tuple[str, list[tuple[tarfile.TarInfo, bytes]]]
) -> None:
    site.publish(archive(*members[1]))
    refused(data_dir, f"holds no {NAME}", releases=site.releases)


def test_oversized_program(site: Site, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small archive may unpack to a large file."""
    content = archive(file(NAME, program() + bytes(1 << 20)))
    site.publish(content)
    monkeypatch.setattr(install, "MAX_ARCHIVE_BYTES", len(content) + 1)
    refused(data_dir, f"holds no {NAME}", releases=site.releases)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"\x1f\x8b\x08garbage", GOOD[:40] + os.urandom(200)])
def test_what_is_no_archive(site: Site, data_dir: Path, content: bytes) -> None:
    site.publish(content)
    refused(data_dir, "is no archive of a release|holds no", releases=site.releases)


def test_program_of_another_version_than_it_is_called(site: Site, data_dir: Path) -> None:
    site.publish(release("1.15.0"))
    refused(
        data_dir, r"holds Firecracker 1\.15\.0, not 1\.16\.1; --version says which is wanted", releases=site.releases
    )


def test_program_that_does_not_run(site: Site, data_dir: Path) -> None:
    site.publish(archive(file(NAME, b"\x7fELF but not for long")))
    refused(data_dir, "cannot be run", releases=site.releases)


@pytest.mark.parametrize(
    ("version", "error"),
    [
        ("1.4.1", UnsupportedByMonitor),
        ("2.0.0", UnsupportedByMonitor),
        ("latest", MonitorUnavailable),
        ("", MonitorUnavailable),
    ],
)
def test_version_that_cannot_be_used(site: Site, data_dir: Path, version: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        install_firecracker(data_dir, version=version, releases=site.releases)
    assert site.asked == []
    assert not data_dir.exists()


def test_data_directory_that_cannot_be_made(site: Site, tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"a file")
    site.publish()
    with pytest.raises(ConfigError, match="cannot install into"):
        install_firecracker(tmp_path / "taken/data", version=VERSION, releases=site.releases)
    assert tree(tmp_path) == {"taken": b"a file"}


Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(data_dir: Path) -> Cli:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fc_kernel.cli", "firecracker", "install", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


def test_command_installs(site: Site, data_dir: Path, cli: Cli) -> None:
    site.publish()
    done = cli("--from", site.archive, "--json")
    assert done.returncode == 0, done.stderr
    installed = data_dir / "firecracker" / VERSION / "firecracker"
    assert json.loads(done.stdout) == {"path": str(installed), "version": VERSION}
    assert installed.read_bytes() == program()


def test_command_says_what_is_wrong_in_one_line(site: Site, data_dir: Path, cli: Cli) -> None:
    site.publish()
    done = cli("--version", VERSION, "--from", site.archive, "--sha256", "0" * 64)
    assert done.returncode == 1
    assert done.stdout == ""
    said = [line for line in done.stderr.splitlines() if "SHA-256" in line]
    assert len(said) == 1
    assert "Traceback" not in done.stderr
    assert not data_dir.exists()
