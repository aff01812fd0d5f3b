"""Kernels that are started from a snapshot of a real machine, restarted, and that end in one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import KernelManager

import fc_kernel
from fc_kernel.errors import FcKernelError
from fc_kernel.settings.config import FcKernelConfig
from fc_kernel.settings.tenant import Tenant
from fc_kernel.supply.stores import snapshot_store

from ..conftest import DEADLINE_S
from ..snapshot_clients import Caller, session_of

pytestmark = [pytest.mark.vm, pytest.mark.timeout(4 * DEADLINE_S)]

Start = Callable[..., tuple[KernelManager, Caller]]


@pytest.fixture
def start(monitor: str) -> Iterator[Start]:
    """Kernels that end with the test."""
    made: list[tuple[KernelManager, Caller]] = []

    def start(**options: Any) -> tuple[KernelManager, Caller]:
        manager = KernelManager(kernel_name="fc-python3")
        manager.start_kernel(**options)
        made.append((manager, Caller.of(manager)))
        return made[-1]

    yield start
    for manager, caller in made:
        caller.close()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


@pytest.fixture(scope="module")
def ref(monitor: str) -> dict[str, str]:
    """A snapshot of a kernel that is no more: how settings name it."""
    manager = KernelManager(kernel_name="fc-python3")
    manager.start_kernel()
    caller = Caller.of(manager)
    try:
        caller.did("import os; x = 'kept'; y = 0; os.chdir('/tmp')\n%snapshot base\ny = 1")
        vm_id = session_of(manager).info()["vm_id"]
    finally:
        caller.close()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
    [snapshot] = [
        each for each in snapshot_store(Tenant.of_this_process(FcKernelConfig())).list() if each.name == "base"
    ]
    return {"vm_id": vm_id, "snapshot_id": snapshot.id}


def test_once_and_then_a_fresh_one(ref: dict[str, str], start: Start) -> None:
    """The rest of the snapshot's cell does not run; a later restart does not restore again."""
    manager, caller = start(fc_kernel={"restore_from": ref})
    assert caller.value("(x, y)") == ("kept", 0)
    assert session_of(manager).info()["started"] == "snapshot"
    # Its own snapshots are its own.
    caller.did("x = 'mine'\n%snapshot base\nx = 'spoilt'\n")
    caller.did("%restore base")
    assert caller.value("x") == "mine"
    manager.restart_kernel(now=True)
    caller.client.wait_for_ready(timeout=DEADLINE_S)
    assert caller.value("'x' in globals()") is False


def test_two_of_one_snapshot(ref: dict[str, str], start: Start) -> None:
    _, one = start(fc_kernel={"restore_from": ref})
    _, two = start(fc_kernel={"restore_from": ref})
    one.did("x = 1")
    assert (one.value("x"), two.value("x")) == (1, "kept")
    draw = "import random; random.random()"
    assert one.value(draw) != two.value(draw)


def test_named_by_a_notebook(ref: dict[str, str]) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(x, y)")])
    notebook.metadata["fc_kernel"] = {"restore_from": ref}
    notebook.metadata["kernelspec"] = {"name": "fc-python3", "display_name": "", "language": "python"}
    done = fc_kernel.execute(notebook)
    assert done.cells[0].outputs[0].text == "kept 0\n"


@pytest.mark.parametrize(
    ("change", "told"),
    [({"snapshot_id": "0123456789abcdef"}, "0123456789abcdef"), ({"vm_id": "0badcafe"}, "0badcafe")],
    ids=["unknown", "of another VM"],
)
def test_what_is_not_there(ref: dict[str, str], monitor: str, change: dict[str, str], told: str) -> None:
    manager = KernelManager(kernel_name="fc-python3")
    with pytest.raises(FcKernelError, match=told) as raised:
        manager.start_kernel(fc_kernel={"restore_from": {**ref, **change}})
    assert "\n" not in str(raised.value)
    manager.cleanup_resources()


def test_a_restored_kernel_that_dies(start: Start) -> None:
    """The cell in which it ends is answered; what is started again is fresh, and the past can still be restored."""
    manager, caller = start()
    caller.did("import os; x = 'past'\n%snapshot dies")
    caller.did("%restore dies")
    assert caller.run("os._exit(3)").reply["ename"] == "KernelDied"
    assert not manager.is_alive()
    # As the restarter of a server does.
    manager.restart_kernel(now=True)
    caller.client.wait_for_ready(timeout=DEADLINE_S)
    assert caller.value("'x' in globals()") is False
    caller.did("%restore dies")
    assert caller.value("x") == "past"
    assert caller.breaks == []
