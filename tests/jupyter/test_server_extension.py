"""The server extension in a real server, with kernels that the real provisioner starts: what a browser and a script do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import nbformat
import pytest
import websockets

from fc_kernel import server as extension
from fc_kernel.base.paths import data_dir

from .conftest import DEADLINE_S, MONITORS
from .server import Server

API = "fc-kernel/api"


@pytest.fixture(scope="module", params=MONITORS)
def monitor(
    request: pytest.FixtureRequest, jupyter_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """With a store of its own; the fake's guest is the one that can be saved."""
    data = tmp_path_factory.mktemp("data")
    images = data_dir() / "images"
    if images.is_dir():
        (data / "images").symlink_to(images)
    config = data / "config" / "jupyter_server_config.d"
    shutil.copytree(Path(extension.__file__).parent / "config", config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FC_KERNEL_MONITOR", request.param)
        patch.setenv("FC_KERNEL_FAKE_GUEST", "scripted")
        patch.setenv("FC_KERNEL_DATA_DIR", str(data))
        patch.setenv("JUPYTER_CONFIG_PATH", str(config.parent))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(data / "runtime"))
        yield request.param


@pytest.fixture(scope="module")
def server(monitor: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("root")
    nbformat.write(nbformat.v4.new_notebook(), root / "n.ipynb")
    server = Server(root)
    yield server
    server.stop()


class Tab:
    """A notebook's session in a browser's tab: one WebSocket, all the time."""

    def __init__(self, http: httpx.AsyncClient, session: dict[str, Any], socket: Any) -> None:
        self.http = http
        self.session_id, self.kernel_id = session["id"], session["kernel"]["id"]
        self._socket = socket

    async def run(self, code: str) -> str:
        """What a cell printed, or its error."""
        msg_id, text = uuid.uuid4().hex, ""
        header = {"msg_id": msg_id, "msg_type": "execute_request", "username": "", "session": "tab", "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        await self._socket.send(json.dumps(
            {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell", "buffers": []}
        ))  # fmt: skip
        async with asyncio.timeout(DEADLINE_S):
            while True:
                message = json.loads(await self._socket.recv())
                if message["parent_header"].get("msg_id") != msg_id or message["channel"] != "iopub":
                    continue
                content = message["content"]
                text += content.get("text", "") + content.get("ename", "")
                text += content.get("data", {}).get("text/plain", "")
                if content.get("execution_state") == "idle":
                    return text.strip()

    async def ask(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        """A request about this kernel."""
        return await ask(self.http, method, f"kernels/{self.kernel_id}/{path}".rstrip("/"), status, **options)


async def ask(http: httpx.AsyncClient, method: str, path: str, status: int = 200, **options: Any) -> Any:
    response = await http.request(method, f"/{API}/{path}", **options)
    assert response.status_code == status, response.text
    return response.json() if response.content else None


@contextlib.asynccontextmanager
async def tab(server: Server, http: httpx.AsyncClient, path: str = "n.ipynb") -> AsyncIterator[Tab]:
    """Open a notebook; its kernel is shut down at the end."""
    body = {"path": path, "name": path, "type": "notebook", "kernel": {"name": "fc-python3"}}
    response = await http.post("/api/sessions", json=body)
    assert response.status_code == 201, response.text
    session = response.json()
    try:
        async with attached(server, session["kernel"]["id"]) as socket:
            yield Tab(http, session, socket)
    finally:
        await http.delete(f"/api/sessions/{session['id']}")


def attached(server: Server, kernel_id: str) -> Any:
    url = f"{server.url.replace('http', 'ws')}/api/kernels/{kernel_id}/channels?token={server.token}"
    return websockets.connect(url, max_size=None, open_timeout=DEADLINE_S)


@pytest.fixture
async def http(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=DEADLINE_S) as http:
        yield http
        for snapshot in await ask(http, "GET", "snapshots"):
            await http.delete(f"/{API}/snapshots/{snapshot['id']}")


async def test_the_extension_is_enabled(server: Server, http: httpx.AsyncClient, monitor: str) -> None:
    status = await ask(http, "GET", "status")
    assert (status["gateway"], status["tier"]) == (False, {"fake": "none", "qemu": "emulated"}[monitor])
    assert "openapi" in await ask(http, "GET", "openapi.json")
    assert await ask(http, "GET", "kernels") == []


async def test_a_snapshot_and_the_way_back(server: Server, http: httpx.AsyncClient) -> None:
    """The old value in the next cell, in the same tab: one WebSocket all the time."""
    async with tab(server, http) as notebook:
        await notebook.run("x = 1")
        kernel = await notebook.ask("GET", "")
        assert kernel["state"] == "running"
        assert kernel["kernel_id"] == notebook.kernel_id
        assert kernel["mem_used_mib"] is not None
        assert kernel["scope"] == "n.ipynb"
        document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")])
        body = {"name": "one", "description": "x is 1", "notebook": document}
        taken = await notebook.ask("POST", "snapshots", 201, json=body)
        assert (taken["name"], taken["has_notebook"], taken["current"]) == ("one", True, True)
        saved = await ask(http, "GET", f"snapshots/{taken['id']}/notebook")
        assert saved["cells"][0]["source"] == "x = 1"
        await notebook.run("x = 2")
        assert await notebook.run("x") == "2"
        restored = await notebook.ask("POST", "restore", json={"snapshot": taken["id"]})
        assert restored["generation"] > kernel["generation"]
        assert restored["current"] == taken["id"]
        assert [each["name"] for each in restored["lineage"]] == ["one"]
        assert await notebook.run("x") == "1"
        in_use = await http.delete(f"/{API}/snapshots/{taken['id']}")
        assert (in_use.status_code, in_use.json()["reason"]) == (409, "SnapshotInUse")
        await ask(http, "PATCH", f"snapshots/{taken['id']}", json={"name": "uno"})
        assert [each["name"] for each in await notebook.ask("GET", "snapshots")] == ["uno"]
        await notebook.ask("GET", "console")
    await ask(http, "DELETE", f"snapshots/{taken['id']}", 204)
    assert await ask(http, "GET", "snapshots") == []


async def test_forks_with_notebooks(server: Server, http: httpx.AsyncClient) -> None:
    """Each goes its own way, has a notebook of its own, and is a kernel of the server as any other."""
    async with tab(server, http) as notebook:
        await notebook.run("x = 5")
        taken = await notebook.ask("POST", "snapshots", 201, json={"name": "five"})
        await notebook.run("x = 6")
        old = await notebook.ask("POST", "fork", 201, json={"snapshot": taken["id"], "count": 2, "path": "n.ipynb"})
        [new] = await notebook.ask("POST", "fork", 201, json={})
        assert len({notebook.kernel_id, new["kernel_id"], *(each["kernel_id"] for each in old)}) == 4
        for fork, value in [*((each, "5") for each in old), (new, "6")]:
            async with attached(server, fork["kernel_id"]) as socket:
                copy = Tab(http, {"id": "", "kernel": {"id": fork["kernel_id"]}}, socket)
                assert await copy.run("x") == value
                await copy.run("x = 'mine'")
                assert (await copy.ask("GET", ""))["started"] == "snapshot"
                # Its snapshots are where its parent's are.
                assert taken["id"] in [each["id"] for each in await copy.ask("GET", "snapshots")]
        assert await notebook.run("x") == "6"
        sessions = {each["id"]: each for each in (await http.get("/api/sessions")).json()}
        for fork in old:
            assert sessions[fork["session_id"]]["path"] == fork["path"]
            assert (server.root / fork["path"]).exists()
            await http.delete(f"/api/sessions/{fork['session_id']}")
            (server.root / fork["path"]).unlink()
        await http.delete(f"/api/kernels/{new['kernel_id']}")


async def test_a_fork_of_a_kernel_without_a_notebook(server: Server, http: httpx.AsyncClient) -> None:
    """As a console has it: its snapshots are its own, and its forks'."""
    kernel_id = (await http.post("/api/kernels", json={"name": "fc-python3"})).json()["id"]
    taken = await ask(http, "POST", f"kernels/{kernel_id}/snapshots", 201, json={})
    [fork] = await ask(http, "POST", f"kernels/{kernel_id}/fork", 201, json={"snapshot": taken["id"]})
    kernel = await ask(http, "GET", f"kernels/{fork['kernel_id']}")
    assert kernel["scope"] == taken["scope"] == f"kernel:{kernel_id}"
    for each in (kernel_id, fork["kernel_id"]):
        assert (await http.delete(f"/api/kernels/{each}")).status_code == 204


async def test_what_a_cell_does_is_seen_by_all(server: Server, http: httpx.AsyncClient) -> None:
    """``%snapshot`` and ``%fork`` in a cell, ``restore`` by the API: events, as a panel hears them."""
    url = f"{server.url.replace('http', 'ws')}/api/events/subscribe?token={server.token}"
    async with websockets.connect(url, open_timeout=DEADLINE_S) as socket, tab(server, http) as notebook:
        seen: list[dict[str, Any]] = []
        others: set[str] = set()

        async def heard(action: str, **wanted: Any) -> dict[str, Any]:
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    event = json.loads(await socket.recv())
                    if event["schema_id"] != "https://fc-kernel.readthedocs.io/events/v1":
                        continue
                    if event["kernel_id"] != notebook.kernel_id:
                        others.add(event["kernel_id"])
                        continue
                    seen.append(event)
                    if event["action"] == action and wanted.items() <= event.items():
                        return event

        await notebook.run("%snapshot from-a-cell")
        taken = (await heard("snapshot"))["snapshot"]
        assert (taken["name"], taken["current"]) == ("from-a-cell", True)
        await notebook.ask("POST", "restore", json={"snapshot": taken["id"]})
        assert (await heard("restore"))["snapshot"]["id"] == taken["id"]
        await heard("state", state="running")
        await notebook.run("%fork")
        [fork] = (await heard("fork"))["forks"]
        assert others <= {fork["kernel_id"]}
        # A kernel of this server, which it shuts down as any other.
        assert (await http.get(f"/api/kernels/{fork['kernel_id']}")).status_code == 200
        assert (await http.delete(f"/api/kernels/{fork['kernel_id']}")).status_code == 204
        assert {event["state"] for event in seen if event["action"] == "state"} >= {"pausing", "restoring", "running"}


async def test_a_snapshot_crosses_from_one_store_to_another(server: Server, http: httpx.AsyncClient) -> None:
    async with tab(server, http) as notebook:
        await notebook.run("x = 7")
        taken = await notebook.ask("POST", "snapshots", 201, json={"name": "seven"})
        scope = taken["scope"]
    exported = await http.get(f"/{API}/snapshots/{taken['id']}/export")
    assert exported.status_code == 200
    await ask(http, "DELETE", f"snapshots/{taken['id']}", 204)
    made = await ask(http, "POST", "snapshots/import", 201, params={"scope": scope}, content=exported.content)
    assert (made["name"], made["scope"]) == ("seven", scope)
    broken = bytearray(exported.content)
    broken[len(broken) // 2] ^= 1
    response = await http.post(f"/{API}/snapshots/import?scope=x.ipynb", content=bytes(broken))
    assert response.status_code == 422, response.text
    async with tab(server, http) as notebook:
        await notebook.ask("POST", "restore", json={"snapshot": made["id"]})
        assert await notebook.run("x") == "7"


async def test_from_the_command_line(server: Server, http: httpx.AsyncClient) -> None:
    async with tab(server, http) as notebook:

        async def call(*words: str) -> Any:
            command = [sys.executable, "-m", "fc_kernel.cli", *words, "--json"]
            done = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, timeout=DEADLINE_S, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return json.loads(done.stdout)

        await notebook.run("x = 'then'")
        await call("snapshot", "create", "n.ipynb", "then")
        await notebook.run("x = 'now'")
        assert (await call("snapshot", "restore", notebook.kernel_id[:8], "then"))["state"] == "running"
        assert await notebook.run("x") == "'then'"
        [fork] = await call("fork", "n.ipynb", "then")
        assert (await http.delete(f"/api/kernels/{fork['kernel_id']}")).status_code == 204


async def test_a_server_whose_kernels_are_on_a_gateway(monitor: str, tmp_path: Path) -> None:
    if monitor != "fake":
        pytest.skip("no kernel is started")
    server = Server(tmp_path, "--GatewayClient.url=http://127.0.0.1:9")
    try:
        async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=DEADLINE_S) as http:
            assert (await ask(http, "GET", "status"))["gateway"] is True
            for path in ("kernels", "snapshots", "schema", "kernels/none"):
                failure = await ask(http, "GET", path, 501)
                assert failure["reason"] == "GatewayUnsupported"
    finally:
        server.stop()
