"""A Jupyter server in this process with the extension in it; its sessions are in memory, its store is a real one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import httpx
import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_server.auth import Authorizer
from jupyter_server.serverapp import ServerApp
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets, bind_unix_socket
from traitlets.config import Config

from fc_kernel.errors import FcKernelError, LimitError, SnapshotNotFound
from fc_kernel.server.extension import Extension, load
from fc_kernel.sessions.fork import ForkInfo
from fc_kernel.settings.spec import SnapshotRef, VmSpec
from fc_kernel.snapshots.manifest import Cpu, ImageRef, ManifestDraft
from fc_kernel.snapshots.snapshot import Base, Snapshot
from fc_kernel.snapshots.store import SnapshotStore, StoreLimits

from ..snapshots_made import store_in

TOKEN = "sesame"
MICROVM, LOCAL = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
OURS = KernelSpec(metadata={"kernel_provisioner": {"provisioner_name": "fc-provisioner"}}, display_name="microVM")


def publish(store: SnapshotStore, *, scope: str, name: str | None = None, **more: Any) -> Snapshot:
    """A snapshot of a machine with one MiB, in the store."""
    notebook = more.pop("notebook", None)
    with store.begin(name=name, scope=scope, expected_bytes=1 << 20) as draft:
        draft.files.vmstate.write_bytes(b"state")
        with draft.files.mem.open("xb") as mem:
            mem.truncate(1 << 20)
            mem.write(b"memory")
        fields = ManifestDraft(
            monitor="fake",
            monitor_version="1",
            cpu=Cpu(model="x"),
            agent_protocol=2,
            image=ImageRef(name="default", kernel_sha256="0" * 64, rootfs_sha256="0" * 64),
            spec=VmSpec(mem_size_mib=1, vcpu_count=1),
            kernel_id=MICROVM,
            **more,
        )
        return draft.publish(fields, base=Base.full(), notebook=notebook)


@dataclass
class MemorySession:
    """A kernel that only remembers what was asked of it."""

    site: Site
    kernel_id: str
    scope: str
    current: str | None = None
    generation: int = 1
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    observers: list[Callable[[str, Mapping[str, Any]], None]] = field(default_factory=list)
    fails: BaseException | None = None

    def info(self) -> dict[str, Any]:
        return {
            "kernel_id": self.kernel_id, "state": "running", "tier": "emulated", "monitor": "qemu",
            "monitor_version": "7.2", "vcpu_count": 1, "mem_size_mib": 512, "uptime_s": 3.5,
            "generation": self.generation, "current": self.current, "scope": self.scope,
            "disk_bytes": 4096, "started": "template", "image": "default", "vm_id": "0a1b2c3d",
        }  # fmt: skip

    def _fail(self) -> None:
        if self.fails is not None:
            raise self.fails

    def tell(self, kind: str, **payload: Any) -> None:
        for observer in list(self.observers):
            observer(kind, payload)

    async def take_snapshot(
        self, name: str | None = None, description: str = "", *, notebook: bytes | None = None
    ) -> Any:
        self._fail()
        self.asked.append(("snapshot", name, description))
        taken = publish(
            self.site.store,
            scope=self.scope,
            name=name,
            description=description,
            parent=self.current,
            notebook=notebook,
        )
        self.current = taken.id
        self.tell("snapshot", snapshot=taken.id)
        return SimpleNamespace(snapshot=taken)

    async def restore(self, ref: str, *, same_seed: bool = False) -> None:
        self._fail()
        self.asked.append(("restore", ref, same_seed))
        self.current, self.generation = ref, self.generation + 1
        self.tell("state", state="restoring")
        self.tell("restore", snapshot=ref)
        self.tell("state", state="running")

    async def fork(self, count: int = 1, name: str | None = None, *, ref: str | None = None) -> list[Any]:
        self._fail()
        if count > self.site.max_forks:
            raise LimitError("count", count, "fewer")
        taken = publish(self.site.store, scope=self.scope) if ref is None else self.site.store.get(ref)
        resolved = SimpleNamespace(spec=VmSpec(restore_from=SnapshotRef(vm_id="0a1b2c3d", snapshot_id=taken.id)))
        wish = SimpleNamespace(snapshot=taken, resolved=resolved, parent_kernel_id=self.kernel_id, scope=self.scope)
        made = await asyncio.gather(*(self.site.forker(wish) for _ in range(count)), return_exceptions=True)
        forks = [
            ForkInfo(kernel_id="", name="", error=str(each)) if isinstance(each, BaseException) else each
            for each in made
        ]
        self.tell("fork", snapshot=taken.id, forks=[fork.to_dict() for fork in forks])
        return forks

    @property
    def machine(self) -> Any:
        return SimpleNamespace(
            vmm=SimpleNamespace(pid=os.getpid(), console_tail=lambda lines: ["Linux version 6.1", "booted"][-lines:])
        )

    resolved = SimpleNamespace(network="none")


class MemoryKernel(SimpleNamespace):
    """What the server's kernel manager has of a kernel, without a process."""


