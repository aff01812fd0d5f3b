"""All that a kernel does, through the tunnel: on the fake monitor and in a real VM."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from jupyter_core.utils import ensure_event_loop

from .conftest import DEADLINE_S, Run, another_client

Execute = Callable[..., Run]


def reply_to(client: BlockingKernelClient, msg_id: str, *, channel: str = "shell") -> dict[str, Any]:
    """The reply to a request, skipping other clients' and older ones."""
    get = getattr(client, f"get_{channel}_msg")
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        message = get(timeout=DEADLINE_S)
        if message["parent_header"].get("msg_id") == msg_id:
            return message
    raise TimeoutError(msg_id)


def iopub_until(client: BlockingKernelClient, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    seen = []
    while True:
        seen.append(client.get_iopub_msg(timeout=DEADLINE_S))
        if wanted(seen[-1]):
            return seen


def test_executes(run: Execute) -> None:
    assert run("6 * 7").value == "42"
    assert run("print('to stdout')").stdout == "to stdout\n"


def test_runs_where_it_says(run: Execute, monitor: str) -> None:
    """The kernel's own view: tier and monitor are the real ones, and a VM has a machine of its own."""
    told = run(
        "import os, platform; (os.environ['FC_KERNEL_TIER'], os.environ['FC_KERNEL_MONITOR'], platform.release())"
    )
    tier, name, release = eval(told.value)
    assert name == monitor
    assert (release == os.uname().release) == (monitor == "fake")
    assert tier == {"fake": "none"}.get(monitor, tier)
    assert tier in {"none", "emulated", "kvm"}


def test_an_error_is_an_error(run: Execute) -> None:
    failed = run("1 / 0")
    assert failed.reply["content"]["ename"] == "ZeroDivisionError"
    assert [m for m in failed.messages if m["msg_type"] == "error"]


def test_stdin(client: BlockingKernelClient) -> None:
    seen: list[dict[str, Any]] = []

    def answer(message: dict[str, Any]) -> None:
        assert message["content"]["prompt"] == "name? "
        client.input("Ada")

    client.execute_interactive(
        "print('hello', input('name? '))",
        allow_stdin=True,
        stdin_hook=answer,
        output_hook=seen.append,
        timeout=DEADLINE_S,
    )
    assert "hello Ada" in "".join(m["content"].get("text", "") for m in seen)


INTERRUPTED = {
    "a sleep": "import time\nprint('busy', flush=True)\ntime.sleep(600)",
    "a tight loop": "print('busy', flush=True)\nwhile True: pass",
    "a flood of output": "print('busy', flush=True)\nwhile True: print('x' * 1000)",
}


@pytest.mark.parametrize("code", INTERRUPTED.values(), ids=INTERRUPTED)
def test_interrupt(manager: KernelManager, client: BlockingKernelClient, code: str) -> None:
    msg_id = client.execute(code)
    iopub_until(client, lambda m: m["msg_type"] == "stream" and m["parent_header"].get("msg_id") == msg_id)
    manager.interrupt_kernel()
    assert reply_to(client, msg_id)["content"]["ename"] == "KeyboardInterrupt"
    iopub_until(
        client, lambda m: m["parent_header"].get("msg_id") == msg_id and m["content"].get("execution_state") == "idle"
    )


def test_complete_inspect_history(client: BlockingKernelClient, run: Execute) -> None:
    run("a_very_long_name = 1", store_history=True)
    assert "a_very_long_name" in reply_to(client, client.complete("a_very_lo"))["content"]["matches"]
    inspected = reply_to(client, client.inspect("print"))["content"]
    assert inspected["found"]
    assert "print" in inspected["data"]["text/plain"]
    history = reply_to(client, client.history(hist_access_type="tail", n=1))["content"]["history"]
    assert history[-1][2] == "a_very_long_name = 1"
    assert reply_to(client, client.is_complete("for i in x:"))["content"]["status"] == "incomplete"


def test_comm_both_ways(client: BlockingKernelClient, run: Execute) -> None:
    code = """
import comm
def opened(comm_, message):
    @comm_.on_msg
    def received(message):
        comm_.send({'echo': message['content']['data']}, buffers=[bytes(message['buffers'][0])])
comm.get_comm_manager().register_target('echo', opened)
"""
    assert run(code).ok
    content = {"comm_id": "c1", "target_name": "echo", "data": {}}
    client.shell_channel.send(client.session.msg("comm_open", content))
    payload = os.urandom(1 << 10) * (8 << 10)
    message = client.session.msg("comm_msg", {"comm_id": "c1", "data": {"n": 1}})
    client.session.send(client.shell_channel.socket, message, buffers=[payload])
    answer = iopub_until(client, lambda m: m["msg_type"] == "comm_msg")[-1]
    assert answer["content"]["data"] == {"echo": {"n": 1}}
    assert bytes(answer["buffers"][0]) == payload, "an 8 MiB buffer crossed both ways unchanged"


def test_ipywidgets(client: BlockingKernelClient, run: Execute) -> None:
    shown = run("import ipywidgets as w\ns = w.IntSlider(value=3)\ns")
    view = next(data for data in shown.data if "application/vnd.jupyter.widget-view+json" in data)
    model = view["application/vnd.jupyter.widget-view+json"]["model_id"]
    update = {"comm_id": model, "data": {"method": "update", "state": {"value": 9}, "buffer_paths": []}}
    client.shell_channel.send(client.session.msg("comm_msg", update))
    assert run("s.value").value == "9"


def test_matplotlib_inline(run: Execute) -> None:
    drawn = run("%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 3, 2]);")
    assert any(data.get("image/png", "").startswith("iVBOR") for data in drawn.data)


def test_rich_outputs(run: Execute) -> None:
    shown = run(
        "from IPython.display import display, HTML, JSON, update_display, clear_output\n"
        "h = display(HTML('<b>x</b>'), display_id='d1'); display(JSON({'a': 1}))\n"
        "update_display(HTML('<i>y</i>'), display_id='d1'); clear_output(wait=True)"
    )
    kinds = [m["msg_type"] for m in shown.messages]
    assert {"display_data", "update_display_data", "clear_output"} <= set(kinds)
    assert any(data.get("text/html") == "<b>x</b>" for data in shown.data)


def test_debugger(client: BlockingKernelClient, run: Execute) -> None:
    def debug(command: str, seq: int, **arguments: Any) -> dict[str, Any]:
        content = {"type": "request", "seq": seq, "command": command, "arguments": arguments}
        message = client.session.msg("debug_request", content)
        client.control_channel.send(message)
        return reply_to(client, message["header"]["msg_id"], channel="control")["content"]

    assert debug("debugInfo", 1)["body"]["isStarted"] is False
    assert debug("initialize", 2, clientID="t", adapterID="", pathFormat="path")["success"]
    assert debug("attach", 3)["success"]
    code = "x = 1\ny = x + 1\nz = y"
    path = debug("dumpCell", 4, code=code)["body"]["sourcePath"]
    set_there = debug("setBreakpoints", 5, source={"path": path}, breakpoints=[{"line": 2}], sourceModified=False)
    assert set_there["body"]["breakpoints"][0]["verified"]
    debug("configurationDone", 6)
    msg_id = client.execute(code)
    stopped = iopub_until(client, lambda m: m["msg_type"] == "debug_event" and m["content"]["event"] == "stopped")[-1]
    thread = stopped["content"]["body"]["threadId"]
    assert debug("continue", 7, threadId=thread)["success"]
    assert reply_to(client, msg_id)["content"]["status"] == "ok"
    assert debug("disconnect", 8, restart=False, terminateDebuggee=False)["success"]
    assert run("z").value == "2"


def test_subshells(client: BlockingKernelClient) -> None:
    """A subshell answers while the main shell is busy."""
    create = client.session.msg("create_subshell_request", {})
    client.control_channel.send(create)
    subshell = reply_to(client, create["header"]["msg_id"], channel="control")["content"]["subshell_id"]
    busy = client.execute("import threading\ngate = threading.Event()\nprint('in', flush=True)\ngate.wait(600)")
    iopub_until(client, lambda m: m["msg_type"] == "stream" and m["parent_header"].get("msg_id") == busy)
    content = {
        "code": "gate.set()",
        "silent": False,
        "store_history": False,
        "user_expressions": {},
        "allow_stdin": False,
    }
    message = client.session.msg("execute_request", content)
    message["header"]["subshell_id"] = subshell
    client.shell_channel.send(message)
    replies = {
        reply["parent_header"]["msg_id"] for reply in (client.get_shell_msg(timeout=DEADLINE_S) for _ in range(2))
    }
    assert replies == {busy, message["header"]["msg_id"]}
    delete = client.session.msg("delete_subshell_request", {"subshell_id": subshell})
    client.control_channel.send(delete)
    assert reply_to(client, delete["header"]["msg_id"], channel="control")["content"]["status"] == "ok"


def test_a_hundred_megabytes(run: Execute) -> None:
    """Every byte of a large output arrives, in order."""
    block = 1 << 20
    told = run(
        f"import sys\nfor i in range(100):\n    sys.stdout.write(chr(97 + i % 26) * {block}); sys.stdout.flush()\n",
        timeout=3 * DEADLINE_S,
    )
    assert told.ok
    text = told.stdout
    assert len(text) == 100 * block
    assert all(text[i * block] == text[(i + 1) * block - 1] == chr(97 + i % 26) for i in range(100))


def test_several_clients(manager: KernelManager, run: Execute) -> None:
    """A second client sees the first one's output, and each gets its own reply."""
    second = another_client(manager)
    second.start_channels()
    try:
        second.wait_for_ready(timeout=DEADLINE_S)
        run("print('for both')")
        iopub_until(second, lambda m: m["content"].get("text") == "for both\n")
        msg_id = second.execute("1 + 1")
        assert reply_to(second, msg_id)["content"]["status"] == "ok"
    finally:
        second.stop_channels()


def test_a_client_that_comes_back(manager: KernelManager) -> None:
    """A browser's tab is closed and opened again: the same session, new sockets."""
    for code in ("kept = 'still here'; kept", "kept"):
        client = manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=DEADLINE_S)
            assert Run(client, code).value == "'still here'"
        finally:
            client.stop_channels()


