"""The guest's kernel: Debian's cloud kernel, unpacked and not installed, and its uncompressed form."""

from __future__ import annotations

import lzma
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import lz4.block

from ..errors import ImageBuildError

ELF = b"\x7fELF"
#: LZ4's legacy frame, which Linux's build uses: blocks of at most 8 MiB, each preceded by its length.
LZ4_LEGACY = b"\x02\x21\x4c\x18"
LZ4_BLOCK_BYTES = 8 << 20
#: ``Documentation/arch/x86/boot.rst``: the fields of the boot protocol's header, version 2.08 and later.
SETUP_SECTS, MAGIC, PAYLOAD_OFFSET = 0x1F1, 0x202, 0x248
SIZE_BYTES = 4


def uncompressed(bzimage: bytes) -> bytes:
    """The ELF file inside a bzImage, which Firecracker needs and QEMU's microvm boots by PVH.

    Raises :class:`~fc_kernel.errors.ImageBuildError`.
    """
    if bzimage[:4] == ELF:
        return bzimage
    if bzimage[MAGIC : MAGIC + 4] != b"HdrS":
        raise ImageBuildError("the kernel is neither an ELF file nor a bzImage")
    setup = (bzimage[SETUP_SECTS] or 4) + 1
    try:
        offset, length = struct.unpack_from("<II", bzimage, PAYLOAD_OFFSET)
        payload = bzimage[setup * 512 + offset :][:length]
        kernel = _decompress(payload)
    except (struct.error, lzma.LZMAError, zlib.error, lz4.block.LZ4BlockError, subprocess.CalledProcessError) as error:
        raise ImageBuildError(f"cannot decompress the kernel: {error}") from error
    # Linux's build appends the uncompressed size to the compressed data; gzip does so itself.
    if len(kernel) != int.from_bytes(payload[-SIZE_BYTES:], "little"):
        raise ImageBuildError(f"the kernel is damaged: it unpacks to {len(kernel)} bytes, which is not what it says")
    if kernel[:4] != ELF:
        raise ImageBuildError("the kernel's payload is no ELF file")
    return kernel


def _decompress(payload: bytes) -> bytes:
    if payload.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(wbits=31).decompress(payload)
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        zstd = shutil.which("zstd")
        if zstd is None:
            raise ImageBuildError("zstd is needed to unpack the kernel: apt-get install zstd")
        return subprocess.run([zstd, "-d", "-c"], input=payload[:-SIZE_BYTES], capture_output=True, check=True).stdout
    if payload.startswith(LZ4_LEGACY):
        return _lz4_legacy(payload[:-SIZE_BYTES])
    raise ImageBuildError(f"the kernel is compressed in an unknown way: {payload[:6].hex()}")


def find_kernel(tree: Path) -> tuple[Path, Path, str]:
    """The bzImage, the directory of modules and the release in an unpacked kernel package."""
    images = sorted((tree / "boot").glob("vmlinuz-*"))
    if not images:
        raise ImageBuildError("the kernel package has no /boot/vmlinuz-*")
    release = images[-1].name.removeprefix("vmlinuz-")
    modules = tree / "lib/modules" / release
    if not modules.is_dir():
        modules = tree / "usr/lib/modules" / release
    return images[-1], modules, release


def _lz4_legacy(payload: bytes) -> bytes:
    kernel = bytearray()
    at = len(LZ4_LEGACY)
    while at + 4 <= len(payload):
        (size,) = struct.unpack_from("<I", payload, at)
        block = payload[at + 4 : at + 4 + size]
        if not size or len(block) < size:
            break
        kernel += lz4.block.decompress(block, uncompressed_size=LZ4_BLOCK_BYTES)
        at += 4 + size
    return bytes(kernel)
