"""Chains of snapshots, snapshots that outlive their kernel, and the warm pool, on the real Firecracker."""

from __future__ import annotations

import pytest

from fc_kernel.errors import SnapshotError

from ..waiting import eventually
from .conftest import MakeKernel

pytestmark = pytest.mark.firecracker

#: More than a snapshot has layers.
CHAIN = 20


def test_a_long_chain(new_kernel: MakeKernel) -> None:
    kernel = new_kernel()
    client = kernel.start()
    for number in range(CHAIN):
        assert client.execute(f"x = {number}\n%snapshot s{number}\nx = 1000").status == "ok"
    for number in (0, CHAIN - 1, CHAIN // 2, 1):
        assert client.execute(f"%restore s{number}").status == "ok"
        assert client.value("x") == str(number)
    # A branch: from the middle of the chain on.
    assert client.execute("x = x + 100\n%snapshot branch\nx = 0").status == "ok"
    assert client.execute("%restore branch").status == "ok"
    assert client.value("x") == "101"
    assert client.value("count") == "1"


def test_a_snapshot_outlives_its_kernel(new_kernel: MakeKernel) -> None:
    first = new_kernel(scope="notebook")
    client = first.start()
    assert client.execute("x = 41").status == "ok"
    snapshot = first.run(first.session.take_snapshot("kept")).snapshot
    random = client.value("random")
    first.close()
    second = new_kernel(scope="notebook")
    client = second.start(restore_from={"vm_id": snapshot.manifest.vm_id, "snapshot_id": snapshot.id})
    assert second.machine.origin.started == "snapshot"
    assert client.value("x + 1") == "42"
    assert client.value("random") != random
    # A restart is a restart, and no restore.
    second.run(second.session.kill())
    assert second.start().execute("x").reply["ename"] == "NameError"


def test_a_running_cell_is_rolled_back(new_kernel: MakeKernel) -> None:
    """Restored from outside: whoever waits for a cell of the past is told."""
    kernel = new_kernel()
    client = kernel.start()
    assert client.execute("x = 1").status == "ok"
    kernel.run(kernel.session.take_snapshot("before"))
    assert client.execute("x = 2").status == "ok"
    cell = client.begin("echo in\nspin")
    client.says("stream")
    kernel.run(kernel.session.restore("before"))
    assert client.finish(cell).reply["ename"] == "KernelRestored"
    assert client.value("x") == "1"


def test_a_restored_kernel_is_interrupted_and_restarted(new_kernel: MakeKernel) -> None:
    kernel = new_kernel()
    client = kernel.start()
    assert client.execute("x = 1\n%snapshot here").status == "ok"
    assert client.execute("%restore here").status == "ok"
    cell = client.begin("echo in\nspin")
    client.says("stream")
    kernel.run(kernel.session.signal(2))
    assert client.finish(cell).reply["ename"] == "KeyboardInterrupt"
    pid = kernel.machine.vmm.pid
    kernel.run(kernel.session.kill())
    client = kernel.start()
    assert kernel.machine.vmm.pid == pid
    assert client.execute("x").reply["ename"] == "NameError"
    # What was taken before the restart is still there to go back to.
    assert client.execute("%restore here").status == "ok"
    assert client.value("x") == "1"


def test_no_room_for_a_snapshot(new_kernel: MakeKernel) -> None:
    kernel = new_kernel(max_snapshots=0)
    client = kernel.start()
    assert client.execute("x = 1\n%snapshot one").reply["status"] == "error"
    with pytest.raises(SnapshotError):
        kernel.run(kernel.session.take_snapshot("two"))
    assert client.value("x") == "1"


def test_the_warm_pool(new_kernel: MakeKernel) -> None:
    """Loaded, standing still, and woken when they are taken."""
    kernel = new_kernel(pool_size=1, pool_mem_size_mib=1024)
    kernel.start()
    pool = kernel.session._supply.pool
    eventually(lambda: len(pool) == 1, "a machine in the pool")
    kernel.run(kernel.session.kill())
    kernel.run(kernel.machine.vmm.kill())
    client = kernel.start()
    assert kernel.machine.origin.started == "pool"
    assert client.value("role") == "started"
    assert client.value("count") == "1"
