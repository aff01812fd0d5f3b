"""Freeze, thaw and renewal, with the real agent and a real kernel as host processes: what a snapshot finds and leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fc_kernel.testing.fake_vmm import MAIN

from ...waiting import eventually
from ..guest_kernel import KEY, CallFailed, Guest, listens

#: The number of the call on x86-64.
CLOCK_NANOSLEEP = "230"


def agent(directory: Path) -> Iterator[Guest]:
    """A real agent in a process of its own, and a host of it."""
    uds_path = directory / "v.sock"
    argv = [sys.executable, "-B", str(MAIN), "--transport", "hybrid", "--uds", str(uds_path)]
    process = subprocess.Popen([*argv, "--run-dir", str(directory / "g")], stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: listens(uds_path), "the agent listens")
        guest = Guest(uds_path)
        try:
            yield guest
            guest.call("thaw")
            guest.call("system.shutdown")
        finally:
            guest.close()
        process.wait(30)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def guest(short_private_runtime_dir: Path, request: pytest.FixtureRequest) -> Iterator[Guest]:
    directory = short_private_runtime_dir / f"c{abs(hash(request.node.name)) % 10_000}"
    directory.mkdir()
    for guest in agent(directory):
        guest.start()
        guest.attach()
        yield guest
    for path in sorted(directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    directory.rmdir()


COUNTING = """
import threading, time
counted = 0
def count():
    global counted
    while True:
        counted += 1
        time.sleep(0.0005)
threading.Thread(target=count, daemon=True).start()
"""


def counted(guest: Guest) -> int:
    return int(guest.run("print(counted)"))


def stopped(pid: int) -> bool:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return all((thread / "stat").read_text().rpartition(") ")[2][0] == "T" for thread in threads)


def test_it_stands_still_and_goes_on(guest: Guest) -> None:
    pid = guest.call("kernel.status")["pid"]
    done = guest.execute("x = 41")
    guest.reply(done)
    guest.outputs(done)
    frozen = guest.freeze()
    assert (frozen["instance"], frozen["language"]) == (1, "python")
    # It has said that it is idle, and may still be on its way out of the cell.
    assert frozen["cell"] in (None, done)
    assert (frozen["execution_count"], frozen["hook_errors"], frozen["quiet"]) == (1, [], True)
    assert stopped(pid)
    asked = guest.execute("print(x + 1)")
    assert guest.silence("shell", 0.3)
    assert guest.call("thaw") == {}
    assert guest.reply(asked)["content"]["status"] == "ok"
    assert guest.run("print(x)") == "41\n"


def test_both_may_be_said_twice(guest: Guest) -> None:
    first = guest.freeze()
    assert guest.freeze() == first
    assert (guest.call("thaw"), guest.call("thaw")) == ({}, {})
    assert guest.run("print(1)") == "1\n"


def test_what_it_had_said_is_with_the_host(guest: Guest) -> None:
    """Nothing lies between the kernel and the tunnel, although nobody reads iopub meanwhile."""
    msg_id = guest.execute("for n in range(20): print('x' * 1000, flush=True)")
    guest.reply(msg_id)
    guest.freeze()
    text = ""
    while len(text) < 20 * 1001:
        text += guest.message("iopub", msg_id)["content"].get("text", "")
    assert guest.silence("iopub", 0.2)


def test_a_busy_cell_stands_still(guest: Guest) -> None:
    busy = guest.execute("n = 0\nprint('in')\nwhile n < 10**12: n += 1")
    guest.message("iopub", busy, "stream")
    frozen = guest.freeze()
    assert (frozen["quiet"], frozen["cell"]) == (True, busy)
    guest.call("thaw")
    guest.call("kernel.signal", signum=signal.SIGINT)
    assert guest.reply(busy)["content"]["ename"] == "KeyboardInterrupt"


def test_the_interpreter_s_lock_is_held(guest: Guest) -> None:
    """Between the freeze's answer and the thaw no Python code runs, even when the processes are let go at once."""
    guest.run(COUNTING)
    pid = guest.call("kernel.status")["pid"]
    before = counted(guest)
    assert before > 0
    code = "import os\nshared = os.open({!r}, os.O_CREAT | os.O_RDWR)\n".format(str(guest.uds_path) + ".n")
    guest.run(code + "def tick():\n    while True:\n        os.pwrite(shared, b'%d' % counted, 0)\n")
    guest.run("threading.Thread(target=tick, daemon=True).start()")
    file = Path(str(guest.uds_path) + ".n")
    eventually(lambda: file.read_bytes() not in (b"", b"0"), "the thread counts")
    assert guest.freeze()["quiet"] is True
    os.killpg(pid, signal.SIGCONT)
    eventually(lambda: not stopped(pid), "the processes run")
    at_first = file.read_bytes()
    for _ in range(5):
        guest.call("ping")
        assert file.read_bytes() == at_first
    guest.call("thaw")
    eventually(lambda: file.read_bytes() != at_first, "it counts again")


