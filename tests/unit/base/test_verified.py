"""Remembered digests: what is unchanged is not read again, and nothing else is ever believed."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from fc_kernel.base import verified
from fc_kernel.base.verified import FILE_NAME, VALID_FOR_S, VerifiedFiles


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as settled at once."""
    monkeypatch.setattr(verified, "SETTLED_AFTER_S", -1)
    path = tmp_path / "rootfs"
    path.write_bytes(b"content")
    return path


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def records(cache: Path) -> dict[str, tuple[str, float]]:
    return json.loads((cache / FILE_NAME).read_text())


def believes(cache: Path, file: Path) -> bool:
    """Whether a record of another digest than the true one would be taken."""
    said = {key: ["f" * 64, at] for key, (_, at) in records(cache).items()}
    (cache / FILE_NAME).write_text(json.dumps(said))
    return VerifiedFiles(cache).sha256_of(file) == "f" * 64


def test_an_unchanged_file_is_not_read_again(cache: Path, file: Path) -> None:
    assert VerifiedFiles(cache).sha256_of(file) == digest_of(file)
    assert believes(cache, file)


@pytest.mark.parametrize("same_times", [False, True])
def test_a_changed_byte_is_seen(cache: Path, file: Path, same_times: bool) -> None:
    """Also when whoever changed it set the time of the last change back: the inode's own time tells."""
    before = file.stat()
    VerifiedFiles(cache).sha256_of(file)
    file.write_bytes(b"cOntent")
    if same_times:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert VerifiedFiles(cache).sha256_of(file) == digest_of(file)


def test_another_file_in_its_place_is_seen(cache: Path, file: Path, tmp_path: Path) -> None:
    VerifiedFiles(cache).sha256_of(file)
    other = tmp_path / "other"
    other.write_bytes(b"cOntent")
    other.replace(file)
    assert VerifiedFiles(cache).sha256_of(file) == digest_of(file)


def test_a_file_that_has_just_changed_is_not_remembered(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "fresh"
    path.write_bytes(b"fresh")
    assert VerifiedFiles(cache).sha256_of(path) == digest_of(path)
    assert not (cache / FILE_NAME).exists()


@pytest.mark.parametrize("age_s", [VALID_FOR_S + 1, -3600])
def test_a_record_expires(cache: Path, file: Path, age_s: float) -> None:
    """Also one from the future, as a wrong clock makes it."""
    VerifiedFiles(cache).sha256_of(file)
    said = {key: [digest, time.time() - age_s] for key, (digest, _) in records(cache).items()}
    (cache / FILE_NAME).write_text(json.dumps(said))
    assert not believes(cache, file)


def test_expired_records_do_not_pile_up(cache: Path, file: Path, tmp_path: Path) -> None:
    (cache / FILE_NAME).write_text(json.dumps({"1:2:3:4:5": ["0" * 64, time.time() - VALID_FOR_S - 1]}))
    (cache / FILE_NAME).chmod(0o600)
    VerifiedFiles(cache).sha256_of(file)
    assert [digest for digest, _ in records(cache).values()] == [digest_of(file)]


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_records_that_others_could_write_are_not_believed(cache: Path, file: Path, mode: int) -> None:
    VerifiedFiles(cache).sha256_of(file)
    (cache / FILE_NAME).chmod(mode)
    assert not believes(cache, file)


def test_records_behind_a_link_are_not_believed(cache: Path, file: Path, tmp_path: Path) -> None:
    VerifiedFiles(cache).sha256_of(file)
    (cache / FILE_NAME).rename(tmp_path / "elsewhere")
    (cache / FILE_NAME).symlink_to(tmp_path / "elsewhere")
    assert not believes(cache, file)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")
def test_records_of_another_user_are_not_believed(cache: Path, file: Path) -> None:
    VerifiedFiles(cache).sha256_of(file)
    os.chown(cache / FILE_NAME, 12345, 12345)
    assert not believes(cache, file)


@pytest.mark.parametrize(
    "text", ["", "[]", "1", "{", '{"a": 1}', '{"a": [1]}', '{"a": ["b", "c"]}', '{"a": null}', "[" * 9999]
)
def test_damaged_records_count_for_nothing(cache: Path, file: Path, text: str) -> None:
    (cache / FILE_NAME).write_text(text)
    (cache / FILE_NAME).chmod(0o600)
    assert VerifiedFiles(cache).sha256_of(file) == digest_of(file)
    assert believes(cache, file)


def test_records_are_private_and_whole(cache: Path, file: Path) -> None:
    VerifiedFiles(cache).sha256_of(file)
    assert (cache / FILE_NAME).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in cache.iterdir()] == [FILE_NAME]


def test_a_cache_that_cannot_be_written_only_costs_time(file: Path, tmp_path: Path) -> None:
    (tmp_path / "no-directory").touch()
    assert VerifiedFiles(tmp_path / "no-directory").sha256_of(file) == digest_of(file)
