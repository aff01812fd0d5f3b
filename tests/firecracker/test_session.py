"""A session's life on the real Firecracker."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from .client import DEADLINE_S
from .conftest import MakeKernel

pytestmark = pytest.mark.firecracker


def test_a_life(new_kernel: MakeKernel) -> None:
    kernel = new_kernel()
    client = kernel.start()
    assert kernel.machine.vmm.name == "firecracker"
    info = client.client.kernel_info(reply=True, timeout=DEADLINE_S)["content"]
    assert info["implementation"] == "bare"
    assert client.execute("x = 5").status == "ok"
    done = client.execute("x + 1")
    assert (done.result, done.reply["execution_count"]) == ("6", 2)
    assert client.execute("echo hello").stream == "hello\n"
    assert client.execute("y").reply["ename"] == "NameError"
    assert client.client.history(reply=True, timeout=DEADLINE_S)["content"]["history"] == []


def test_interrupt(new_kernel: MakeKernel) -> None:
    kernel = new_kernel()
    client = kernel.start()
    for code in ("echo in\nspin", "echo in\nsleep 1000000"):
        cell = client.begin(code)
        client.says("stream")
        kernel.run(kernel.session.signal(signal.SIGINT))
        assert client.finish(cell).reply["ename"] == "KeyboardInterrupt"
    cell = client.begin("echo in\nspin")
    client.says("stream")
    interrupt = client.client.session.msg("interrupt_request", {})
    client.client.control_channel.send(interrupt)
    assert client.finish(cell).reply["ename"] == "KeyboardInterrupt"
    assert client.value("count") == "1"


def test_restart(new_kernel: MakeKernel) -> None:
    """A kernel process that was ended, that ended itself, and that was asked to end."""
    kernel = new_kernel()
    client = kernel.start()
    ends: list[tuple[Callable[[], object], int]] = [
        (lambda: kernel.run(kernel.session.kill()), -signal.SIGKILL),
        (lambda: client.begin("exit"), 0),
        (lambda: client.client.shutdown(reply=True, timeout=DEADLINE_S), 0),
    ]
    pid = kernel.machine.vmm.pid
    for end, returncode in ends:
        assert client.execute("x = 1").status == "ok"
        end()
        assert kernel.run(kernel.session.wait()) == returncode
        client = kernel.start()
        assert client.execute("x").reply["ename"] == "NameError"
        assert kernel.machine.vmm.pid == pid


def test_the_end_of_the_monitor(new_kernel: MakeKernel) -> None:
    kernel = new_kernel()
    client = kernel.start()
    cell = client.begin("echo in\nspin")
    client.says("stream")
    kernel.run(kernel.machine.vmm.kill())
    assert client.finish(cell).reply["ename"] == "KernelDied"
    assert kernel.run(kernel.session.wait()) == -signal.SIGKILL
    assert kernel.start().execute("x = 1").status == "ok"
