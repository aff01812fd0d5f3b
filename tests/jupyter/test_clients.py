"""Every client that people use, each on a real VM."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

import fc_kernel

from ..waiting import eventually
from .conftest import DEADLINE_S, Run
from .server import Server

MACHINE = "import os, platform; print(platform.release(), os.cpu_count(), os.environ['FC_KERNEL_VCPU_COUNT'])"


@pytest.fixture
def notebook(monitor: str) -> nbformat.NotebookNode:
    """Asks for two vCPUs in its metadata, and prints what it got."""
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(MACHINE), nbformat.v4.new_code_cell("2 + 2")]
    notebook.metadata["kernelspec"] = {"name": "fc-python3", "display_name": "x", "language": "python"}
    notebook.metadata["fc_kernel"] = {"vcpu_count": 2}
    return notebook


def printed(notebook: nbformat.NotebookNode) -> list[str]:
    """Kernel release, vCPUs seen and vCPUs promised, as the first cell printed them."""
    return notebook.cells[0].outputs[0]["text"].split()


def check(notebook: nbformat.NotebookNode, monitor: str, *, vcpus: int | None) -> None:
    release, seen, promised = printed(notebook)
    assert notebook.cells[1].outputs[0]["data"]["text/plain"] == "4"
    if vcpus is not None:
        assert promised == str(vcpus)
    if monitor != "fake":
        assert seen == promised
        assert release != os.uname().release


async def test_async_client(monitor: str) -> None:
    manager = AsyncKernelManager(kernel_name="fc-python3")
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=DEADLINE_S)
        reply = await client.execute_interactive("6 * 7", timeout=DEADLINE_S, output_hook=lambda _: None)
        assert reply["content"]["status"] == "ok"
        await manager.restart_kernel(now=True)
        await client.wait_for_ready(timeout=DEADLINE_S)
        assert await manager.is_alive()
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)
        await manager.cleanup_resources()
    assert not await manager.is_alive()


def test_nbclient_with_the_helper(notebook: nbformat.NotebookNode, monitor: str) -> None:
    """``fc_kernel.execute`` hands the notebook's metadata over."""
    fc_kernel.execute(notebook)
    check(notebook, monitor, vcpus=2)


def test_plain_nbclient(notebook: nbformat.NotebookNode, monitor: str) -> None:
    """Plain nbclient passes no metadata, and gets the defaults."""
    NotebookClient(notebook, timeout=DEADLINE_S, startup_timeout=DEADLINE_S).execute()
    check(notebook, monitor, vcpus=1)


def command(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, timeout=2 * DEADLINE_S, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_jupyter_execute(notebook: nbformat.NotebookNode, monitor: str, tmp_path: Path) -> None:
    path = tmp_path / "n.ipynb"
    nbformat.write(notebook, path)
    command("jupyter", "execute", "--inplace", f"--startup_timeout={DEADLINE_S}", str(path))
    check(nbformat.read(path, as_version=4), monitor, vcpus=1)


def test_fc_kernel_execute(notebook: nbformat.NotebookNode, monitor: str, tmp_path: Path) -> None:
    """Our own command obeys the metadata, and prints the outputs."""
    path = tmp_path / "n.ipynb"
    nbformat.write(notebook, path)
    done = command("jupyter", "fc-kernel", "execute", "--inplace", str(path))
    check(nbformat.read(path, as_version=4), monitor, vcpus=2)
    assert done.stdout.splitlines()[-1] == "4"


def test_papermill(notebook: nbformat.NotebookNode, monitor: str, tmp_path: Path) -> None:
    path, out = tmp_path / "n.ipynb", tmp_path / "out.ipynb"
    nbformat.write(notebook, path)
    command(
        "papermill",
        "--engine",
        "fc_kernel",
        "--no-progress-bar",
        "--start-timeout",
        str(DEADLINE_S),
        str(path),
        str(out),
    )
    check(nbformat.read(out, as_version=4), monitor, vcpus=2)


def test_bad_metadata_is_one_clear_error(notebook: nbformat.NotebookNode, monitor: str) -> None:
    notebook.metadata["fc_kernel"] = {"vcpu_count": "many"}
    with pytest.raises(fc_kernel.FcKernelError, match=r"vcpu_count.*'many'.*allowed"):
        fc_kernel.execute(notebook)


def test_jupyter_console(monitor: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", "console", "--kernel=fc-python3", "--simple-prompt",
         f"--ZMQTerminalInteractiveShell.kernel_timeout={DEADLINE_S}"],
        input="print('six times seven is', 6 * 7)\nexit\n",
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )  # fmt: skip
    assert "six times seven is 42" in done.stdout, done.stdout + done.stderr


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def test_the_launcher_alone(monitor: str, tmp_path: Path) -> None:
    """A program that ignores provisioners writes a connection file and runs ``argv``."""
    from jupyter_client.connect import write_connection_file

    path, info = write_connection_file(str(tmp_path / "connection.json"))
    launcher = subprocess.Popen(
        [sys.executable, "-m", "fc_kernel.launcher", "-f", path], stderr=subprocess.PIPE, text=True
    )
    client = BlockingKernelClient(connection_file=path)
    client.load_connection_file()
    try:
        # A client without a manager gives up on a kernel whose heart is silent for a second; so long may imports take.
        eventually(lambda: accepts(info["hb_port"]) or launcher.poll() is not None, "a heartbeat's socket")
        client.start_channels()
        client.wait_for_ready(timeout=DEADLINE_S)
        assert Run(client, "6 * 7").value == "42"
        msg_id = client.execute("print('in', flush=True)\nwhile True: pass")
        while client.get_iopub_msg(timeout=DEADLINE_S)["msg_type"] != "stream":
            pass
        launcher.send_signal(signal.SIGINT)
        while (reply := client.get_shell_msg(timeout=DEADLINE_S))["parent_header"].get("msg_id") != msg_id:
            pass
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        client.shutdown()
        assert launcher.wait(DEADLINE_S) == 0
    finally:
        client.stop_channels()
        launcher.kill()
        launcher.communicate()
    assert info["shell_port"]


