"""Snapshots, restores and forks with real clients and the whole host, on scripted guests: many of them, in a short time."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from ..scripted_kernel import Cell, Client, ScriptedKernel, fork_client, scripted_environment, scripted_kernels
from ..waiting import until

Make = Callable[..., Awaitable[ScriptedKernel]]

CYCLES, RESTORES = 200, 50
#: Requests of one client that are not answered yet.
OUTSTANDING = 4
#: Outputs of each numbered cell between its first and its last line.
STREAMED = 5
ENOUGH = 10_000


@pytest.fixture(params=["direct", "encoded"])
async def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Kernels of a host in this process, and of one to which only bytes get through."""
    scripted_environment(monkeypatch, tmp_path)
    async with scripted_kernels(encoded=request.param == "encoded", max_snapshots=ENOUGH) as make:
        yield make


class Numbering:
    """A client that sends numbered cells without a pause and knows what each must print."""

    def __init__(self, kernel: ScriptedKernel, name: str) -> None:
        self.client = kernel.new_client()
        self._name = name
        self.expected: dict[str, str] = {}
        self._task = asyncio.ensure_future(self._pump())
        self._stopping = False

    async def _pump(self) -> None:
        waiting: list[Cell] = []
        for number in itertools.count():
            if self._stopping:
                break
            first, last = f"{self._name}-{number}", f"{self._name}-{number}-end"
            cell = self.client.send(f"print('{first}')\nstream({STREAMED}, 0.002)\nprint('{last}')")
            lines = [first, *map(str, range(STREAMED)), last]
            self.expected[self.client.sent[-1]] = "".join(f"{line}\n" for line in lines)
            waiting.append(cell)
            if len(waiting) >= OUTSTANDING:
                await self.client.until_done(waiting.pop(0))
        for cell in waiting:
            await self.client.until_done(cell)

    async def finish(self) -> None:
        self._stopping = True
        await self._task

    def check_replies(self) -> dict[str, bool]:
        """Each request had one reply; returns which of them ran to their end."""
        ran = {}
        for msg_id in self.expected:
            cell = self.client.cells[msg_id]
            [reply] = [message["content"] for message in cell.replies]
            assert reply["status"] == "ok" or reply["ename"] == "KernelRestored", cell.story
            ran[msg_id] = reply["status"] == "ok"
        return ran

    def check_outputs(self, expected: dict[str, str], ran: dict[str, bool]) -> None:
        """Of every request, ours or not, each output came once and in order; of one that was cut off, none came after that."""
        for msg_id, wanted in expected.items():
            cell = self.client.cells[msg_id]
            # One whose idle status had come, but not its reply, is ended once more.
            assert cell.idles == 1 or (cell.idles == 2 and not ran[msg_id]), cell.story
            assert cell.outputs[-1]["content"].get("execution_state") == "idle", cell.story
            if ran[msg_id]:
                assert cell.printed == wanted
            else:
                assert wanted.startswith(cell.printed)