def test_a_forged_message_is_dropped(manager: KernelManager, client: BlockingKernelClient, run: Execute) -> None:
    forger = another_client(manager)
    forger.session.key = b"not the key"
    forger.start_channels()
    try:
        forger.execute("forged = True")
        with pytest.raises(queue.Empty):
            forger.get_shell_msg(timeout=2)
    finally:
        forger.stop_channels()
    assert run("'forged' in globals()").value == "False"


def test_only_an_allow_listed_environment(monitor: str) -> None:
    """A server hands its whole environment over; the guest sees what was meant for it."""
    secrets = ("JPY_API_TOKEN", "JUPYTERHUB_API_TOKEN", "AWS_SECRET_ACCESS_KEY", "A_SECRET", "FC_GUEST_API_TOKEN")
    manager = KernelManager(kernel_name="fc-python3")
    manager.start_kernel(env={**os.environ, **dict.fromkeys(secrets, "hunter2"), "FC_GUEST_SHOWN": "yes"})
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=DEADLINE_S)
        environment = eval(Run(client, "import os; dict(os.environ)").value)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
    assert "hunter2" not in environment.values()
    assert environment["FC_GUEST_SHOWN"] == "yes"


def test_restart_and_shutdown(monitor: str) -> None:
    """A restart gives a fresh interpreter to the same client; a shutdown ends it."""
    manager = KernelManager(kernel_name="fc-python3")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=DEADLINE_S)
        for now in (False, True):
            Run(client, "left_over = 1")
            manager.restart_kernel(now=now)
            client.wait_for_ready(timeout=DEADLINE_S)
            assert Run(client, "'left_over' in globals()").value == "False"
        assert manager.is_alive()
        manager.shutdown_kernel()
        assert not manager.is_alive()
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def test_several_kernels_at_once(monitor: str) -> None:
    """Each has its own machine; a flood in one does not stop another."""
    managers = [KernelManager(kernel_name="fc-python3") for _ in range(2)]
    clients: list[BlockingKernelClient] = []

    def start(manager: KernelManager) -> None:
        try:
            manager.start_kernel()
        finally:
            # jupyter_core keeps a loop for each thread, and closes none.
            ensure_event_loop().close()

    starters = [threading.Thread(target=start, args=(manager,), name="starter") for manager in managers]
    try:
        for starter in starters:
            starter.start()
        for starter in starters:
            starter.join()
        for manager in managers:
            client = manager.client()
            client.start_channels()
            client.wait_for_ready(timeout=DEADLINE_S)
            clients.append(client)
        flooding = clients[0].execute("while True: print('x' * 1000)")
        assert [Run(clients[1], f"{n} + 1").value for n in range(5)] == ["1", "2", "3", "4", "5"]
        managers[0].interrupt_kernel()
        assert reply_to(clients[0], flooding)["content"]["ename"] == "KeyboardInterrupt"
    finally:
        for client in clients:
            client.stop_channels()
        for manager in managers:
            if manager.has_kernel:
                manager.shutdown_kernel(now=True)
            manager.cleanup_resources()
