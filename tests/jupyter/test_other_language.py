"""R in a microVM: a kernel that is not ours, interrupted, saved, put back and forked, and everything through its kernelspec.

The image ``r`` has Debian's ``r-cran-irkernel``; ``pytest --build-images`` builds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from traitlets.config import Config

from fc_kernel.base.paths import data_dir
from fc_kernel.errors import StateError
from fc_kernel.host.engine import Engine
from fc_kernel.sessions.session import KernelSession

from ..conftest import ProcessResources
from ..unit.calling import call
from ..waiting import eventually
from .conftest import DEADLINE_S, Run

pytestmark = pytest.mark.vm(image="r")

ARGV = "R --slave -e IRkernel::main() --args {connection_file}"


@pytest.fixture(autouse=True)
def nothing_is_left() -> None:
    """Looked at when all have run: each restore puts another VM in the place of the one before."""


@pytest.fixture(scope="module")
def monitor(tmp_path_factory: pytest.TempPathFactory, short_private_runtime_dir: Path) -> Iterator[str]:
    """With kernelspecs and stores of its own, but for the images'."""
    before = ProcessResources(short_private_runtime_dir)
    prefix = tmp_path_factory.mktemp("r")
    (prefix / "images").symlink_to(data_dir() / "images")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(prefix / "share/jupyter"))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(prefix / "runtime"))
        patch.setenv("FC_KERNEL_DATA_DIR", str(prefix))
        patch.setenv("FC_KERNEL_MONITOR", "qemu")
        words = ["install", "--prefix", str(prefix), "--name", "r", "--image", "r", "--language", "R", "--argv", ARGV]
        assert call(*words).status == 0
        yield "qemu"
    eventually(lambda: not ProcessResources(short_private_runtime_dir).more_than(before), "all VMs have ended")


@pytest.fixture(scope="module")
def module_manager(monitor: str) -> Iterator[KernelManager]:
    """One kernel for all; a configuration of its own has a store of its own."""
    config = Config({"FcKernelConfig": {"max_snapshots": 20, "max_start_timeout_s": 600.0, "start_timeout_s": 600.0}})
    manager = KernelManager(kernel_name="r", config=config)
    manager.start_kernel()
    yield manager
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()


@pytest.fixture
def session(manager: KernelManager) -> KernelSession:
    """The host's side of the kernel."""
    found = Engine.shared().session_of(manager.kernel_id)
    assert found is not None
    return found


def snapshot(session: KernelSession, name: str) -> None:
    Engine.shared().run_blocking(session.take_snapshot(name))


def restore(session: KernelSession, name: str) -> None:
    Engine.shared().run_blocking(session.restore(name))


def heard(client: BlockingKernelClient, msg_type: str) -> dict[str, Any]:
    """The next output of that kind."""
    while (message := client.get_iopub_msg(timeout=DEADLINE_S))["msg_type"] != msg_type:
        pass
    found: dict[str, Any] = message
    return found


def test_it_speaks_its_language(
    client: BlockingKernelClient, run: Callable[..., Run], session: KernelSession, manager: KernelManager
) -> None:
    spec = manager.kernel_spec
    assert spec is not None
    assert (spec.display_name, spec.language) == ("R (microVM)", "R")
    info = client.kernel_info(reply=True, timeout=DEADLINE_S)
    assert info["content"]["language_info"]["name"] == "R"
    assert run("6 * 7").value == "[1] 42"
    assert run("cat('to the tty')").stdout == "to the tty"
    assert run("stop('no')").reply["content"]["status"] == "error"
    assert run("cat(Sys.getpid() != 1, Sys.info()[['sysname']])").stdout == "TRUE Linux"
    # Its template has only the agent running; a generation is counted for each start.
    assert Engine.shared().run_blocking(_info(session))["started"] == "template"


async def _info(session: KernelSession) -> dict[str, object]:
    return session.info()