class RemembersStarts:
    """In place of the server's ``start_kernel``: the kernel is there at once, on the memory host."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.calls: list[dict[str, Any]] = []
        self.ended: list[str] = []
        self.fails_at: int | None = None

    async def start(self, **kwargs: Any) -> str:
        self.calls.append(kwargs)
        if self.fails_at is not None and len(self.calls) > self.fails_at:
            raise FcKernelError("no more machines, see /var/lib/secret/place")
        kernel_id = f"33333333-3333-3333-3333-{len(self.calls):012}"
        self.site.add_kernel(kernel_id)
        return kernel_id

    async def end(self, kernel_id: str, now: bool = False, restart: bool = False) -> None:
        self.ended.append(kernel_id)
        self.site.app.kernel_manager._kernels.pop(kernel_id)


class OnlyReads(Authorizer):
    """Lets everybody look, and nobody change."""

    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        return action == "read"


class OnlyOurs(Authorizer):
    """All of this API, and nothing else."""

    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        return resource == "fc-kernel"


class Site:
    """The server, its extension, and a client that is let in."""

    def __init__(self, app: ServerApp, store: SnapshotStore) -> None:
        self.app = app
        self.store = store
        self.sessions: dict[str, MemorySession] = {}
        self.forker: Any = None
        self.room = 1 << 30
        self.max_forks = 16
        self.extension: Extension = None  # type: ignore[assignment]
        self.starts = RemembersStarts(self)
        self.client: httpx.AsyncClient = None  # type: ignore[assignment]
        self.events: list[dict[str, Any]] = []

    # The host.

    async def run(self, coroutine: Any) -> Any:
        return await coroutine

    def session_of(self, kernel_id: str) -> MemorySession | None:
        return self.sessions.get(kernel_id)

    def observe(self, kernel_id: str, observer: Callable[[str, Mapping[str, Any]], None]) -> None:
        self.sessions[kernel_id].observers.append(observer)

    def set_forker(self, forker: Any) -> None:
        self.forker = forker

    def made(self, **fields: Any) -> ForkInfo:
        return ForkInfo(**fields)

    def export(self, snapshot: Snapshot, target: BinaryIO) -> None:
        target.write(json.dumps({"exported": snapshot.name}).encode())

    def import_(self, source: BinaryIO, scope: str) -> Snapshot:
        try:
            name = json.load(source)["exported"]
        except ValueError:
            raise SnapshotNotFound("that is no snapshot") from None
        return publish(self.store, scope=scope, name=name)

    def room_bytes(self) -> int:
        return self.room

    # For the tests.

    def add_kernel(self, kernel_id: str, spec: KernelSpec = OURS, scope: str = "n.ipynb") -> MemorySession | None:
        kernels = self.app.kernel_manager._kernels
        kernels[kernel_id] = MemoryKernel(
            kernel_name="fc-python3" if spec is OURS else "python3", kernel_spec=spec, connection_file="/run/k.json",
            execution_state="idle", reason="", update_env=lambda env: None,
            last_activity=datetime.now(UTC),
        )  # fmt: skip
        self.app.kernel_manager._kernel_connections[kernel_id] = 0
        if spec is OURS:
            self.sessions[kernel_id] = MemorySession(self, kernel_id, scope)
        return self.sessions.get(kernel_id)

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self.client.request(method, path, **options)


@contextlib.asynccontextmanager
async def serving(tmp_path: Path, **config: Any) -> AsyncIterator[Site]:
    """The server, with one microVM's kernel and one local one."""
    root = tmp_path / "root"
    root.mkdir()
    nbformat.write(nbformat.v4.new_notebook(), root / "n.ipynb")
    given = Config({"IdentityProvider": {"token": TOKEN}, "FcKernelConfig": {"monitor": "fake", "max_vcpu_count": 2}})
    given.merge(Config(config))
    given.NotebookNotary.db_file = ":memory:"
    given.SessionManager.database_filepath = ":memory:"
    app = ServerApp(
        config=given, root_dir=str(root), base_url="/a%40b/", open_browser=False, allow_root=True, port_retries=0,
        log_level="ERROR",
    )  # fmt: skip
    app.init_signal = lambda: None  # type: ignore[method-assign]
    app.initialize(argv=[], new_httpserver=False, find_extensions=False)
    app.log.handlers = []
    app.log.propagate = True
    logging.getLogger("tornado.access").setLevel(logging.CRITICAL)
    site = Site(app, store_in(tmp_path, limits=StoreLimits(max_snapshots=20), owner="me"))
    manager: Any = app.kernel_manager
    site.extension = load(app, host=site)  # type: ignore[arg-type]
    manager.start_kernel, manager.shutdown_kernel = site.starts.start, site.starts.end

    async def heard(logger: Any, schema_id: str, data: dict[str, Any]) -> None:
        site.events.append(data)

    assert app.event_logger is not None
    app.event_logger.add_listener(schema_id="https://fc-kernel.readthedocs.io/events/v1", listener=heard)
    server = HTTPServer(app.web_app, max_body_size=app.max_body_size)
    [socket] = bind_sockets(0, "127.0.0.1")
    # A server may listen on a Unix socket, too.
    server.add_sockets([socket, bind_unix_socket(str(tmp_path / "sock"))])
    url = f"http://127.0.0.1:{socket.getsockname()[1]}/a%40b/fc-kernel/api/"
    try:
        async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"token {TOKEN}"}, timeout=60) as client:
            site.client = client
            site.add_kernel(MICROVM)
            site.add_kernel(LOCAL, KernelSpec())
            yield site
    finally:
        server.stop()
        await server.close_all_connections()
        manager._kernels.clear()
        await app._cleanup()
