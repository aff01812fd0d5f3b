"""The kernel's tests once more on the fake monitor, with a host to which nothing but bytes gets through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fc_kernel.host.current import hosts

from ..encoded_host import EncodedHost
from . import test_kernel


@pytest.fixture(scope="module")
def monitor(jupyter_path: Path) -> Iterator[str]:
    """As everywhere, but what crosses the boundary is encoded, and decoded again on the other side."""
    patch = pytest.MonkeyPatch()
    patch.setenv("FC_KERNEL_MONITOR", "fake")
    hosts().use(lambda tenant: EncodedHost(hosts().local(tenant)))
    yield "fake"
    hosts().use(None)
    patch.undo()


globals().update({name: each for name, each in vars(test_kernel).items() if name.startswith("test_")})
