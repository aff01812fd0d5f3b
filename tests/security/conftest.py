"""Kernels on the fake monitor whose guest may be hostile, and one that must notice nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from fc_kernel.testing import fake_vmm

from ..jupyter.conftest import Run, jupyter_path  # noqa: F401

ROGUE = Path(__file__).parent / "rogue_agent.py"
SCRIPT = """\
import runpy, sys
sys.argv[1:1] = [{behaviour!r}, {identity!r}]
runpy.run_path({path!r}, run_name="__main__")
"""


@pytest.fixture(scope="session")
def on_the_fake(jupyter_path: Path) -> Iterator[None]:  # noqa: F811
    """Kernels started in these tests use the fake monitor."""
    patch = pytest.MonkeyPatch()
    patch.setenv("FC_KERNEL_MONITOR", "fake")
    yield
    patch.undo()


@contextmanager
def managed(**options: Any) -> Iterator[KernelManager]:
    """A manager whose kernel, if it started one, is ended whatever happens."""
    manager = KernelManager(kernel_name="fc-python3", **options)
    try:
        yield manager
    finally:
        if manager.has_kernel:
            manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


@contextmanager
def connected(manager: KernelManager, **channels: bool) -> Iterator[BlockingKernelClient]:
    """A client of a started kernel."""
    client = manager.client()
    client.start_channels(**channels)
    try:
        yield client
    finally:
        client.stop_channels()


class Innocent:
    """A kernel of somebody else's on the same host."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client
        Run(client, "kept = []")
        self._count = 0

    @property
    def kernel_id(self) -> str:
        return str(self.manager.kernel_id)

    def is_undisturbed(self) -> bool:
        """It lives, answers, and has all that it was told before; and nothing else has been said to its client."""
        assert not self.client.shell_channel.msg_ready()
        self._count += 1
        run = Run(self.client, f"kept.append({self._count}); len(kept), sum(kept)")
        return run.ok and run.value == str((self._count, sum(range(self._count + 1))))


@pytest.fixture(scope="module")
def innocent(on_the_fake: None) -> Iterator[Innocent]:
    with managed() as manager:
        manager.start_kernel()
        with connected(manager) as client:
            client.wait_for_ready(timeout=60)
            yield Innocent(manager, client)


@pytest.fixture
def rogue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, innocent: Innocent) -> Callable[..., None]:
    """From now on guests of the fake monitor behave as they are told; the innocent one runs already."""

    def behave(behaviour: str, **options: Any) -> None:
        script = tmp_path / "main.py"
        identity = options.pop("identity", "-")
        script.write_text(SCRIPT.format(behaviour=behaviour, identity=identity, path=str(ROGUE)))
        monkeypatch.setattr(fake_vmm, "MAIN", script)

    return behave
