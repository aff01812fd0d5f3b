"""A server that is killed at a chosen point of what it does. Run as a program: DATA_DIR DOING POINT.

DOING is ``snapshot``, ``restore`` (of one that it took before) or ``fork``.

Points are the store's own steps (``store:NAME``), and those of the driver and the agent before (``<pause``) and after
(``pause>``) each; ``list`` kills nobody and prints all points in their order. A name with ``#2`` is its second time.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fc_kernel.machine.rpc import RpcConnection
from fc_kernel.testing import FakeVmm

from ..scripted_kernel import scripted_environment, scripted_kernels

DRIVER = ("pause", "snapshot", "resume", "written", "load", "aclose")
AGENT = ("freeze", "thaw", "renew")


class Points:
    """All points that were passed, and the one where everything ends."""

    def __init__(self, fatal: str) -> None:
        self._fatal = fatal
        self._times: Counter[str] = Counter()
        self.armed = False

    def passed(self, name: str) -> None:
        if not self.armed:
            return
        self._times[name] += 1
        point = f"{name}#{self._times[name]}" if self._times[name] > 1 else name
        if self._fatal == "list":
            print(point, flush=True)
        if self._fatal == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: type[Any], attribute: str, names: tuple[str, ...]) -> None:
        """Both sides of a method, whose first argument is the name where there are several."""
        method = getattr(owner, attribute)

        @functools.wraps(method)
        async def call(*args: Any, **more: Any) -> Any:
            name = names[0] if len(names) == 1 else args[1]
            if name in names:
                self.passed(f"<{name}")
            result = await method(*args, **more)
            if name in names:
                self.passed(f"{name}>")
            return result

        setattr(owner, attribute, call)


async def serve(data_dir: Path, doing: str, points: Points) -> None:
    scripted_environment(pytest.MonkeyPatch(), data_dir)
    async with scripted_kernels(templates=False) as make:
        kernel = await make()
        await kernel.client.run("x = 'kept'")
        kernel.store._root.step = lambda name: points.passed(f"store:{name}")
        if doing != "snapshot":
            await kernel.snapshot("a")
        points.armed = True
        if doing == "snapshot":
            await kernel.snapshot("a")
        elif doing == "restore":
            await kernel.restore("a")
        else:
            await kernel.engine.run(kernel.session.fork(2, ref="a"))
        points.armed = False
        if points._fatal == "list":
            return
        print("survived", flush=True)


def main() -> None:
    data_dir, doing, fatal = sys.argv[1:]
    points = Points(fatal)
    for name in DRIVER:
        points.around(FakeVmm, name, (name,))
    points.around(RpcConnection, "call", AGENT)
    asyncio.run(serve(Path(data_dir), doing, points))


if __name__ == "__main__":
    main()
