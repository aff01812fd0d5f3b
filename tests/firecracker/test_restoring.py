"""Templates, snapshots, restores and forks of a session on the real Firecracker, with a real client of its endpoints."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fc_kernel.errors import SnapshotNotFound

from .client import Client
from .conftest import MakeKernel

pytestmark = pytest.mark.firecracker

FORKS = 8


def answered(client: Client, code: str) -> dict[str, Any]:
    """What the host has answered to a cell that asked for something."""
    answer: dict[str, Any] = json.loads(client.value(code))
    return answer


def test_kernels_of_one_template(new_kernel: MakeKernel) -> None:
    """Each is a restore of the same machine, and none has the other's random numbers."""
    randoms = set()
    for _ in range(2):
        kernel = new_kernel()
        client = kernel.start()
        assert kernel.machine.origin.started == "template"
        assert client.value("role") == "started"
        assert client.value("count") == "1"
        randoms |= {client.value("random"), client.value("dice")}
    assert len(randoms) == 4


def test_a_restart_after_a_template(new_kernel: MakeKernel) -> None:
    kernel = new_kernel()
    client = kernel.start()
    assert client.execute("x = 1").status == "ok"
    pid = kernel.machine.vmm.pid
    kernel.run(kernel.session.kill())
    client = kernel.start()
    assert kernel.machine.vmm.pid == pid
    assert client.execute("x").reply["ename"] == "NameError"


def test_without_templates(new_kernel: MakeKernel) -> None:
    kernel = new_kernel(templates=False)
    client = kernel.start()
    assert kernel.machine.origin.started == "cold"
    assert client.execute("x = 1").status == "ok"
    assert answered(client, "%snapshot first")["snapshot"]["name"] == "first"
    assert client.execute("x = 2").status == "ok"
    assert client.execute("%restore first").status == "ok"
    assert client.value("x") == "1"


def test_snapshots_are_taken_while_a_cell_runs(new_kernel: MakeKernel) -> None:
    """All connections are reset each time; no output is lost or repeated."""
    kernel = new_kernel()
    client = kernel.start()
    cell = client.begin("flood 900")
    assert client.says("stream")["text"] == "0\n"
    for number in range(3):
        kernel.run(kernel.session.take_snapshot(f"during-{number}"))
    done = client.finish(cell)
    assert done.stream == "".join(f"{number}\n" for number in range(1, 900))
    # One of them is a running cell's: restored, it goes on where it was, and nobody waits for it any more.
    kernel.run(kernel.session.restore("during-0"))
    assert client.value("count") == "1"


def test_restores_in_place(new_kernel: MakeKernel) -> None:
    """The same client on the same connection; the cell that asks gets its reply, and its rest never runs."""
    kernel = new_kernel()
    client = kernel.start()
    assert client.execute("x = 1").status == "ok"
    done = client.execute("%snapshot one\nx = 2")
    assert done.status == "ok"
    assert client.execute("%snapshot two").status == "ok"
    assert client.execute("x = 3").status == "ok"
    assert client.value("count") == "1"
    pid = kernel.machine.vmm.pid
    for name, value in (("one", "1"), ("two", "2"), ("one", "1"), ("two", "2")):
        done = client.execute(f"%restore {name}\nx = 99")
        assert done.status == "ok"
        assert f"restored {name}" in done.stream
        assert kernel.machine.vmm.pid != pid
        pid = kernel.machine.vmm.pid
        assert client.value("x") == value
        assert client.value("count") == "1"
        assert (client.value("role"), client.value("name")) == ("restored", name)
    assert answered(client, "%vm")["lineage"] == ["one", "two"]
    shown = [(snapshot["name"], snapshot["parent"]) for snapshot in answered(client, "%snapshots")["snapshots"]]
    assert shown == [("one", None), ("two", "one")]


def test_what_waits_behind_a_restore_runs_after_it(new_kernel: MakeKernel) -> None:
    kernel = new_kernel()
    client = kernel.start()
    assert client.execute("x = 1\n%snapshot here\nx = 2").status == "ok"
    cells = [client.begin("%restore here"), client.begin("x = x + 10"), client.begin("x")]
    done = [client.finish(cell) for cell in cells]
    assert [each.status for each in done] == ["ok"] * 3
    assert done[-1].result == "11"


def test_the_same_seed(new_kernel: MakeKernel) -> None:
    kernel = new_kernel()
    client = kernel.start()
    assert client.execute("%snapshot here").status == "ok"
    dice, random = client.value("dice"), client.value("random")
    assert client.execute("%restore here --same-seed").status == "ok"
    assert client.value("dice") == dice
    assert client.value("random") != random
    assert client.execute("%restore here").status == "ok"
    assert client.value("dice") != dice


def test_what_cannot_be_restored(new_kernel: MakeKernel) -> None:
    """The cell is told, and the kernel goes on as it was."""
    kernel = new_kernel()
    client = kernel.start()
    assert client.execute("x = 1\n%snapshot deaf").status == "ok"
    assert client.execute("refuse entropy\n%snapshot refusing").status == "ok"
    for name in ("nothing", "refusing"):
        reply = client.execute(f"x = 2\n%restore {name}").reply
        assert reply["status"] == "error"
        assert client.value("x + 1") == "3"
    with pytest.raises(SnapshotNotFound):
        kernel.run(kernel.session.restore("nothing"))
    assert client.execute("%snapshot deaf").reply["status"] == "error"
    assert client.value("x") == "2"


def test_eight_forks(new_kernel: MakeKernel) -> None:
    kernel = new_kernel()
    client = kernel.start()
    assert client.execute("x = 41").status == "ok"
    forks = answered(client, f"%fork {FORKS}")["forks"]
    assert [fork["error"] for fork in forks] == [""] * FORKS
    assert client.execute("x = 0").status == "ok"
    randoms = {client.value("random")}
    with ExitStack() as stack:
        infos = [json.loads(Path(fork["connection_file"]).read_text()) for fork in forks]
        clients = [stack.enter_context(Client(info)).ready() for info in infos]
        for each in clients:
            assert each.value("x + 1") == "42"
            assert each.value("role") == "fork"
            randoms |= {each.value("random"), each.value("dice")}
            assert each.execute("x = 7").status == "ok"
        # A fork is a kernel like any other.
        assert clients[0].execute("%snapshot in-a-fork\nx = 8").status == "ok"
        assert clients[0].execute("%restore in-a-fork").status == "ok"
        assert clients[0].value("x") == "7"
        for each in clients:
            each.client.shutdown()
    assert len(randoms) == 2 * FORKS + 1
    assert client.value("x") == "0"


def test_requests_follow_each_other_at_once(new_kernel: MakeKernel) -> None:
    """The host has hardly answered one when the next one comes, also from another machine than before."""
    kernel = new_kernel()
    client = kernel.start()
    done = client.execute("x = 1\n%snapshot here\n" + "%vm\n%snapshots\n" * 10)
    assert (done.status, len(done.results)) == ("ok", 21)
    for _ in range(4):
        assert client.execute("%restore here").status == "ok"
    assert client.value("x") == "1"
