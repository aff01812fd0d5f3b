"""Real clients on real kernels: each test runs on the fake monitor (fast) and on a real VM."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from fc_kernel.settings import kernelspec

#: A guest under emulation is about eleven times slower than the host, and the host may be busy.
DEADLINE_S = 180

#: Set on a module when one of its tests has failed.
SUSPECT = pytest.StashKey[bool]()

MONITORS = ["fake", pytest.param("qemu", marks=pytest.mark.vm)]


@pytest.fixture(scope="session")
def jupyter_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory of its own with the kernelspec, as ``fc-kernel install --prefix`` makes it."""
    prefix = tmp_path_factory.mktemp("prefix")
    kernelspec.install(kernelspec.Profile(), prefix=str(prefix))
    patch = pytest.MonkeyPatch()
    patch.setenv("JUPYTER_PATH", str(prefix / "share/jupyter"))
    yield prefix
    patch.undo()


@pytest.fixture(scope="module", params=MONITORS)
def monitor(request: pytest.FixtureRequest, jupyter_path: Path) -> Iterator[str]:
    """The monitor that kernels started in this module use."""
    patch = pytest.MonkeyPatch()
    patch.setenv("FC_KERNEL_MONITOR", request.param)
    yield request.param
    patch.undo()


@pytest.fixture(scope="module")
def module_manager(monitor: str) -> Iterator[KernelManager]:
    """One kernel for a module's tests."""
    manager = KernelManager(kernel_name="fc-python3")
    manager.start_kernel()
    yield manager
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note a failure, for the next test that uses the module's kernel."""
    report = yield
    if report.failed and item.parent is not None:
        item.parent.stash[SUSPECT] = True
    return report


@pytest.fixture
def manager(module_manager: KernelManager, request: pytest.FixtureRequest) -> KernelManager:
    """The module's kernel, a new one after a test that failed: what is wedged would cost each later test its deadline."""
    if request.node.parent.stash.get(SUSPECT, False):
        request.node.parent.stash[SUSPECT] = False
        module_manager.restart_kernel(now=True)
    return module_manager


def another_client(manager: KernelManager) -> BlockingKernelClient:
    """A client with a session of its own; those of ``manager.client()`` share one, and with it their sockets' identity."""
    another = BlockingKernelClient()
    another.load_connection_info(manager.get_connection_info())
    return another


@pytest.fixture
def client(manager: KernelManager) -> Iterator[BlockingKernelClient]:
    """A client of the module's kernel."""
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=DEADLINE_S)
        yield client
    finally:
        client.stop_channels()


@pytest.fixture
def run(client: BlockingKernelClient) -> Callable[..., Run]:
    """Execute code and collect what came of it."""

    def execute(code: str, **options: Any) -> Run:
        return Run(client, code, **options)

    return execute


class Run:
    """One execute request, its reply and its iopub messages."""

    def __init__(self, client: BlockingKernelClient, code: str, *, timeout: float = DEADLINE_S, **options: Any) -> None:
        self.messages: list[dict[str, Any]] = []
        self.reply = client.execute_interactive(
            code,
            timeout=timeout,
            output_hook=self.messages.append,
            allow_stdin=options.pop("allow_stdin", False),
            **options,
        )

    @property
    def ok(self) -> bool:
        return self.reply["content"]["status"] == "ok"

    @property
    def stdout(self) -> str:
        return "".join(
            m["content"]["text"]
            for m in self.messages
            if m["msg_type"] == "stream" and m["content"]["name"] == "stdout"
        )

    @property
    def data(self) -> list[dict[str, Any]]:
        kinds = ("execute_result", "display_data")
        return [m["content"]["data"] for m in self.messages if m["msg_type"] in kinds]

    @property
    def value(self) -> str:
        return self.data[-1]["text/plain"]
