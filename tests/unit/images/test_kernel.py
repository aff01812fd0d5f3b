"""The uncompressed kernel out of a bzImage: each compression that Linux knows and we take, and damage."""

from __future__ import annotations

import gzip
import lzma
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import lz4.block
import pytest

from fc_kernel.errors import ImageBuildError
from fc_kernel.images.kernel import LZ4_BLOCK_BYTES, find_kernel, uncompressed

KERNEL = b"\x7fELF" + bytes(range(256)) * 400


def xz(kernel: bytes) -> bytes:
    return lzma.compress(kernel, format=lzma.FORMAT_XZ)


def lz4_legacy(kernel: bytes) -> bytes:
    blocks = [kernel[at : at + LZ4_BLOCK_BYTES] for at in range(0, len(kernel), LZ4_BLOCK_BYTES)]
    packed = [lz4.block.compress(block, store_size=False) for block in blocks]
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(block)) + block for block in packed)


def zstd(kernel: bytes) -> bytes:
    if shutil.which("zstd") is None:
        pytest.skip("zstd is not installed")
    return subprocess.run(["zstd", "-c"], input=kernel, capture_output=True, check=True).stdout


def bzimage(payload: bytes, *, setup_sectors: int = 3) -> bytes:
    """As ``Documentation/arch/x86/boot.rst`` lays it out, with nothing but what says where the payload is."""
    head = bytearray((setup_sectors + 1) * 512)
    head[0x1F1] = setup_sectors
    head[0x202:0x206] = b"HdrS"
    head[0x248:0x250] = struct.pack("<II", 64, len(payload))
    return bytes(head) + b"\x90" * 64 + payload + b"tail"


def with_size(compress: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """The kernel's build appends the size, but for gzip, whose format ends with it."""
    return lambda kernel: compress(kernel) + struct.pack("<I", len(kernel))


FORMATS = {"gzip": gzip.compress, "xz": with_size(xz), "lz4": with_size(lz4_legacy), "zstd": with_size(zstd)}


@pytest.mark.parametrize("name", FORMATS)
def test_each_compression(name: str) -> None:
    assert uncompressed(bzimage(FORMATS[name](KERNEL))) == KERNEL


def test_lz4_of_several_blocks() -> None:
    kernel = KERNEL + b"\0" * (LZ4_BLOCK_BYTES + 5)
    assert uncompressed(bzimage(FORMATS["lz4"](kernel))) == kernel


def test_no_setup_sectors_means_four() -> None:
    image = bytearray(bzimage(gzip.compress(KERNEL), setup_sectors=4))
    image[0x1F1] = 0
    assert uncompressed(bytes(image)) == KERNEL


def test_an_uncompressed_kernel_is_itself() -> None:
    assert uncompressed(KERNEL) is KERNEL


@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_payload_is_an_error(name: str) -> None:
    payload = FORMATS[name](KERNEL)
    with pytest.raises(ImageBuildError, match="kernel"):
        uncompressed(bzimage(payload[: len(payload) // 2]))


@pytest.mark.parametrize("name", FORMATS)
def test_flipped_bytes_never_pass_for_a_kernel(name: str) -> None:
    """An error of ours, or, where the format has no checksum (LZ4), at least not another size."""
    payload = FORMATS[name](KERNEL)
    for at in range(0, len(payload), max(1, len(payload) // 64)):
        damaged = bytearray(payload)
        damaged[at] ^= 0x40
        try:
            kernel = uncompressed(bzimage(bytes(damaged)))
        except ImageBuildError:
            continue
        assert len(kernel) == len(KERNEL)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "neither"),
        (b"MZ" + b"\0" * 600, "neither"),
        (b"\0" * 0x202 + b"HdrS", "cannot decompress"),
        (bzimage(b""), "unknown way"),
        (bzimage(b"\x5d\0\0\0rest of an LZMA stream"), "unknown way"),
        (bzimage(gzip.compress(b"not ELF")), "no ELF"),
    ],
)
def test_what_is_no_kernel_is_an_error(image: bytes, message: str) -> None:
    with pytest.raises(ImageBuildError, match=message):
        uncompressed(image)


def test_the_newest_kernel_of_a_tree(tmp_path: Path) -> None:
    for release in ("6.1.0-1", "6.1.0-2"):
        (tmp_path / "boot").mkdir(exist_ok=True)
        (tmp_path / f"boot/vmlinuz-{release}").touch()
        (tmp_path / f"usr/lib/modules/{release}").mkdir(parents=True)
    image, modules, release = find_kernel(tmp_path)
    assert (image.name, modules, release) == ("vmlinuz-6.1.0-2", tmp_path / "usr/lib/modules/6.1.0-2", "6.1.0-2")


def test_a_tree_without_kernel_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageBuildError, match="vmlinuz"):
        find_kernel(tmp_path)
