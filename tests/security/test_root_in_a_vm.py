"""Root in a real guest: what it sees, what it reaches, and what becomes of it when it turns on its own host."""

from __future__ import annotations

import ast
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from fc_kernel.base.paths import runtime_dir
from fc_kernel.vmm.journal import list_entries

from ..jupyter.conftest import Run
from .conftest import Innocent, connected, managed

pytestmark = pytest.mark.vm

DEADLINE_S = 180.0
MARK = "mark-of-a-secret-that-stays-on-the-host"
ALLOWED = {
    "PATH", "HOME", "USER", "LANG", "JPY_PARENT_PID", "JPY_SESSION_NAME", "TZ", "PYDEVD_DISABLE_FILE_VALIDATION",
    "FC_KERNEL_TIER", "FC_KERNEL_MONITOR", "FC_KERNEL_VM_ID", "FC_KERNEL_VCPU_COUNT", "FC_KERNEL_MEM_SIZE_MIB",
    # The agent's socket, which is in the guest, and what its template has imported.
    "FC_KERNEL_AGENT_SOCKET", "FC_KERNEL_TEMPLATE_IMPORTS",
}  # fmt: skip


class Vm:
    """A kernel in a VM, and its client."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client

    def tell(self, code: str) -> Any:
        """What the last line of some code is, as root in the guest sees it."""
        *lines, last = code.strip().splitlines()
        run = Run(self.client, "\n".join([*lines, f"import json; json.dumps({last})"]))
        assert run.ok, run.reply["content"]
        return json.loads(ast.literal_eval(run.value))

    @property
    def monitor(self) -> psutil.Process:
        [entry] = [entry for entry in list_entries(runtime_dir()) if entry.kernel_id == self.manager.kernel_id]
        return psutil.Process(entry.pid)


@pytest.fixture(scope="module")
def vm(innocent: Innocent) -> Iterator[Vm]:
    """Beside a kernel of somebody else's; started with a secret in the server's environment."""
    patch = pytest.MonkeyPatch()
    patch.setenv("FC_KERNEL_MONITOR", "qemu")
    for name in ("AWS_SECRET_ACCESS_KEY", "JPY_API_TOKEN", "OPENAI_API_KEY", "GITHUB_TOKEN"):
        patch.setenv(name, MARK)
    try:
        with managed() as manager:
            manager.start_kernel()
            with connected(manager) as client:
                client.wait_for_ready(timeout=DEADLINE_S)
                yield Vm(manager, client)
    finally:
        patch.undo()


def test_the_environment_is_the_allowed_one(vm: Vm) -> None:
    started_with = vm.tell(
        "words = open('/proc/self/environ', 'rb').read().decode().split('\\0')\n"
        "[word.partition('=')[0] for word in words if word]"
    )
    assert set(started_with) <= ALLOWED
    everything = vm.tell(
        "import glob\n"
        "seen = b''\n"
        "for name in glob.glob('/proc/[0-9]*/environ'):\n"
        "    try: seen += open(name, 'rb').read()\n"
        "    except OSError: pass\n"
        "seen.decode('latin1')"
    )
    assert MARK not in everything


def test_there_is_no_network(vm: Vm) -> None:
    assert vm.tell("import os\nos.listdir('/sys/class/net')") == ["lo"]
    routes = vm.tell("open('/proc/net/route').read().splitlines()[1:]")
    assert routes == []


def test_nothing_of_the_host_is_reached_by_vsock(vm: Vm) -> None:
    """Neither the hypervisor, nor the host, nor another guest's number."""
    outcomes = vm.tell(
        "import socket\n"
        "outcomes = []\n"
        "for cid in (0, 2, *range(3, 40)):\n"
        "    for port in (22, 1000, 1001, 5000):\n"
        "        try:\n"
        "            with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as sock:\n"
        "                sock.settimeout(0.2)\n"
        "                sock.connect((cid, port))\n"
        "                outcomes.append(f'{cid}:{port}')\n"
        "        except OSError:\n"
        "            pass\n"
        "outcomes"
    )
    assert outcomes == []


def memory_holds(process: psutil.Process, needle: bytes) -> bool:
    """Whether a process, and with it the guest whose memory is the process's, has these bytes anywhere."""
    step = 64 << 20
    with Path(f"/proc/{process.pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            if "rw" not in rights:
                continue
            start, end = (int(each, 16) for each in span.split("-"))
            for at in range(start, end, step):
                memory.seek(at)
                try:
                    if needle in memory.read(min(step + len(needle), end - at)):
                        return True
                except OSError:
                    break
    return False


def test_no_key_and_no_secret_of_the_host_is_in_the_guests_memory(vm: Vm) -> None:
    """All of the guest's memory is searched, its kernel's too; a word of the guest's own is found there."""
    own = f"a word that is {os.getpid()} in no other place".encode()
    vm.tell(f"own = bytes.fromhex({own.hex()!r})\nlen(own)")
    assert memory_holds(vm.monitor, own)
    assert memory_holds(psutil.Process(), MARK.encode())
    assert not memory_holds(vm.monitor, bytes(vm.manager.session.key))
    assert not memory_holds(vm.monitor, MARK.encode())


def test_the_monitor_is_confined(vm: Vm) -> None:
    process = vm.monitor
    assert process.net_connections("inet") == []
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)
        assert status["Seccomp"] == "2", "QEMU's sandbox filters the system calls of every thread"
        assert status["NoNewPrivs"] == "1"
    assert MARK not in Path(f"/proc/{process.pid}/environ").read_text()


#: Takes the descriptor of the virtio port out of the agent, which is process 1, and writes what is no frame to it.
TURN_ON_THE_HOST = """
import ctypes, glob, os
libc = ctypes.CDLL(None, use_errno=True)
agent = os.pidfd_open(1)
for entry in glob.glob('/proc/1/fd/*'):
    if os.readlink(entry).startswith('/dev/vport'):
        port = libc.syscall(438, agent, int(os.path.basename(entry)), 0)  # pidfd_getfd
        assert port >= 0, os.strerror(ctypes.get_errno())
        while True:
            try: os.write(port, b'GET / HTTP/1.1' * 100)
            except BlockingIOError: pass
"""


def test_a_guest_that_breaks_the_multiplexer_is_ended(vm: Vm, innocent: Innocent) -> None:
    """The last test of this VM: its user gets an error that says so, and nobody else notices."""
    msg_id = vm.client.execute(TURN_ON_THE_HOST)
    while (reply := vm.client.get_shell_msg(timeout=DEADLINE_S))["parent_header"].get("msg_id") != msg_id:
        pass
    assert reply["content"]["ename"] == "KernelDied"
    assert "the microVM was ended" in reply["content"]["evalue"]
    end = time.monotonic() + DEADLINE_S
    while vm.manager.is_alive():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert [entry.kernel_id for entry in list_entries(runtime_dir())] == [innocent.kernel_id]
    assert innocent.is_undisturbed()
