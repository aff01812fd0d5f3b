"""The host's time-stamp counter: how fast it counts.

An emulated guest reads the host's counter and calibrates it against an emulated timer chip. On a busy host that fails in
one boot of six, and Linux without a clock hangs. So the guest is told the speed with ``tsc_early_khz``.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from functools import cache

#: ``rdtsc; shl rdx, 32; or rax, rdx; ret``
READ_TSC = b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3"
#: Long enough that a microsecond at each reading does not matter (5e-5), short enough for a start.
INTERVAL_S = 0.02


@cache
def tsc_khz() -> int | None:
    """Counts per millisecond, measured once per process; ``None`` where code in memory may not be executed."""
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except (OSError, ValueError):
        return None
    page.write(READ_TSC)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    read = ctypes.CFUNCTYPE(ctypes.c_uint64)(address)
    _reading(read)
    ticks, nanoseconds = _reading(read)
    time.sleep(INTERVAL_S)
    ticks_later, nanoseconds_later = _reading(read)
    return round((ticks_later - ticks) * 1_000_000 / (nanoseconds_later - nanoseconds))


def _reading(read: ctypes._CFuncPtr) -> tuple[int, int]:  # type: ignore[name-defined]
    """The counter and the clock at nearly the same instant: the closest of a few tries."""
    best: tuple[int, int, int] | None = None
    for _ in range(5):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        ticks = read()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        if best is None or after - before < best[0]:
            best = (after - before, ticks, (before + after) // 2)
    assert best is not None  # noqa: S101 - there was a try
    return best[1], best[2]
