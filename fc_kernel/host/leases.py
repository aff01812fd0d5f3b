"""Leases: a kernel is closed when its holder stops renewing. So nobody has to notice that a client has died."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

#: If the end of a lease is seen this much too late, this process itself was stopped (a laptop's sleep, a debugger), and the
#: holder perhaps with it. Then the lease runs once more.
STOPPED_S = 5.0
#: After its end a lease can still be renewed for this long, or for this part of its length if that is shorter: a renewal may
#: wait in the queue of a loop that was stopped until a moment ago.
GRACE_S = 1.0
GRACE_PART = 0.25


class Lease:
    """The lease of one kernel. It lives on the loop on which it is made, where ``on_end`` is called when it runs out."""

    def __init__(self, lease_s: float, on_end: Callable[[], None]) -> None:
        self._lease_s = lease_s
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._holds = 0
        self.renew()

    def renew(self) -> None:
        """Start the lease anew."""
        self.cancel()
        self._timer = self._loop.call_later(self._lease_s, self._ran_out, self._loop.time() + self._lease_s)

    def cancel(self) -> None:
        """Stop the lease; ``on_end`` will not be called."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """During a call on the kernel the lease does not run out; after the call it starts anew."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            if self._timer is not None:
                self.renew()

    def _ran_out(self, due: float) -> None:
        if self._again(due):
            return
        grace_s = min(GRACE_S, self._lease_s * GRACE_PART)
        self._timer = self._loop.call_later(grace_s, self._end, self._loop.time() + grace_s)

    def _end(self, due: float) -> None:
        if not self._again(due):
            self._timer = None
            self._on_end()

    def _again(self, due: float) -> bool:
        """Whether the lease runs once more."""
        if self._holds or self._loop.time() - due > STOPPED_S:
            self.renew()
            return True
        return False