HOOKS = """
import fc_kernel, threading
ran = []
@fc_kernel.on_snapshot
def before(): ran.append(('before', threading.current_thread() is threading.main_thread()))
@fc_kernel.on_restore
def after(): ran.append(('after', threading.current_thread() is threading.main_thread()))
@fc_kernel.on_snapshot
def bad(): raise ValueError('no\\nsuch thing')
"""


@pytest.mark.parametrize("busy", [False, True])
def test_hooks_run_on_the_main_thread(guest: Guest, busy: bool) -> None:
    guest.run(HOOKS)
    code = "print('in')\nimport time\nwhile len(ran) < 2: pass\nprint(ran)"
    msg_id = guest.execute(code) if busy else ""
    if busy:
        guest.message("iopub", msg_id, "stream")
    assert guest.freeze()["hook_errors"] == ["on_snapshot bad: ValueError: no such thing"]
    assert guest.restored()["hook_errors"] == []
    guest.attach(2)
    assert guest.run("print(ran)") == "[('before', True), ('after', True)]\n"


def test_hooks_are_left_out_when_nobody_wants_them(guest: Guest) -> None:
    guest.run(HOOKS)
    assert guest.freeze(hooks=False)["hook_errors"] == []
    assert guest.restored(role="started")["hook_errors"] == []
    guest.attach(2)
    assert guest.run("fc_kernel.on_snapshot.remove(bad); print(ran, len(fc_kernel.on_snapshot))") == "[] 1\n"


def test_a_hook_without_end_is_not_waited_for(guest: Guest) -> None:
    guest.run("import fc_kernel\nhung = True\n@fc_kernel.on_snapshot\ndef hang():\n    while hung: pass")
    assert guest.freeze(timeout_s=1)["hook_errors"] == ["on_snapshot: the hooks did not finish in time"]
    guest.call("thaw")
    guest.call("kernel.kill")
    guest.notified("kernel.exited")


def test_native_code_that_keeps_the_lock_is_frozen_all_the_same(guest: Guest) -> None:
    guest.run("import ctypes")
    # What it prints is sent by a thread that needs the lock, too.
    busy = guest.execute("ctypes.PyDLL(None).sleep(4)")
    syscall = Path(f"/proc/{guest.call('kernel.status')['pid']}/syscall")
    eventually(lambda: syscall.read_text().split()[0] == CLOCK_NANOSLEEP, "the cell sleeps with the lock")
    assert guest.freeze(timeout_s=0.2)["quiet"] is False
    guest.call("thaw")
    assert guest.reply(busy)["content"]["status"] == "ok"
    assert guest.freeze()["quiet"] is True, "what was left of the first freeze does not stand in for the second"


