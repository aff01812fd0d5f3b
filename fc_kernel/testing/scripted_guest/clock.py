"""A machine's own clocks and randomness, which stop, are saved and continue like those of a VM."""

from __future__ import annotations

import hashlib
import time
from typing import Any


class Clock:
    """Monotonic time since the boot, except while the machine was paused or saved, and the date as far as it knows."""

    def __init__(self, saved: dict[str, float] | None = None) -> None:
        at = saved or {"monotonic": 0.0, "realtime": time.time()}
        self._offset = at["monotonic"] - time.monotonic()
        self._date = at["realtime"] - at["monotonic"]
        self._stopped_at: float | None = None

    def monotonic(self) -> float:
        """Seconds since the boot."""
        return (time.monotonic() if self._stopped_at is None else self._stopped_at) + self._offset

    def time(self) -> float:
        """Seconds since the epoch, as far as this machine knows: a loaded one lags behind until it is told."""
        return self.monotonic() + self._date

    def set(self, realtime: float) -> None:
        """Set the date that the host gives."""
        self._date = realtime - self.monotonic()

    def stop(self) -> None:
        """Stop the clock: the machine stands still."""
        self._stopped_at = time.monotonic()

    def go(self) -> None:
        """Let the clock go on where it stopped."""
        if self._stopped_at is not None:
            self._offset -= time.monotonic() - self._stopped_at
            self._stopped_at = None

    def state(self) -> dict[str, float]:
        """The state, to be saved."""
        return {"monotonic": self.monotonic(), "realtime": self.time()}


class Noise:
    """Random bytes that follow from a seed, so that two machines with one seed draw the same."""

    def __init__(self, seed: str, drawn: int = 0) -> None:
        self.seed = seed
        self.drawn = drawn

    def draw(self) -> bytes:
        """The next 32 bytes."""
        self.drawn += 1
        return hashlib.sha256(f"{self.seed}:{self.drawn}".encode()).digest()

    def state(self) -> list[Any]:
        """The state, to be saved: the arguments of the constructor."""
        return [self.seed, self.drawn]
