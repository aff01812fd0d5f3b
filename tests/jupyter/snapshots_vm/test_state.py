"""What a snapshot of a real machine holds, and what clients see when it is put back: one kernel, several real clients."""

from __future__ import annotations

import asyncio
import time

import pytest
from jupyter_client.manager import KernelManager

from fc_kernel.sessions.snapshot import take

from ...waiting import eventually
from ..conftest import DEADLINE_S
from ..snapshot_clients import Caller, on_host, restore, session_of, snapshot

pytestmark = [pytest.mark.vm, pytest.mark.timeout(2 * DEADLINE_S)]


STATE = """
import array, itertools, socket, tempfile, threading
import ipywidgets
numbers = array.array('i', range(1000))
file = tempfile.TemporaryFile('w+'); file.write('written before'); file.seek(8)
generator = (n * n for n in itertools.count()); before = [next(generator) for _ in range(5)]
ours, theirs = socket.socketpair(); ours.sendall(b'on its way')
server = socket.create_server(('127.0.0.1', 0)); tcp = socket.create_connection(server.getsockname())
accepted, _ = server.accept(); tcp.sendall(b'over tcp')
tick = threading.Event(); ticked = threading.Semaphore(0)
def beat():
    while True:
        tick.wait(); tick.clear(); ticked.release()
threading.Thread(target=beat, daemon=True).start()
slider = ipywidgets.IntSlider(value=3)
rest = 0
slider
"""

#: All of it, and nothing of what was done to it later.
CHECK = """
tick.set()
received = theirs.recv(100), accepted.recv(100)
(sum(numbers), file.read(), next(generator), *received, ticked.acquire(timeout=60), slider.value, rest)
"""
INTACT = (sum(range(1000)), "before", 25, b"on its way", b"over tcp", True, 3, 0)


def test_all_that_a_session_has_comes_back(caller: Caller) -> None:
    """In the middle of a cell, whose rest runs once."""
    shown = caller.did(STATE).shown[-1]
    model = shown["application/vnd.jupyter.widget-view+json"]["model_id"]
    cell = caller.did("print('one')\n%snapshot state\nrest += 1\nprint('two')")
    first, taken, second = cell.printed.splitlines()
    assert (first, second) == ("one", "two")
    assert taken.startswith("Snapshot state: ")
    assert caller.value("rest") == 1
    spoil = "numbers = []; file.close(); generator = None; ours = theirs = tcp = accepted = None; slider.value = 7"
    for _ in range(2):
        caller.did(spoil)
        caller.did("%restore state")
        assert caller.value(CHECK) == INTACT
        # The front end's model speaks to the kernel's as before.
        update = {"comm_id": model, "data": {"method": "update", "state": {"value": 9}, "buffer_paths": []}}
        caller.client.shell_channel.send(caller.client.session.msg("comm_msg", update))
        assert caller.value("slider.value") == 9
    assert [cell.idles, len(cell.replies)] == [1, 1]


def test_clients_keep_their_connections(caller: Caller, other: Caller, manager: KernelManager) -> None:
    """Kernel id, endpoints and connections; the cell that asks has output, reply and idle; the counter is the snapshot's."""
    before = (manager.kernel_id, manager.get_connection_info())
    taken = caller.did("%snapshot kept")
    other.did("kept = 1")
    back = other.did("%restore kept")
    assert back.printed == "restored kept\n"
    assert back.reply["execution_count"] == taken.reply["execution_count"]
    kinds = [m["msg_type"] for m in back.outputs]
    assert kinds == ["status", "execute_input", "stream", "status"]
    assert [back.idles, len(back.replies)] == [1, 1]
    for client in (caller, other):
        assert client.value("'kept' in globals()") is False
    assert caller.did("0").reply["execution_count"] == taken.reply["execution_count"] + 3
    assert (manager.kernel_id, manager.get_connection_info()) == before
    assert manager.is_alive()
    assert caller.breaks == other.breaks == []


def test_what_was_queued_behind_the_snapshot_does_not_run_again(caller: Caller) -> None:
    caller.did("x = 0")
    cells = [caller.send(code) for code in ("x += 1\n%snapshot queued\nx += 10", "x += 100", "x += 1000")]
    assert all(caller.until(cell).ok for cell in cells)
    assert caller.value("x") == 1111
    for _ in range(2):
        caller.did("%restore queued")
        assert caller.value("x") == 1
        assert caller.value("x") == 1
    assert all([cell.idles, len(cell.replies)] == [1, 1] for cell in cells)


