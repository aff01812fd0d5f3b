"""The scripted guest as a guest that was booted: the agent's calls, and a kernel that does as Jupyter's do."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fc_kernel.errors import SpecError, UnsupportedByMonitor
from fc_kernel.testing import FakeVmm
from fc_kernel.testing.fake_vmm import GUEST_VARIABLE
from fc_kernel.vmm.base import BootPlan, Capability, SnapshotCreate, SnapshotLoad

from ...waiting import until
from ..scripted_host import DEADLINE_S, IDENTITY, CallFailed, ScriptedHost, booted, files_in, machine


@pytest.fixture
async def host() -> AsyncIterator[ScriptedHost]:
    async with booted() as host:
        yield host


async def test_the_agent_says_what_it_is(host: ScriptedHost) -> None:
    said = await host.hello()
    assert said["protocol"] == 3
    assert said["mem_total_mib"] == 16
    assert await host.call("ping") == {}
    assert await host.call("kernel.status") == {"running": True, "pid": 1, "returncode": None, "instance": 1}
    with pytest.raises(CallFailed, match="no method"):
        await host.call("no.such")
    with pytest.raises(CallFailed, match="KeyError"):
        await host.call("kernel.signal")


async def test_a_cell_as_jupyter_has_it(host: ScriptedHost) -> None:
    msg_id = await host.send("x = 2\nprint('x is', x)\nx * 21")
    reply = await host.reply(msg_id)
    assert (reply["status"], reply["execution_count"]) == ("ok", 1)
    iopub = [(message.kind, message.parent) for message in host.messages if message.channel == "iopub"]
    kinds = ["status", "execute_input", "stream", "execute_result", "status"]
    assert iopub == [(kind, msg_id) for kind in kinds]
    assert host.said("execute_result")[0]["data"] == {"text/plain": "42"}
    [shell] = [message for message in host.messages if message.channel == "shell"]
    assert shell.identities == [IDENTITY]


async def test_silent_requests_are_not_counted(host: ScriptedHost) -> None:
    assert await host.value("1 + 1") == "2"
    assert (await host.run("7"))["execution_count"] == 1
    assert (await host.run("7", store_history=False))["execution_count"] == 1
    assert len(host.said("execute_input")) == 2


async def test_an_error_aborts_what_is_queued(host: ScriptedHost) -> None:
    slow = await host.send("sleep(0.2)\nnothing")
    queued, info = await host.send("x = 1"), await host.request("kernel_info_request", {})
    reply = await host.reply(slow)
    assert (reply["status"], reply["ename"]) == ("error", "NameError")
    assert host.said("error", slow)[0]["evalue"] == "name 'nothing' is not defined"
    assert (await host.reply(queued))["status"] == "aborted"
    assert (await host.reply(info, "kernel_info_reply"))["implementation"] == "scripted"
    assert (await host.run("x"))["ename"] == "NameError"


async def test_requests_wait_behind_a_running_cell(host: ScriptedHost) -> None:
    first = await host.send("sleep(0.1)\nx = 1")
    others = [await host.send("x += 1") for _ in range(5)]
    for number, msg_id in enumerate([first, *others], start=1):
        assert (await host.reply(msg_id))["execution_count"] == number
    assert await host.value("x") == "6"


async def test_outputs_over_time(host: ScriptedHost) -> None:
    msg_id = await host.send("stream(200)")
    await host.reply(msg_id)
    assert [content["text"] for content in host.said("stream", msg_id)] == [f"{number}\n" for number in range(200)]


async def test_an_interrupt(host: ScriptedHost) -> None:
    msg_id = await host.send("print('in')\nsleep(600)")
    await until(lambda: host.printed(msg_id), DEADLINE_S)
    await host.call("kernel.signal", signum=int(signal.SIGINT))
    assert (await host.reply(msg_id))["ename"] == "KeyboardInterrupt"
    await host.call("kernel.signal", signum=int(signal.SIGINT))  # nothing runs
    assert (await host.run("1"))["status"] == "ok"


async def test_an_interrupt_request_overtakes_the_cell(host: ScriptedHost) -> None:
    msg_id = await host.send("sleep(600)")
    await until(lambda: host.said("execute_input", msg_id), DEADLINE_S)
    interrupt = await host.request("interrupt_request", {}, "control")
    assert (await host.reply(interrupt, "interrupt_reply"))["status"] == "ok"
    assert (await host.reply(msg_id))["ename"] == "KeyboardInterrupt"


async def test_input(host: ScriptedHost) -> None:
    msg_id = await host.send("x = input('name? ')")
    await until(lambda: host.said("input_request", msg_id), DEADLINE_S)
    assert host.said("input_request")[0]["prompt"] == "name? "
    await host.request("input_reply", {"value": "Ada"}, "stdin")
    await host.reply(msg_id)
    assert await host.value("x") == "'Ada'"
    assert (await host.run("input()", allow_stdin=False))["ename"] == "StdinNotImplementedError"


async def test_wrong_signatures_are_dropped(host: ScriptedHost) -> None:
    wrong = await host.request("kernel_info_request", {}, key="another key")
    right = await host.request("kernel_info_request", {})
    await host.reply(right, "kernel_info_reply")
    assert not host.said("kernel_info_reply", wrong)


@pytest.mark.parametrize(
    ("how", "returncode"),
    [("exit", 3), ("shutdown", 0), ("kill", -9), ("term", -15)],
)
async def test_the_end_of_a_kernel_and_the_next_one(host: ScriptedHost, how: str, returncode: int) -> None:
    if how == "exit":
        await host.send("x = 1\nexit(3)")
    elif how == "shutdown":
        reply = await host.request("shutdown_request", {"restart": True}, "control")
        assert await host.reply(reply, "shutdown_reply") == {"status": "ok", "restart": True}
    elif how == "kill":
        await host.call("kernel.kill")
    else:
        await host.call("kernel.signal", signum=int(signal.SIGTERM))
    await until(lambda: host.notified, DEADLINE_S)
    method, params = host.notified[0]
    assert (method, params["instance"], params["returncode"], params["oom"]) == ("kernel.exited", 1, returncode, False)
    assert (await host.call("kernel.status"))["running"] is False
    host.key = "second key"
    await host.start_kernel(instance=2)
    assert (await host.run("x"))["ename"] == "NameError"


async def test_one_kernel_at_a_time_and_programs_that_are_there(host: ScriptedHost) -> None:
    with pytest.raises(CallFailed, match="a kernel is running"):
        await host.start_kernel()
    await host.call("kernel.kill")
    with pytest.raises(CallFailed, match="no program '/no/such'"):
        await host.start_kernel(argv=["/no/such"])


async def test_what_a_kernel_can_know(host: ScriptedHost) -> None:
    assert await host.value("env('A')") == "'1'"
    assert await host.value("cwd()") == "'/root'"
    assert abs(float(await host.value("time()")) - time.time()) < 5
    drawn = {await host.value("random()"), await host.value("random()"), await host.value("urandom()")}
    assert len(drawn) == 3
    before = float(await host.value("monotonic()"))
    await host.vmm.pause()
    paused = time.monotonic()
    await asyncio.sleep(0.3)
    passed = time.monotonic() - paused
    await host.vmm.resume()
    assert 0 <= float(await host.value("monotonic()")) - before < passed + DEADLINE_S


@pytest.mark.parametrize(
    ("magic", "op", "args", "answer", "printed"),
    [
        ("%snapshot", "snapshot", {"name": None, "description": ""}, {"snapshot": {"name": "s1"}}, "snapshot s1\n"),
        (
            "%snapshot a -m 'so far'", "snapshot", {"name": "a", "description": "so far"},
            {"snapshot": {"name": "a"}}, "snapshot a\n",
        ),
        ("%restore a --same-seed", "restore", {"name": "a", "same_seed": True}, None, ""),
        ("%fork 3", "fork", {"name": None, "count": 3}, {"forks": []}, ""),
        ("%fork -n 8", "fork", {"name": None, "count": 8}, {"forks": []}, ""),
        (
            "%fork a -n 1", "fork", {"name": "a", "count": 1},
            {"forks": [{"kernel_id": "k", "connection_file": "/f"}]}, "fork k /f\n",
        ),
        ("%snapshots", "snapshots", {}, {"snapshots": [{"name": "a"}, {"name": "b"}]}, "snapshot a\nsnapshot b\n"),
        ("%vm", "vm", {}, {"tier": "none"}, '{"tier": "none"}\n'),
        ("%request x '{\"y\": 1}'", "x", {"y": 1}, {}, "{}\n"),
    ],
)  # fmt: skip
async def test_magics_ask_the_host(
    host: ScriptedHost, magic: str, op: str, args: dict[str, Any], answer: Any, printed: str
) -> None:
    msg_id = await host.send(f"x = 1\n{magic}\nx = 2")
    asked = await host.asked()
    assert (asked["op"], asked["args"], asked["parent"], asked["instance"]) == (op, args, msg_id, 1)
    await host.call("answer", id=asked["id"] + 1, result={})  # of no request
    if answer is None:
        await host.call("answer", id=asked["id"], error="no such snapshot")
        reply = await host.reply(msg_id)
        assert (reply["ename"], reply["evalue"]) == ("SnapshotError", "no such snapshot")
    else:
        await host.call("answer", id=asked["id"], result=answer)
        assert (await host.reply(msg_id))["status"] == "ok"
        assert host.printed(msg_id) == printed
        assert await host.value("x") == "2"


async def test_one_request_at_a_time_and_an_interrupt_of_it(host: ScriptedHost) -> None:
    msg_id = await host.send("%snapshot")
    asked = await host.asked()
    await host.call("kernel.signal", signum=int(signal.SIGINT))
    assert (await host.reply(msg_id))["ename"] == "KeyboardInterrupt"
    assert "not answered yet" in (await host.run("%snapshots"))["evalue"]
    await host.call("answer", id=asked["id"], result={"snapshot": {"name": "s1"}})
    again = await host.send("%snapshots")
    await host.call("answer", id=(await host.asked())["id"], result={"snapshots": []})
    assert (await host.reply(again))["status"] == "ok"
    assert host.printed() == ""


@pytest.mark.parametrize("magic", ["%nosuch", "%restore", "%fork a -n x", "%snapshot 'a", "%vm now", "%request x {"])
async def test_wrong_magics(host: ScriptedHost, magic: str) -> None:
    assert (await host.run(magic))["ename"] == "UsageError"
    assert host.notified == []


async def test_a_frozen_kernel_does_nothing(host: ScriptedHost) -> None:
    msg_id = await host.send("stream(100000)")
    await until(lambda: host.printed(msg_id), DEADLINE_S)
    frozen = await host.call("freeze", hooks=True, timeout_s=1.0)
    assert frozen == {
        "instance": 1, "language": "python", "execution_count": 1, "cell": msg_id, "hook_errors": [], "quiet": True
    }  # fmt: skip
    assert await host.call("freeze", hooks=True, timeout_s=1.0) == frozen
    # What it had said was on its way before the answer to a later call.
    await host.call("ping")
    before = len(host.messages)
    late = await host.send("x = 1")
    await asyncio.sleep(0.1)
    await host.call("ping")
    assert len(host.messages) == before
    await host.call("thaw", time=time.time())
    await host.call("thaw")
    await host.call("kernel.signal", signum=int(signal.SIGINT))
    assert (await host.reply(msg_id))["ename"] == "KeyboardInterrupt"
    assert (await host.reply(late))["status"] in ("aborted", "ok")
    numbers = host.printed(msg_id).split()
    assert numbers == [str(number) for number in range(len(numbers))]


async def test_a_kernel_that_is_not_quiet(host: ScriptedHost) -> None:
    msg_id = await host.send("native(0.1)")
    await until(lambda: host.said("execute_input", msg_id), DEADLINE_S)
    assert (await host.call("freeze", hooks=False, timeout_s=0.1))["quiet"] is False
    await host.call("thaw")
    assert (await host.reply(msg_id))["status"] == "ok"


async def test_a_slow_host_makes_the_kernel_wait(host: ScriptedHost) -> None:
    """Nothing is dropped, and no more than a window and a queue are held."""
    await host.detach()
    host.messages.clear()
    await host.attach(2)
    msg_id = await host.send("x = 'x' * 1000000\nstream(3)\n" + "print(x)\n" * 60)
    await host.reply(msg_id)
    assert len(host.printed(msg_id)) == 60 * 1_000_001 + 6


async def test_the_environment_chooses_the_guest(tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path_factory.mktemp("r")
    plan = BootPlan(vm_id="x", spec=(await _spec()), run_dir=directory)
    assert Capability.SNAPSHOT not in FakeVmm(plan).capabilities
    monkeypatch.setenv(GUEST_VARIABLE, "scripted")
    assert {Capability.SNAPSHOT, Capability.LAYERS} <= FakeVmm(plan).capabilities
    assert Capability.SNAPSHOT_KEEPS_CONNECTIONS not in FakeVmm(plan, faults="resume:reset").capabilities
    monkeypatch.setenv(GUEST_VARIABLE, "other")
    with pytest.raises(SpecError, match="agent or scripted"):
        FakeVmm(plan)
    real = FakeVmm(plan, guest="agent")
    files = files_in(directory)
    with pytest.raises(UnsupportedByMonitor, match="scripted guest"):
        await real.load(SnapshotLoad(files=files))
    with pytest.raises(UnsupportedByMonitor, match="scripted guest"):
        await real.snapshot(SnapshotCreate(files=files))


async def _spec() -> Any:
    async with machine() as vmm:
        return vmm.plan.spec