def test_the_launcher_says_why_it_failed(jupyter_path: Path, tmp_path: Path) -> None:
    from jupyter_client.connect import write_connection_file

    path, _ = write_connection_file(str(tmp_path / "connection.json"))
    done = subprocess.run(
        [sys.executable, "-m", "fc_kernel.launcher", "-f", path],
        env={**os.environ, "FC_KERNEL_IMAGE": "no-such-image", "FC_KERNEL_MONITOR": "qemu"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 1
    assert "no-such-image" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def server(monitor: str, tmp_path: Path):
    server = Server(tmp_path)
    yield server
    server.stop()


async def test_rest_and_websocket(server: Server, notebook: nbformat.NotebookNode, monitor: str) -> None:
    """As a browser does it: a session for a notebook's path, then the kernel's WebSocket."""
    import httpx
    import websockets

    nbformat.write(notebook, server.root / "n.ipynb")
    headers = {"Authorization": f"token {server.token}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=DEADLINE_S) as http:
        body = {"path": "n.ipynb", "name": "n.ipynb", "type": "notebook", "kernel": {"name": "fc-python3"}}
        response = await http.post("/api/sessions", json=body)
        assert response.status_code == 201, response.text
        kernel_id = response.json()["kernel"]["id"]
        url = f"{server.url.replace('http', 'ws')}/api/kernels/{kernel_id}/channels?token={server.token}"
        async with websockets.connect(url, max_size=None, open_timeout=DEADLINE_S) as socket:
            code = "import os; print(os.environ['FC_KERNEL_VCPU_COUNT'], 'hunter2' in os.environ.values())"
            header = {"msg_id": "m1", "msg_type": "execute_request", "username": "", "session": "s", "version": "5.3"}
            content = {
                "code": code,
                "silent": False,
                "store_history": True,
                "user_expressions": {},
                "allow_stdin": False,
            }
            await socket.send(json.dumps(
                {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell", "buffers": []}
            ))  # fmt: skip
            text = ""
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    message = json.loads(await socket.recv())
                    if message["parent_header"].get("msg_id") != "m1":
                        continue
                    text += message["content"].get("text", "")
                    if message["content"].get("execution_state") == "idle":
                        break
            assert text == "2 False\n"
        assert (await http.post(f"/api/kernels/{kernel_id}/restart")).status_code == 200
        assert (await http.delete(f"/api/kernels/{kernel_id}")).status_code == 204
        bad = nbformat.from_dict(notebook)
        bad.metadata["fc_kernel"] = {"vcpu_count": 10_000}
        nbformat.write(bad, server.root / "bad.ipynb")
        response = await http.post("/api/sessions", json={**body, "path": "bad.ipynb", "name": "bad.ipynb"})
        assert response.status_code == 500
        assert re.search(r"vcpu_count.*10000.*allowed", response.json()["message"]), response.text