def test_what_is_queued_behind_a_restore_runs_in_the_restored_kernel(caller: Caller, other: Caller) -> None:
    caller.did("x = 1\n%snapshot behind\nx = 2")
    asking = caller.send("import time; time.sleep(0.5)\n%restore behind\nx = 3")
    caller.take(100)
    cells = [(client, client.send("x += 10")) for client in (caller, other, caller)]
    assert caller.until(asking).ok
    assert all(client.until(cell).ok for client, cell in cells)
    assert caller.value("x") == 31


def test_what_waits_when_a_restore_comes_from_outside(caller: Caller, other: Caller, manager: KernelManager) -> None:
    """It is answered with an error, so that no cell stays at [*]; what comes afterwards runs."""
    caller.did("x = 1\n%snapshot outside\nx = 2")
    running = caller.send("print('runs')\nwhile True: pass")
    caller.until(running, "runs\n")
    waiting = [(caller, running), (caller, caller.send("x = 3")), (other, other.send("x = 4"))]
    restore(manager, "outside")
    for client, cell in waiting:
        assert client.until(cell).reply["ename"] == "KernelRestored"
        assert cell.idles == 1
    assert caller.value("x") == other.value("x") == 1


def test_a_snapshot_from_outside_of_a_cell_that_prints(caller: Caller, manager: KernelManager) -> None:
    """None of its output is lost, or comes twice; in the restored kernel it still runs, and nobody hears of it."""
    code = "import time\nfor n in range(3000): print(n, flush=n % 100 == 0)\nwhole = True"
    cell = caller.send(code)
    caller.until(cell, "\n")
    for number in range(3):
        snapshot(manager, f"prints-{number}")
    assert caller.until(cell).ok
    assert cell.printed == "".join(f"{number}\n" for number in range(3000))
    said = len(cell.outputs)
    restore(manager, "prints-1")
    assert caller.value("whole") is True
    assert len(cell.outputs) == said
    assert cell.idles == 1


def test_a_snapshot_while_100_megabytes_are_on_their_way(caller: Caller, manager: KernelManager) -> None:
    code = """
from IPython.display import display
for number in range(10):
    display({'text/plain': str(number), 'application/x-large': chr(65 + number) * 10_000_000}, raw=True)
"""
    cell = caller.send(code)
    while not cell.shown:
        caller.take(100)
    snapshot(manager, "large")
    assert caller.until(cell).ok
    assert [data["text/plain"] for data in cell.shown] == [str(number) for number in range(10)]
    for number, data in enumerate(cell.shown):
        assert data["application/x-large"] == chr(65 + number) * 10_000_000
    restore(manager, "large")
    assert caller.value("number") == 9
    assert len(cell.shown) == 10


def test_a_name_that_is_taken(caller: Caller) -> None:
    """One clear line, and the kernel goes on."""
    caller.did("x = 1\n%snapshot twice")
    cell = caller.run("x = 2\n%snapshot twice\nx = 3", stop_on_error=False)
    assert cell.reply["ename"] == "UsageError"
    assert "twice" in cell.printed
    assert len(cell.printed.splitlines()) == 1
    assert caller.value("x") == 2
    from_code = caller.run("import fc_kernel; fc_kernel.snapshot('twice')", stop_on_error=False)
    assert from_code.reply["ename"] == "RequestError"
    assert "'twice'" in from_code.reply["evalue"]


def test_a_name_that_nothing_has(caller: Caller) -> None:
    cell = caller.run("x = 'goes on'\n%restore nowhere", stop_on_error=False)
    assert cell.reply["ename"] == "UsageError"
    assert "nowhere" in cell.printed
    assert caller.value("x") == "goes on"