@pytest.mark.timeout(600)
async def test_no_message_is_lost_repeated_or_misdirected(make: Make) -> None:
    """Two clients number their cells on one kernel, one on another, through 200 snapshots and 50 restores."""
    kernel, bystander = await make(), await make()
    driver = kernel.client
    numberings = [Numbering(kernel, "a"), Numbering(kernel, "b")]
    other = Numbering(bystander, "c")
    chance = random.Random(5)
    names: list[str] = []
    for cycle in range(CYCLES):
        name = f"n{cycle}"
        if cycle % 2:
            assert await kernel.snapshot(name) == name
        else:
            assert (await driver.run(f"%snapshot {name}")).printed == f"snapshot {name}\n"
        names.append(name)
        if cycle % (CYCLES // RESTORES) == 0:
            back = chance.choice(names)
            if cycle % 8:
                await kernel.restore(back)
            else:
                assert (await driver.run(f"%restore {back}")).printed == f"restored {back}\n"
    for numbering in (*numberings, other):
        await numbering.finish()
    assert kernel.names == names
    assert kernel.half_made == []
    ran = {msg_id: ok for each in numberings for msg_id, ok in each.check_replies().items()}
    expected = {msg_id: text for each in numberings for msg_id, text in each.expected.items()}
    assert sum(ran.values()) > CYCLES
    for numbering in numberings:
        numbering.check_outputs(expected, ran)
        assert set(numbering.client.foreign) <= {*expected, *driver.sent}
    assert all(other.check_replies().values())
    other.check_outputs(other.expected, dict.fromkeys(other.expected, True))
    assert other.client.foreign == []


async def test_a_snapshot_while_output_streams(make: Make) -> None:
    """From outside, again and again: no output of the running cell is lost or comes twice."""
    kernel = await make()
    cell = kernel.client.send("stream(2000)")
    for _ in range(20):
        await kernel.snapshot()
    await kernel.client.until_done(cell)
    assert cell.printed == "".join(f"{number}\n" for number in range(2000))
    assert cell.reply["status"] == "ok"


async def test_a_restore_while_output_streams(make: Make) -> None:
    """The cell is answered with an error; the restored kernel, in which it still ran, says nothing of it any more."""
    kernel = await make()
    cell = kernel.client.send("stream(5000)\nx = 'end'")
    await until(lambda: cell.printed)
    await kernel.snapshot("a")
    await kernel.restore("a")
    await kernel.client.until_done(cell)
    assert cell.reply["ename"] == "KernelRestored"
    said = len(cell.outputs)
    assert (await kernel.client.value("1 + 1")) == "2"
    assert len(cell.outputs) == said
    numbers = [int(line) for line in cell.printed.split()]
    assert numbers == list(range(len(numbers)))


async def test_restored_25_times_in_a_row(make: Make) -> None:
    kernel = await make()
    await kernel.client.run("x = 'kept'\ny = 0")
    source = await kernel.client.run("%snapshot a\ny = 1")
    assert source.printed == "snapshot a\n"
    assert await kernel.client.value("y") == "1"
    for number in range(25):
        await kernel.client.run(f"x = {number}\ny = {number}")
        cell = await kernel.client.run("%restore a")
        assert cell.reply["status"] == "ok"
        assert cell.reply["execution_count"] == 2
        assert cell.printed == "restored a\n"
        assert await kernel.client.value("x") == "'kept'"
        # The rest of the snapshot's cell does not run again.
        assert await kernel.client.value("y") == "0"
        assert int(await kernel.client.value("generation()")) > number
    assert kernel.client.foreign == []


async def test_a_chain_25_deep(make: Make) -> None:
    """Each snapshot is taken in what the one before was restored to; the first can still be restored at the end."""
    kernel = await make()
    await kernel.client.run("x = 0")
    for number in range(25):
        assert (await kernel.client.run(f"x += 1\n%snapshot c{number}")).reply["status"] == "ok"
        assert (await kernel.client.run(f"x = 'spoilt'\n%restore c{number}")).reply["status"] == "ok"
        assert await kernel.client.value("x") == str(number + 1)
    [first, *_, last] = kernel.store.list()
    assert [snapshot.name for snapshot in kernel.store.lineage(last)] == [f"c{number}" for number in range(25)]
    assert first.name == "c0"
    await kernel.restore("c0")
    assert await kernel.client.value("x") == "1"


async def test_what_waits_behind_a_restore_runs_in_the_restored_kernel(make: Make) -> None:
    kernel = await make()
    await kernel.client.run("x = 1\n%snapshot a\nx = 2")
    asking = kernel.client.send("sleep(0.2)\n%restore a\nx = 3")
    behind = [kernel.client.send("x += 10") for _ in range(3)]
    for cell in (asking, *behind):
        assert (await kernel.client.until_done(cell)).reply["status"] == "ok"
    assert await kernel.client.value("x") == "31"


async def test_what_waits_when_a_restore_comes_from_outside(make: Make) -> None:
    kernel = await make()
    await kernel.client.run("x = 1\n%snapshot a\nx = 2")
    waiting = [kernel.client.send("sleep(600)"), *(kernel.client.send("x = 3") for _ in range(3))]
    await until(lambda: waiting[0].outputs)
    await kernel.restore("a")
    for cell in waiting:
        assert (await kernel.client.until_done(cell)).reply["ename"] == "KernelRestored"
    assert await kernel.client.value("x") == "1"


async def test_what_was_queued_behind_a_snapshot_does_not_run_again(make: Make) -> None:
    kernel = await make()
    cells = [kernel.client.send(code) for code in ("x = 1\nsleep(0.2)\n%snapshot a", "x += 1", "x += 1")]
    for cell in cells:
        assert (await kernel.client.until_done(cell)).reply["status"] == "ok"
    assert await kernel.client.value("x") == "3"
    await kernel.restore("a")
    assert await kernel.client.value("x") == "1"
    assert await kernel.client.value("x") == "1"
    assert all(cell.idles == 1 and len(cell.replies) == 1 for cell in cells)


async def test_a_snapshot_while_100_mb_are_on_their_way(make: Make) -> None:
    kernel = await make()
    cell = kernel.client.send("big = 'x' * 1000000\n" + "print(big)\n" * 100)
    for number in range(3):
        enough = 20 * (number + 1)
        await until(partial(lambda enough: len(cell.outputs) > enough, enough))
        await kernel.snapshot(f"b{number}")
    await kernel.client.until_done(cell)
    assert cell.reply["status"] == "ok"
    assert len(cell.printed) == 100 * 1_000_001
    await kernel.restore("b1")
    assert await kernel.client.value("len(big)") == "1000000"
    assert len(cell.printed) == 100 * 1_000_001


async def test_kernels_from_the_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands ready was told, rehearsed and frozen; its owner gets a kernel that nobody has used."""
    scripted_environment(monkeypatch, tmp_path)
    async with scripted_kernels(pool_size=2) as make:
        first = await make()
        pool = first.engine.supply(first.tenant).pool
        await until(lambda: len(pool) == 2)
        others = [await make(), await make()]
        machines = [kernel.session.machine for kernel in (first, *others)]
        assert [machine.origin.started for machine in machines if machine is not None] == ["template", "pool", "pool"]
        for fact in ("random()", "urandom()", "hostname()"):
            assert len({await kernel.client.value(fact) for kernel in (first, *others)}) == 3, fact
        for kernel in others:
            assert (await kernel.client.run("x = 1\n%snapshot\nx = 2")).reply["execution_count"] == 4
            await kernel.restore(kernel.names[-1])
            assert await kernel.client.value("x") == "1"
        await until(lambda: len(pool) == 2)


async def test_eight_forks(make: Make) -> None:
    """Each alone: its own id, key, randomness and host name; the parent goes on, and what one writes no other sees."""
    kernel = await make()
    await kernel.client.run("x = 'parent'\nr = random()")
    cell = await kernel.client.run("%fork -n 8\nx = 'went on'")
    assert cell.reply["status"] == "ok", cell.reply
    assert await kernel.client.value("x") == "'went on'"
    forks = [line.split() for line in cell.printed.splitlines()]
    assert len({kernel_id for _, kernel_id, _ in forks}) == 8
    clients: list[Client] = []
    try:
        for _, _, connection_file in forks:
            clients.append(Client.of_file(Path(connection_file)))
        await asyncio.gather(*(client.run(f"x = x + ' {number}'") for number, client in enumerate(clients)))
        assert [await client.value("x") for client in clients] == [f"'parent {number}'" for number in range(8)]
        for fact in ("random()", "urandom()", "hostname()", "machine_id()"):
            values = [await client.value(fact) for client in (kernel.client, *clients)]
            assert len(set(values)) == 9, fact
        assert {await client.value("role()") for client in clients} == {"'fork'"}
        assert len({client.key for client in clients}) == 8
        assert await kernel.client.value("x") == "'went on'"
    finally:
        for client in clients:
            await client.close()


async def test_a_fork_of_a_fork(make: Make) -> None:
    kernel = await make()
    await kernel.client.run("x = 1")
    [child] = await kernel.fork(1)
    client = fork_client(child)
    try:
        await client.run("x += 1")
        cell = await client.run("%fork")
        [[_, _, connection_file]] = [line.split() for line in cell.printed.splitlines()]
        grandchild = Client.of_file(Path(connection_file))
        try:
            assert await grandchild.value("x") == "2"
            assert await kernel.client.value("x") == "1"
        finally:
            await grandchild.close()
    finally:
        await client.close()