def test_a_restored_kernel_is_another_one(guest: Guest) -> None:
    setting = "import os, random, tempfile\nrandom.seed(1); first = random.getstate(); tempfile.mktemp()"
    guest.run(setting + "\nimport numpy; numpy.random.seed(1); draw = numpy.random.get_state()[1].tolist()")
    old_session = guest.message("iopub", guest.execute("1"))["header"]["session"]
    guest.freeze()
    queued = guest.execute("late = True")
    guest.restored(env={"FC_NEW": "1"}, cwd="/", key="a third key")
    guest.attach(2)
    told = guest.run("print(os.environ['FC_NEW'], os.getcwd(), 'late' in globals(), random.getstate() == first)")
    assert told == "1 / False False\n"
    assert guest.run("print(numpy.random.get_state()[1].tolist() == draw, tempfile._name_sequence)") == "False None\n"
    assert guest.silence("shell", 0.1), "what had been queued has no answer"
    assert queued
    msg_id = guest.execute("1")
    message = guest.message("iopub", msg_id)
    assert message["header"]["session"] != old_session
    assert guest.session.sign(message["parts"]).decode() == message["signature"].decode()


def test_the_same_seed_on_request(guest: Guest) -> None:
    guest.run("import random; random.seed(1); first = random.getstate()")
    guest.freeze()
    remarks = guest.restored(reseed=False, cwd="/no/such/place")["hook_errors"]
    assert remarks == ["could not change to the working directory /no/such/place: No such file or directory"]
    guest.attach(2)
    assert guest.run("print(random.getstate() == first)") == "True\n"


def test_an_old_key_is_worth_nothing(guest: Guest) -> None:
    guest.freeze()
    guest.restored()
    guest.attach(2)
    guest.session.key = KEY.encode()
    guest.execute("forged = True")
    guest.session.key = b"a second key"
    assert guest.run("print('forged' in globals())") == "False\n"


def test_a_kernel_that_ends_while_frozen(guest: Guest) -> None:
    guest.freeze()
    guest.call("kernel.kill")
    assert guest.notified("kernel.exited")["returncode"] == -signal.SIGKILL
    guest.start(instance=2)
    guest.attach(2)
    assert guest.run("print(2)") == "2\n"


def test_a_kernel_of_another_kind_only_stands_still(guest: Guest) -> None:
    guest.call("kernel.kill")
    guest.notified("kernel.exited")
    guest.start(instance=2, argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])
    guest.attach(2)
    guest.run("import os")
    frozen = guest.freeze()
    assert (frozen["language"], frozen["execution_count"], frozen["quiet"]) == (None, None, True)
    assert stopped(guest.call("kernel.status")["pid"])
    guest.call("thaw")
    assert guest.run("print('FC_KERNEL_AGENT_SOCKET' in os.environ)") == "False\n"


@pytest.mark.parametrize("entropy", ["?", "A", 5])
def test_what_is_no_entropy_changes_nothing(guest: Guest, entropy: object) -> None:
    guest.freeze()
    with pytest.raises(CallFailed, match="renew"):
        guest.restored(entropy_b64=entropy)
    guest.call("thaw")
    assert guest.run("print('as before')") == "as before\n"


def test_a_template_is_warm_and_shows_no_trace_of_it(guest: Guest) -> None:
    guest.call("kernel.kill")
    guest.notified("kernel.exited")
    guest.start(instance=2, env={"FC_KERNEL_TEMPLATE_IMPORTS": "no_such_module, colorsys,"})
    guest.attach(2)
    msg_id = guest.execute("pass", silent=True)
    at_first = guest.message("iopub")
    while at_first["parent_header"].get("msg_id") != msg_id:
        assert at_first["parent_header"] == {}, "no request was made of it yet"
        at_first = guest.message("iopub")
    code = "import os, sys; print('colorsys' in sys.modules, 'FC_KERNEL_TEMPLATE_IMPORTS' in os.environ, len(Out), len(In))"
    msg_id = guest.execute(code)
    assert guest.reply(msg_id)["content"]["execution_count"] == 1
    outputs = guest.outputs(msg_id)
    assert [each["content"]["text"] for each in outputs if "text" in each["content"]] == ["True False 0 2\n"]
    assert guest.run("print('_0' in dir(), '_' in dir(), hasattr(sys, 'last_value'))") == "False True False\n"
