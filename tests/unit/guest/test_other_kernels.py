"""Snapshots of a kernel that is not ours: it keeps its key, so it is saved when nothing waits in it that could run later."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..guest_kernel import KEY, CallFailed, Guest
from .test_freeze import agent, stopped

#: An ordinary ipykernel, which knows nothing of us.
ARGV = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
KERNEL_BUSY = -32002


@pytest.fixture
def guest(short_private_runtime_dir: Path) -> Iterator[Guest]:
    directory = short_private_runtime_dir / "other"
    directory.mkdir()
    for guest in agent(directory):
        guest.start(argv=ARGV)
        guest.attach()
        guest.run("import time")
        yield guest
    for path in sorted(directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    directory.rmdir()


def restored(guest: Guest, **options: Any) -> Any:
    answer = guest.restored(**options)
    guest.session.key = KEY.encode()
    guest.attach(2)
    return answer


def begin(guest: Guest, code: str) -> str:
    """Execute, and return when it runs."""
    msg_id = guest.execute(code)
    guest.message("iopub", msg_id, "execute_input")
    return msg_id


def freezing(guest: Guest, **params: Any) -> int:
    """Ask for it behind what was sent before, and return when the agent has heard it."""
    guest.call("ping")
    number = guest.send("freeze", **{"hooks": True, "timeout_s": 60, **params})
    guest.call("ping")
    return number


def test_no_client_sees_that_it_was_asked(guest: Guest) -> None:
    for _ in range(3):
        guest.freeze()
        assert stopped(guest.call("kernel.status")["pid"])
        guest.call("thaw")
        msg_id = guest.execute("1")
        said = [guest.message("shell"), guest.message("iopub")]
        while said[-1]["content"].get("execution_state") != "idle":
            said.append(guest.message("iopub"))
        assert {message["parent_header"]["msg_id"] for message in said} == {msg_id}


def test_it_keeps_its_key_and_goes_on(guest: Guest) -> None:
    guest.run("x = 41")
    guest.freeze()
    assert restored(guest)["rekeyed"] is False
    assert guest.run("print(x + 1)") == "42\n"
    guest.freeze()
    guest.call("thaw")
    assert guest.run("print(x)") == "41\n"


def test_it_is_saved_when_its_cells_have_ended(guest: Guest) -> None:
    begin(guest, "time.sleep(1); first = True")
    queued = guest.execute("second = first")
    freeze = freezing(guest)
    late = guest.execute("late = True")
    assert guest.result(freeze)["quiet"] is True
    assert guest.reply(queued)["content"]["status"] == "ok"
    restored(guest)
    assert guest.run("print(second, 'late' in globals())") == "True False\n"
    assert late not in {message["parent_header"].get("msg_id") for message in guest.channels["shell"].received}


def test_what_came_meanwhile_runs_where_the_kernel_goes_on(guest: Guest) -> None:
    begin(guest, "time.sleep(1)")
    freeze = freezing(guest)
    late = guest.execute("late = True")
    guest.result(freeze)
    also = guest.execute("later = late")
    guest.call("thaw")
    assert guest.reply(late)["content"]["status"] == guest.reply(also)["content"]["status"] == "ok"


def test_what_came_while_it_stood_still_never_runs_after_a_restore(guest: Guest) -> None:
    guest.freeze()
    for channel in ("shell", "control"):
        guest.request("execute_request", {"code": "late = True", "silent": True}, channel=channel)
    guest.call("ping")
    restored(guest)
    assert guest.run("print('late' in globals())") == "False\n"


def test_a_kernel_at_work_is_not_saved_and_goes_on(guest: Guest) -> None:
    cell = begin(guest, "try:\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    ended = True")
    late = guest.execute("late = ended")
    with pytest.raises(CallFailed, match=r"at work and did not become idle within 0\.5 s") as caught:
        guest.freeze(timeout_s=0.5)
    assert caught.value.code == KERNEL_BUSY
    assert not stopped(guest.call("kernel.status")["pid"])
    guest.call("kernel.signal", signum=signal.SIGINT)
    assert guest.reply(cell)["content"]["status"] == guest.reply(late)["content"]["status"] == "ok"
    guest.freeze()
    guest.call("thaw")
    assert guest.run("print(late)") == "True\n"


def test_it_ends_while_it_is_waited_for(guest: Guest) -> None:
    begin(guest, "time.sleep(600)")
    freeze = freezing(guest)
    guest.call("kernel.kill")
    with pytest.raises(CallFailed, match="ended"):
        guest.result(freeze)
    guest.notified("kernel.exited")
    guest.start(instance=2)
    guest.attach(2)
    assert guest.run("print(2)") == "2\n"
    guest.freeze()
    assert guest.restored()["rekeyed"] is True
