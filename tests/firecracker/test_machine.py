"""The agent's protocol, snapshots and forks on the real Firecracker, as the host's parts see them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fc_kernel.errors import AgentError
from fc_kernel.host.engine import Engine
from fc_kernel.vmm.base import SnapshotFiles
from fc_kernel.vmm.firecracker.program import FirecrackerProgram

from .machine import Guest

pytestmark = pytest.mark.firecracker

MakeGuest = Callable[[], Guest]


@pytest.fixture
def new_guest(program: FirecrackerProgram, bare_metal_guest: Path) -> Iterator[MakeGuest]:
    engine = Engine()
    guests: list[Guest] = []

    def make() -> Guest:
        guests.append(Guest(engine, program, bare_metal_guest))
        return guests[-1]

    yield make
    for guest in guests:
        guest.close()
    engine.close()


def files(directory: Path, name: str) -> SnapshotFiles:
    return SnapshotFiles(vmstate=directory / f"{name}.vmstate", mem=directory / f"{name}.mem")


def test_the_control_connection(new_guest: MakeGuest) -> None:
    guest = new_guest().boot()
    assert guest.ask("ping") == {}
    assert guest.ask("kernel.status") == {"running": False, "pid": None, "returncode": None, "instance": None}
    with pytest.raises(AgentError) as failure:
        guest.ask("kernel.dance")
    assert failure.value.code == -32601
    guest.start_kernel()
    assert guest.ask("kernel.status") == {"running": True, "pid": 1, "returncode": None, "instance": 1}
    with pytest.raises(AgentError, match="a kernel is running"):
        guest.start_kernel()
    guest.ask("kernel.kill")
    method, params = guest.notified()
    assert method == "kernel.exited"
    assert (params["instance"], params["returncode"]) == (1, -9)
    guest.ask("system.shutdown")
    assert guest.engine.run_blocking(guest.vmm.wait()).returncode == 0


def test_no_message_is_lost_or_repeated_over_snapshots(new_guest: MakeGuest, tmp_path: Path) -> None:
    """A flood goes on while the machine is saved again and again, and all connections are reset each time."""
    guest = new_guest().boot()
    guest.start_kernel()
    with guest.client() as client:
        client.ready()
        cell = client.begin("flood 900")
        client.says("stream")
        guest.snapshot(files(tmp_path, "full"))
        for number in range(4):
            guest.snapshot(files(tmp_path, f"diff{number}"), "diff")
        # Sent while the first one runs: it has to wait for its turn, over the snapshots as well.
        second = client.begin("count")
        guest.snapshot(files(tmp_path, "last"), "diff")
        done = client.finish(cell)
        assert done.status == "ok"
        assert done.stream == "".join(f"{number}\n" for number in range(1, 900))
        assert client.finish(second).result == "1"


def test_two_machines_of_one_snapshot(new_guest: MakeGuest, tmp_path: Path) -> None:
    guest = new_guest().boot()
    guest.start_kernel()
    saved = files(tmp_path, "saved")
    with guest.client() as client:
        client.ready()
        assert client.execute("x = 41").status == "ok"
        assert client.value("count") == "1"
        frozen = guest.snapshot(saved)
        assert (frozen["instance"], frozen["execution_count"], frozen["cell"]) == (1, 2, None)
        assert client.value("count") == "2"
        randoms = {client.value("random")}
    forks = [new_guest().load(saved, generation=generation) for generation in (2, 3)]
    for fork in forks:
        assert fork.restored(hostname=f"vm-{fork.generation}")["instance"] == 1
    for fork in forks:
        with fork.client() as client:
            client.ready()
            assert client.value("x + 1") == "42"
            assert client.value("count") == "2"
            assert client.value("generation") == str(fork.generation)
            assert client.value("hostname") == f"vm-{fork.generation}"
            randoms |= {client.value("random"), client.value("dice")}
    assert len(randoms) == 5


def test_a_restore_may_keep_the_seed_of_the_language(new_guest: MakeGuest, tmp_path: Path) -> None:
    guest = new_guest().boot()
    guest.start_kernel()
    saved = files(tmp_path, "saved")
    with guest.client() as client:
        client.ready()
        guest.snapshot(saved)
        first = client.value("dice"), client.value("random")
    guest.close()
    again = new_guest().load(saved, generation=2)
    again.restored("restored", reseed=False)
    with again.client() as client:
        client.ready()
        assert client.value("dice") == first[0]
        assert client.value("random") != first[1]


def test_entropy_may_be_refused(new_guest: MakeGuest, tmp_path: Path) -> None:
    guest = new_guest().boot()
    guest.start_kernel()
    with guest.client() as client:
        client.ready()
        assert client.execute("refuse entropy").status == "ok"
    saved = files(tmp_path, "saved")
    guest.snapshot(saved)
    with pytest.raises(AgentError) as failure:
        new_guest().load(saved, generation=2).restored()
    assert failure.value.code == -32001


def test_a_cell_asks_for_a_snapshot(new_guest: MakeGuest, tmp_path: Path) -> None:
    """The source's cell goes on with the answer; the restored one's ends at that line, and its rest never runs."""
    guest = new_guest().boot()
    guest.start_kernel()
    saved = files(tmp_path, "saved")
    with guest.client() as client:
        client.ready()
        cell = client.begin("x = 1\n%snapshot before\nx = 2")
        method, request = guest.notified()
        assert method == "kernel.request"
        assert (request["op"], request["args"]) == ("snapshot", {"name": "before", "description": ""})
        assert request["parent"] == cell
        assert guest.snapshot(saved)["cell"] == cell
        guest.ask("answer", id=request["id"], result={"role": "source"})
        done = client.finish(cell)
        assert (done.status, done.results) == ("ok", ['{"role": "source"}'])
        assert client.value("x") == "2"
    restored = new_guest().load(saved, generation=2)
    restored.restored("restored", name="before")
    with restored.client() as client:
        client.ready()
        assert client.value("x") == "1"
        assert client.value("role") == "restored"
        cell = client.begin("%snapshot again")
        _, request = restored.notified()
        restored.ask("answer", id=request["id"], error="there is one")
        assert client.finish(cell).reply["evalue"] == "there is one"