def test_put_back_again_and_again(run: Callable[..., Run], session: KernelSession) -> None:
    assert run("x <- 41; f <- file('/tmp/half-read', 'w+'); writeLines(c('a', 'b'), f); first <- readLines(f, 1)").ok
    counter = run("invisible(0)").reply["content"]["execution_count"]
    snapshot(session, "one")
    before = session.incarnation
    assert before is not None
    for _ in range(3):
        assert run("x <- 'spoilt'; invisible(file.remove('/tmp/half-read')); close(f)").ok
        restore(session, "one")
        after = run("cat(x + 1, first, readLines(f, 1), file.exists('/tmp/half-read'))")
        assert after.stdout == "42 a b TRUE"
        assert after.reply["content"]["execution_count"] == counter + 1
    after_all = session.incarnation
    assert after_all is not None
    assert after_all.generation == before.generation + 3
    # Our own kernel takes a new key; this one was never told of it.
    assert after_all.key == before.key
    # A snapshot of what was restored, and back beyond it.
    assert run("x <- 1").ok
    snapshot(session, "two")
    restore(session, "one")
    assert run("cat(x)").stdout == "41"
    restore(session, "two")
    assert run("cat(x)").stdout == "1"


def test_what_was_asked_in_the_past_never_runs_again(
    client: BlockingKernelClient, run: Callable[..., Run], session: KernelSession
) -> None:
    assert run("n <- 0").ok
    asked = [client.execute("Sys.sleep(0.5); n <- n + 1") for _ in range(4)]
    saved = Engine.shared().submit(session.take_snapshot("among"))
    asked += [client.execute("n <- n + 1") for _ in range(4)]
    saved.result(DEADLINE_S)
    answered = [client.get_shell_msg(timeout=DEADLINE_S)["parent_header"]["msg_id"] for _ in asked]
    assert answered == asked
    assert run("cat(n)").stdout == "8"
    restore(session, "among")
    then = int(run("cat(n)").stdout)
    assert 4 <= then <= 8
    assert run("n <- n + 100; cat(n)").stdout == str(then + 100)
    assert run("cat(n)").stdout == str(then + 100)


def test_at_work_it_is_not_saved_and_can_be_interrupted(
    client: BlockingKernelClient, run: Callable[..., Run], session: KernelSession, manager: KernelManager
) -> None:
    assert run("kept <- 1").ok
    asked = client.execute("Sys.sleep(3600)")
    heard(client, "execute_input")
    with pytest.raises(StateError, match="no snapshot was taken: the kernel is at work"):
        snapshot(session, "never")
    manager.interrupt_kernel()
    assert client.get_shell_msg(timeout=DEADLINE_S)["parent_header"]["msg_id"] == asked
    # Until then it aborts whatever comes.
    while heard(client, "status")["content"]["execution_state"] != "idle":
        pass
    assert run("cat(kept)").stdout == "1"
    snapshot(session, "now")


def test_a_fork_is_a_kernel_of_its_own(
    run: Callable[..., Run], session: KernelSession, manager: KernelManager, tmp_path: Path
) -> None:
    assert run("y <- 7").ok
    engine = Engine.shared()
    (fork,) = engine.run_blocking(session.fork(1, "branch"))
    assert fork.error == ""
    assert fork.kernel_id != manager.kernel_id
    other = BlockingKernelClient(connection_file=fork.connection_file)
    other.load_connection_file()
    other.start_channels()
    try:
        other.wait_for_ready(timeout=DEADLINE_S)
        assert Run(other, "y <- y + 1; cat(y)").stdout == "8"
        assert run("cat(y)").stdout == "7"
        forked = engine.session_of(fork.kernel_id)
        assert forked is not None
        snapshot(forked, "of-the-fork")
        other.shutdown()
        engine.run_blocking(forked.wait())
        engine.run_blocking(forked.aclose())
    finally:
        other.stop_channels()
    assert run("cat(y)").stdout == "7"