def test_hooks_and_what_they_raise(caller: Caller) -> None:
    code = """
import fc_kernel, threading
calls = []
@fc_kernel.on_snapshot
def closing(): calls.append(('closing', threading.current_thread() is threading.main_thread()))
@fc_kernel.on_restore
def reopening(): calls.append(('reopening', threading.current_thread() is threading.main_thread()))
@fc_kernel.on_restore
def failing(): raise ConnectionError('no database')
@fc_kernel.on_restore
def asking():
    try: fc_kernel.snapshots()
    except fc_kernel.RequestError: calls.append('refused')
"""
    caller.did(code)
    caller.did("%snapshot hooks")
    assert caller.value("calls") == [("closing", True)]
    back = caller.did("%restore hooks")
    assert back.printed == "restored hooks\non_restore: on_restore failing: ConnectionError: no database\n"
    assert caller.value("calls") == [("closing", True), ("reopening", True), "refused"]
    caller.did("for hook in (failing, reopening, asking): fc_kernel.on_restore.remove(hook)")
    caller.did("@fc_kernel.on_snapshot\ndef failing(): raise ValueError('cannot close')")
    taken = caller.did("%snapshot anyway")
    assert "on_snapshot failing: ValueError: cannot close\n" in taken.printed
    assert taken.printed.startswith("Snapshot anyway: ")
    caller.did("fc_kernel.on_snapshot.remove(failing); fc_kernel.on_snapshot.remove(closing)")


def test_the_clock_after_a_long_time(caller: Caller) -> None:
    """The snapshot is of a machine whose clock is a month behind; in the restored one it is right, and no timer is lost."""
    code = """
import asyncio, threading, time
went_back = False
def watch():
    global last, went_back
    while True:
        now = time.monotonic()
        went_back, last = went_back or now < last, now
        time.sleep(0.001)
last = time.monotonic()
threading.Thread(target=watch, daemon=True).start()
fired = []
loop = asyncio.get_running_loop()
loop.call_later(0.5, fired.append, 'soon')
async def later():
    await asyncio.sleep(1)
    fired.append('later')
task = asyncio.ensure_future(later())
time.clock_settime(time.CLOCK_REALTIME, time.time() - 30 * 86400)
at = time.monotonic()
print(time.time())
%snapshot month-old
"""
    assert float(caller.did(code).printed.split()[0]) < time.time() - 86400
    caller.did("await task; fired.append('went on')")
    caller.did("%restore month-old")
    earliest = time.time() - 0.5
    assert earliest < caller.value("time.time()") < time.time() + 0.5
    assert caller.value("await task; (sorted(fired), went_back, time.monotonic() > at, last > at)") == (
        ["later", "soon"],
        False,
        True,
        True,
    )


def test_an_interrupt_while_the_host_is_slow(
    caller: Caller, manager: KernelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cell ends at once, the snapshot is taken all the same, and another can be taken afterwards."""
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(*args: object, **kwargs: object) -> object:
        asked.set()
        await go_on.wait()
        return await take(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("fc_kernel.sessions.session.take", slow)

    async def set_event(event: asyncio.Event) -> None:
        event.set()

    async def until_set(event: asyncio.Event) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await event.wait()

    cell = caller.send("x = 1\n%snapshot interrupted\nx = 2", stop_on_error=False)
    on_host(until_set(asked))
    manager.interrupt_kernel()
    assert caller.until(cell).reply["ename"] == "KeyboardInterrupt"
    assert caller.value("x") == 1
    on_host(set_event(go_on))
    kernel = session_of(manager)
    eventually(lambda: kernel.store.list(scope=kernel.scope)[-1].name == "interrupted", "the snapshot is taken")
    caller.did("%snapshot not-interrupted")
    names = caller.value("import fc_kernel; [each.name for each in fc_kernel.snapshots()]")
    assert names[-2:] == ["interrupted", "not-interrupted"]
    caller.did("x = 3\n%restore interrupted")
    assert caller.value("x") == 1


def test_a_restored_kernel_is_restarted(caller: Caller, manager: KernelManager) -> None:
    """A restart gives a fresh kernel, whose past can still be restored."""
    caller.did("x = 'past'\n%snapshot restarted")
    caller.did("%restore restarted")
    manager.restart_kernel(now=True)
    caller.client.wait_for_ready(timeout=DEADLINE_S)
    assert caller.value("'x' in globals()") is False
    caller.did("%restore restarted")
    assert caller.value("x") == "past"
    assert session_of(manager).info()["lineage"][-1] == "restarted"
