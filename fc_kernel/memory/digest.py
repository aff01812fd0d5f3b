"""The digest of a memory file: it covers the blocks that are not all zero and their positions, so that holes cost nothing.

It is SHA-256 over ``FCSPARSE``, the size as u64, and for each block of 64 KiB that is not all zero its number as u64 and
its bytes (the last block may be shorter); little endian. A hole and written zeros give the same digest.
"""

from __future__ import annotations

import errno
import hashlib
import os

from .pages import data_extents

MAGIC = b"FCSPARSE"
BLOCK_BYTES = 64 << 10
#: How much is read at a time.
CHUNK_BYTES = 1 << 20
_ZEROS = bytes(CHUNK_BYTES)


def memory_digest(descriptor: int) -> str:
    """The digest of an open file, as hexadecimal digits; raises :class:`OSError`."""
    size = os.fstat(descriptor).st_size
    digest = hashlib.sha256(MAGIC + size.to_bytes(8, "little"))
    done = 0
    for start, end in data_extents(descriptor, size):
        at = max(done, start - start % BLOCK_BYTES)
        done = min(size, end + -end % BLOCK_BYTES)
        while at < done:
            data = _read(descriptor, min(CHUNK_BYTES, done - at), at)
            if data != _ZEROS[: len(data)]:
                _add(digest, data, at)
            at += len(data)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, data: bytes, at: int) -> None:
    for offset in range(0, len(data), BLOCK_BYTES):
        # bytes, not a memoryview: bytes are compared by memcmp.
        block = data[offset : offset + BLOCK_BYTES]
        if block != _ZEROS[: len(block)]:
            digest.update(((at + offset) // BLOCK_BYTES).to_bytes(8, "little"))
            digest.update(block)


def _read(descriptor: int, size: int, offset: int) -> bytes:
    data = os.pread(descriptor, size, offset)
    while len(data) < size:
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:
            raise OSError(errno.EIO, f"the file ends at byte {offset + len(data)}")
        data += more
    return data
