"""Many restores and long chains on a real machine, and clients that number what they send."""

from __future__ import annotations

import pytest
from jupyter_client.manager import KernelManager

from ..conftest import DEADLINE_S
from ..snapshot_clients import Caller, Cell, restore, session_of, snapshot

pytestmark = [pytest.mark.vm, pytest.mark.timeout(4 * DEADLINE_S)]

RESTORES = CHAIN = 25
#: On the scripted guest there are 200.
CYCLES = 8
#: Cells of each client that are not answered yet.
OUTSTANDING = 3


def test_the_same_again_and_again(caller: Caller) -> None:
    caller.did("x = 'kept'; y = 0")
    taken = caller.did("%snapshot again\ny = 1")
    for number in range(RESTORES):
        back = caller.did(f"x = {number}\n%restore again")
        assert back.printed == "restored again\n"
        assert back.reply["execution_count"] == taken.reply["execution_count"]
        assert caller.value("(x, y)") == ("kept", 0)
    assert caller.breaks == []


def test_a_chain(caller: Caller, manager: KernelManager) -> None:
    """Each snapshot is of what the one before was restored to; the first can still be restored at the end."""
    caller.did("x = 0; held = []")
    for number in range(CHAIN):
        caller.did(f"x += 1; held.append(bytearray([x]) * 100_000)\n%snapshot c{number}")
        caller.did(f"x = 'spoilt'; held.clear()\n%restore c{number}")
    whole = "(x, [len(each) for each in held], [each[-1] for each in held])"
    expected = (CHAIN, [100_000] * CHAIN, list(range(1, CHAIN + 1)))
    assert caller.value(whole) == expected
    names = [f"c{number}" for number in range(CHAIN)]
    assert session_of(manager).info()["lineage"][-CHAIN:] == names
    caller.did("%restore c0")
    assert caller.value(whole) == (1, [100_000], [1])
    caller.did(f"%restore {names[-1]}")
    assert caller.value(whole) == expected
    assert caller.breaks == []


class Numbering:
    """Keeps some numbered cells of a client's under way, and knows what each must print."""

    def __init__(self, caller: Caller, name: str) -> None:
        self.caller = caller
        self._name = name
        self._sent: list[tuple[Cell, list[str]]] = []

    def fill(self) -> None:
        """Take what has come, and send until enough is under way."""
        self.caller.take()
        while sum(not cell.done for cell, _ in self._sent) < OUTSTANDING:
            lines = [f"{self._name}-{len(self._sent)}-{part}" for part in range(4)]
            code = "; ".join(f"print('{line}', flush=True)" for line in lines)
            self._sent.append((self.caller.send(code), lines))

    def progress(self) -> None:
        """Until one more has ended."""
        self.fill()
        self.caller.until(next(cell for cell, _ in self._sent if not cell.done))

    def check(self) -> int:
        """Each had one reply, went idle once, and each output came once and in order; how many ran to their end."""
        ran = 0
        for cell, lines in self._sent:
            self.caller.until(cell)
            assert cell.idles == 1
            assert cell.outputs[-1]["content"].get("execution_state") == "idle"
            text = "".join(f"{line}\n" for line in lines)
            if cell.ok:
                ran += 1
                assert cell.printed == text
            else:
                assert cell.reply["ename"] == "KernelRestored"
                assert text.startswith(cell.printed)
        return ran


def test_no_message_is_lost_repeated_or_misdirected(caller: Caller, other: Caller, manager: KernelManager) -> None:
    numberings = [Numbering(caller, "a"), Numbering(other, "b")]
    for cycle in range(CYCLES):
        for numbering in numberings:
            numbering.fill()
        if cycle % 2:
            snapshot(manager, f"n{cycle}")
        else:
            assert caller.run(f"%snapshot n{cycle}").ok
        for numbering in numberings:
            numbering.progress()
        if cycle % 4 == 1:
            restore(manager, f"n{cycle - 1}")
        elif cycle % 4 == 3:
            assert caller.run(f"%restore n{cycle}").ok
    assert sum(numbering.check() for numbering in numberings) > CYCLES
    sent = {*caller.cells, *other.cells}
    for client in (caller, other):
        parents = [message["parent_header"] for message in client.foreign]
        assert {parent["msg_id"] for parent in parents if parent.get("msg_type") == "execute_request"} <= sent
        assert client.breaks == []
