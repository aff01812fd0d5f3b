"""A Jupyter server in this process with the extension in it; its sessions are in memory, its store is a real one."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_server.auth import Authorizer
from jupyter_server.serverapp import ServerApp
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets, bind_unix_socket
from traitlets.config import Config

from fc_kernel.api.calls import DiskUse, ForkClaim, ForkOrder, ForkResult, RawSettings, Settings, TakeSnapshot
from fc_kernel.api.events import (
    Event,
    ForkWanted,
    KernelForked,
    SnapshotChanged,
    SnapshotDeleted,
    SnapshotRestored,
    SnapshotTaken,
    StateChanged,
)
from fc_kernel.api.models import Console, ForkedKernel, ForkTicket, Kernel, Status
from fc_kernel.api.models import Snapshot as SnapshotModel
from fc_kernel.errors import FcKernelError, KernelNotFound, LimitError, SnapshotNotFound
from fc_kernel.host.client import HostClient
from fc_kernel.host.local import LocalHost
from fc_kernel.host.service import ByteStream
from fc_kernel.host.stream import EventStream
from fc_kernel.host.views import kernel_view, settings_view, snapshot_view, status_view
from fc_kernel.server.extension import Extension
from fc_kernel.server.loading import load
from fc_kernel.settings.config import FcKernelConfig, load_config
from fc_kernel.settings.schema import limited_schema
from fc_kernel.settings.sources import resolve_settings
from fc_kernel.settings.spec import VmSpec
from fc_kernel.settings.tenant import Tenant
from fc_kernel.snapshots.manifest import Cpu, ImageRef, ManifestDraft
from fc_kernel.snapshots.snapshot import Base, Snapshot
from fc_kernel.snapshots.store import SnapshotStore, StoreLimits

from ..snapshots_made import store_in
from ..waiting import until

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

    kernel_id: str
    scope: str
    current: str | None = None
    generation: int = 1
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    fails: BaseException | None = None

    def info(self) -> dict[str, Any]:
        return {
            "kernel_id": self.kernel_id, "state": "running", "tier": "emulated", "monitor": "qemu",
            "monitor_version": "7.2", "vcpu_count": 1, "mem_size_mib": 512, "uptime_s": 3.5,
            "generation": self.generation, "current": self.current, "scope": self.scope,
            "disk_bytes": 4096, "started": "template", "image": "default", "vm_id": "0a1b2c3d",
        }  # fmt: skip

    def ask(self, *asked: Any) -> None:
        if self.fails is not None:
            raise self.fails
        self.asked.append(asked)


class MemoryHost(LocalHost):
    """A host whose kernels are in memory and whose store is a real one."""

    def __init__(self, app: ServerApp, store: SnapshotStore) -> None:
        directory = store.root.parent
        super().__init__(
            Tenant(
                owner="me", data_dir=directory, image_dir=directory, cache_dir=directory, run_dir=directory,
                config=FcKernelConfig(),
            ),
            store=store,
        )  # fmt: skip
        self.app = app
        self.store = store
        self.stream = EventStream()
        self.sessions: dict[str, MemorySession] = {}
        self.room: int | None = None
        self.max_forks = 16
        #: What each ticket and each order stands for.
        self.tickets: dict[str, ForkTicket] = {}
        self.orders: dict[str, ForkOrder] = {}
        self.reports: dict[str, list[ForkResult]] = {}

    def session(self, kernel_id: str) -> MemorySession:
        if kernel_id not in self.sessions:
            raise KernelNotFound(f"there is no kernel {kernel_id!r}")
        return self.sessions[kernel_id]

    def tell(self, event: Event) -> None:
        self.stream.publish(event)

    def view(self, snapshot: Snapshot) -> SnapshotModel:
        return snapshot_view(self.store, snapshot, {each.current or "" for each in self.sessions.values()})

    async def _current(self) -> frozenset[str]:
        return frozenset(each.current for each in self.sessions.values() if each.current is not None)

    def events(self, *, forks: ForkClaim = "none") -> Any:
        return self.stream.subscribe(forks)

    async def kernels(self) -> list[Kernel]:
        return [await self.kernel(each) for each in self.sessions]

    async def kernel(self, kernel_id: str) -> Kernel:
        return kernel_view(self.store, kernel_id, (self.session(kernel_id).info(), os.getpid(), "none"))

    async def console(self, kernel_id: str, lines: int) -> Console:
        self.session(kernel_id)
        return Console(lines=["Linux version 6.1", "booted"][-lines:])

    async def snapshot(self, kernel_id: str, request: TakeSnapshot) -> SnapshotModel:
        session = self.session(kernel_id)
        session.ask("snapshot", request.name, request.description)
        taken = publish(
            self.store, scope=session.scope, name=request.name, description=request.description,
            parent=session.current, notebook=request.notebook,
        )  # fmt: skip
        session.current = taken.id
        self.tell(SnapshotTaken(kernel_id=kernel_id, snapshot=self.view(taken)))
        return self.view(taken)

    async def restore(self, kernel_id: str, ref: str, *, same_seed: bool = False) -> None:
        session = self.session(kernel_id)
        session.ask("restore", ref, same_seed)
        session.current, session.generation = ref, session.generation + 1
        self.tell(StateChanged(kernel_id=kernel_id, state="restoring"))
        self.tell(SnapshotRestored(kernel_id=kernel_id, snapshot=self.view(self.store.get(ref))))
        self.tell(StateChanged(kernel_id=kernel_id, state="running"))

    async def fork(self, kernel_id: str, count: int, *, ref: str | None = None) -> ForkOrder:
        session = self.session(kernel_id)
        if count > self.max_forks:
            raise LimitError("count", count, "fewer")
        session.ask("fork", count, ref)
        taken = publish(self.store, scope=session.scope) if ref is None else self.store.get(ref)
        tickets = [
            ForkTicket(
                ticket=uuid.uuid4().hex, kernel_id=kernel_id, snapshot_id=taken.id, vm_id="0a1b2c3d", name=taken.name,
                scope=session.scope,
            )
            for _ in range(count)
        ]  # fmt: skip
        self.tickets |= {each.ticket: each for each in tickets}
        order = ForkOrder(request=uuid.uuid4().hex, snapshot=self.view(taken), tickets=tickets)
        self.orders[order.request] = order
        return order

    async def fork_in_a_cell(self, kernel_id: str) -> ForkResult:
        """What a ``%fork`` is answered."""
        order = await self.fork(kernel_id, 1)
        self.tell(ForkWanted(kernel_id=kernel_id, request=order.request, tickets=order.tickets))
        await until(lambda: order.request in self.reports)
        [result] = self.reports[order.request]
        return result

    async def forked(self, request: str, results: Sequence[ForkResult]) -> None:
        self.reports[request] = list(results)
        forks = [
            ForkedKernel(kernel_id=each.kernel_id, name=each.name, path=each.path, session_id=each.session_id)
            for each in results
            if not each.error
        ]
        if forks:
            order = self.orders[request]
            kernel_id = order.tickets[0].kernel_id
            self.tell(KernelForked(kernel_id=kernel_id, snapshot=order.snapshot, forks=forks))

    async def change_snapshot(self, snapshot_id: str, **changes: Any) -> SnapshotModel:
        changed = await super().change_snapshot(snapshot_id, **changes)
        self.tell(SnapshotChanged(kernel_id=changed.kernel_id or "", snapshot=changed))
        return changed

    async def delete_snapshot(self, snapshot_id: str, *, force: bool = False) -> None:
        gone = self.view(self.store.get(snapshot_id))
        await super().delete_snapshot(snapshot_id, force=force)
        self.tell(SnapshotDeleted(kernel_id=gone.kernel_id or "", snapshot=gone))

    async def export_snapshot(self, snapshot_id: str) -> tuple[int, ByteStream]:
        data = json.dumps({"exported": self.store.get(snapshot_id).name}).encode()

        async def content() -> ByteStream:
            yield data

        return len(data), content()

    async def import_snapshot(
        self, content: ByteStream, *, scope: str | None, name: str | None = None
    ) -> SnapshotModel:
        with await self._files.receive(content) as file:
            try:
                name = json.load(file)["exported"]
            except ValueError:
                raise SnapshotNotFound("that is no snapshot") from None
        return self.view(publish(self.store, scope=scope or "", name=name))

    async def disk_use(self) -> DiskUse:
        found = await super().disk_use()
        return found if self.room is None else DiskUse(used_bytes=found.used_bytes, room_bytes=self.room)

    async def status(self) -> Status:
        return status_view(load_config(self.app.config), self._tenant.data_dir)

    async def schema(self) -> dict[str, Any]:
        return limited_schema(load_config(self.app.config))

    async def check(self, settings: RawSettings) -> Settings:
        config = load_config(self.app.config)
        return settings_view(resolve_settings(config, profile={}, requested={}, notebook=settings.notebook))


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
        self.host = MemoryHost(app, store)
        self.sessions = self.host.sessions
        self.extension: Extension = None  # type: ignore[assignment]
        self.starts = RemembersStarts(self)
        self.client: httpx.AsyncClient = None  # type: ignore[assignment]
        self.events: list[dict[str, Any]] = []

    def add_kernel(self, kernel_id: str, spec: KernelSpec = OURS, scope: str = "n.ipynb") -> MemorySession | None:
        kernels = self.app.kernel_manager._kernels
        kernels[kernel_id] = MemoryKernel(
            kernel_name="fc-python3" if spec is OURS else "python3", kernel_spec=spec, connection_file="/run/k.json",
            execution_state="idle", reason="", update_env=lambda env: None,
            last_activity=datetime.now(UTC),
        )  # fmt: skip
        self.app.kernel_manager._kernel_connections[kernel_id] = 0
        if spec is OURS:
            self.sessions[kernel_id] = MemorySession(kernel_id, scope)
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
    site.extension = load(app, HostClient(site.host))
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
        site.extension.events.stop()
        server.stop()
        await server.close_all_connections()
        manager._kernels.clear()
        await app._cleanup()
