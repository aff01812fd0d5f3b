"""The provisioner without a kernel: what it answers before a launch, what reaches its traits, and how a launch is undone."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from traitlets.config import Config, Configurable

from fc_kernel import provisioner as provisioner_module
from fc_kernel.api.calls import Endpoints, Settings
from fc_kernel.base.paths import runtime_dir
from fc_kernel.errors import (
    AgentError,
    AgentUnreachable,
    ConfigError,
    FcKernelError,
    IsolationUnavailable,
    MonitorUnavailable,
    SpecError,
    StateError,
)
from fc_kernel.host.engine import Engine
from fc_kernel.host.held import HeldKernel
from fc_kernel.host.kernels import Kernels
from fc_kernel.host.local import LocalHost
from fc_kernel.provisioner import FcProvisioner
from fc_kernel.settings.config import FcKernelConfig
from fc_kernel.settings.tenant import Tenant


def made(*, config: dict[str, Any] | None = None, profile: dict[str, Any] | None = None) -> FcProvisioner:
    parent = AsyncKernelManager(config=Config({"FcKernelConfig": {"monitor": "fake", **(config or {})}}))
    return FcProvisioner(kernel_id="an-id", kernel_spec=KernelSpec(), parent=parent, **(profile or {}))


async def checked(provisioner: FcProvisioner) -> Settings:
    """What the host makes of the settings that the provisioner has gathered."""
    assert provisioner._client is not None
    assert provisioner._start is not None
    return await provisioner._client.host.check(provisioner._start.settings)


class Parent(Configurable):
    """Somebody's manager, or a server."""

    contents_manager: Any = None


@pytest.fixture(autouse=True)
def nothing_is_made() -> Iterator[None]:
    before = set(runtime_dir().iterdir())
    yield
    assert set(runtime_dir().iterdir()) == before


async def test_before_a_launch_there_is_no_process() -> None:
    provisioner = made()
    assert not provisioner.has_process
    assert await provisioner.poll() == 0
    assert await provisioner.wait() == 0
    for signum in (0, signal.SIGINT, signal.SIGTERM, 12345):
        await provisioner.send_signal(signum)
    for restart in (True, False):
        await provisioner.kill(restart=restart)
        await provisioner.terminate(restart=restart)
        await provisioner.cleanup(restart=restart)
        await provisioner.cleanup(restart=restart)
    assert not provisioner.has_process


async def test_the_factory_makes_it() -> None:
    spec = KernelSpec(
        metadata={"kernel_provisioner": {"provisioner_name": "fc-provisioner", "config": {"vcpu_count": 2}}}
    )
    manager = AsyncKernelManager(config=Config({"FcKernelConfig": {"monitor": "fake"}}))
    provisioner = KernelProvisionerFactory.instance(parent=manager).create_provisioner_instance("an-id", spec, manager)
    assert isinstance(provisioner, FcProvisioner)
    assert (provisioner.kernel_id, provisioner.kernel_spec, provisioner.parent) == ("an-id", spec, manager)
    await provisioner.pre_launch(env={})
    assert (await checked(provisioner)).vcpu_count == 2


#: Names of traits and attributes of provisioner and configuration, as somebody would put them into a kernel.json.
FORBIDDEN: dict[str, Any] = {
    "connection_info": {"key": "x"},
    "config": Config(),
    "log": None,
    "has_process": True,
    "_client": None,
    "_kernel": None,
    "_process": True,
    "max_vcpu_count": 99,
    "max_mem_size_mib": 1 << 20,
    "allow_host_paths_from": ["kernelspec"],
    "networks": {},
    "keep_vm_on_restart": False,
    "qemu_path": "/bin/sh",
    "firecracker_path": "/bin/sh",
    "restart_linger_s": 1e9,
}


def test_no_trait_is_left_out_of_the_list_above() -> None:
    ours = {name for name in FcProvisioner.class_trait_names() if name not in ("kernel_id", "kernel_spec", "parent")}
    assert ours <= set(FORBIDDEN)


@pytest.mark.parametrize("name", FORBIDDEN)
async def test_a_kernelspec_sets_no_trait(name: str) -> None:
    provisioner = made(profile={name: FORBIDDEN[name]})
    plain = made()
    assert provisioner._profile == {name: FORBIDDEN[name]}
    assert provisioner.connection_info == plain.connection_info == {}
    assert not provisioner.has_process
    assert provisioner.log is not None
    with pytest.raises(SpecError) as caught:
        await provisioner.pre_launch(env={})
    assert (caught.value.field, caught.value.source) == (name, "kernelspec")


def test_connection_info_is_each_kernels_own() -> None:
    first, second = made(), made()
    assert first.connection_info is not second.connection_info


async def test_what_pre_launch_prepares() -> None:
    provisioner = made()
    environ = {"JPY_SESSION_NAME": "a.ipynb", "JUPYTERHUB_API_TOKEN": "a token of the hub", "TZ": "UTC"}
    prepared = await provisioner.pre_launch(env=environ, cwd="/tmp", fc_kernel={"vcpu_count": 1}, fc_kernel_notebook={})
    assert "fc_kernel" not in prepared
    assert "fc_kernel_notebook" not in prepared
    assert prepared["cmd"] == []
    assert provisioner._start is not None
    assert provisioner._start.env == {"JPY_SESSION_NAME": "a.ipynb", "TZ": "UTC"}
    assert not provisioner.has_process


async def test_arguments_that_do_not_reach_the_kernel_are_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        prepared = await made().pre_launch(env={}, extra_arguments=["--debug"])
    assert "--debug" in caplog.text
    assert "extra_arguments" not in prepared


async def test_the_contents_manager_is_the_servers() -> None:
    server = Parent()
    server.contents_manager = object()
    provisioner = made()
    assert provisioner._contents_manager() is None
    provisioner.parent = Parent(parent=Parent(parent=server))
    assert provisioner._contents_manager() is server.contents_manager


async def test_a_launch_without_its_preparation() -> None:
    with pytest.raises(StateError, match="without pre_launch"):
        await made().launch_kernel([])


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"monitor": "qemu", "qemu_path": "/nowhere/qemu"}, MonitorUnavailable),
        ({"monitor": "fake", "minimum_tier": "jailed"}, IsolationUnavailable),
    ],
)
async def test_a_launch_that_the_host_cannot_do(config: dict[str, Any], error: type[Exception]) -> None:
    provisioner = made(config=config)
    await provisioner.pre_launch(env={})
    with pytest.raises(error):
        await provisioner.launch_kernel([])
    assert provisioner._kernel is None
    assert not provisioner.has_process
    assert await provisioner.poll() == 0
    await provisioner.cleanup()


async def test_a_run_directory_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    provisioner = made()
    with monkeypatch.context() as patch:
        patch.setenv("FC_KERNEL_RUNTIME_DIR", "/tmp/" + "x" * 100)

        async def start() -> None:
            await provisioner.pre_launch(env={})
            await provisioner.launch_kernel([])

        with pytest.raises(ConfigError, match="too deep"):
            await start()
    assert not provisioner.has_process


class Session:
    """A session whose agent is of no use."""

    returncode = None

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.closed = 0

    async def signal(self, signum: int) -> None:
        raise self.error

    async def aclose(self) -> None:
        self.closed += 1


def with_kernel(provisioner: FcProvisioner, session: Session, engine: Engine | None = None) -> None:
    """As after a launch."""
    tenant = Tenant.of_this_process(FcKernelConfig())
    endpoints = Endpoints(transport="ipc", ip="k", ports={})
    lease: Any = SimpleNamespace(cancel=lambda: None)
    opened: Any = SimpleNamespace(session=session, lease=lease)
    host = LocalHost(tenant, Kernels(opened={"an-id": opened}), engine=engine)
    provisioner._kernel = HeldKernel(host, "an-id", endpoints, release=lambda *_: None)
    provisioner._process = True


@pytest.mark.parametrize(
    "error", [AgentUnreachable("gone"), AgentError("no", code=-1), StateError("closed"), FcKernelError("else")]
)
async def test_signals_never_raise(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    provisioner = made()
    session = Session(error)
    with_kernel(provisioner, session)
    await provisioner.send_signal(signal.SIGINT)
    await provisioner.terminate()
    assert "did not reach kernel an-id" in caplog.text
    assert await provisioner.poll() is None
    await provisioner.cleanup(restart=True)
    assert (session.closed, provisioner.has_process) == (0, True)
    await asyncio.gather(provisioner.cleanup(), provisioner.cleanup())
    await provisioner.cleanup()
    assert (session.closed, provisioner.has_process) == (1, False)


async def test_signals_to_a_closed_engine(caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine()
    engine.close()
    provisioner = made()
    with_kernel(provisioner, Session(StateError("unreachable")), engine)
    await provisioner.send_signal(signal.SIGINT)
    assert "did not reach kernel an-id" in caplog.text
    provisioner._kernel = None


@pytest.mark.parametrize("declared", [(), ("curve",), ("other",)])
@pytest.mark.parametrize("policy", ["disabled", "auto", "required"])
def test_when_clients_are_encrypted(policy: str, declared: tuple[str, ...]) -> None:
    provisioner = made()
    provisioner.kernel_spec = KernelSpec(metadata={"supported_encryption": list(declared)})
    manager: Any = provisioner.parent
    manager.transport_encryption = policy
    public, secret = provisioner._curve_keys()
    wanted = policy == "required" or (policy == "auto" and "curve" in declared)
    assert (public is not None, secret is not None) == (wanted, wanted)
    assert (manager.curve_publickey, manager.curve_secretkey) == (public, secret)
    assert provisioner._curve_keys() == (public, secret), "the same at a restart"


def test_a_manager_that_knows_no_encryption() -> None:
    provisioner = made()
    provisioner.parent = Parent()
    assert provisioner._curve_keys() == (None, None)


def test_times() -> None:
    provisioner = made()
    assert provisioner.get_shutdown_wait_time(5.0) == provisioner_module.SHUTDOWN_WAIT_S
    assert provisioner.get_shutdown_wait_time(1000.0) == 1000.0
    assert provisioner.get_stable_start_time(10.0) == 10.0
    provisioner._launch_took_s = 7.5
    assert provisioner.get_stable_start_time(10.0) == 17.5


async def test_a_configuration_of_the_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As with ``jupyter execute``, whose manager has no configuration."""
    (tmp_path / "jupyter_fc_kernel_config.json").write_text('{"FcKernelConfig": {"mem_size_mib": 777}}')
    monkeypatch.setattr("fc_kernel.settings.config.jupyter_config_path", lambda: [str(tmp_path)])
    provisioner = FcProvisioner(kernel_id="an-id", kernel_spec=KernelSpec(), parent=AsyncKernelManager())
    await provisioner.pre_launch(env={})
    assert (await checked(provisioner)).mem_size_mib == 777
    (tmp_path / "jupyter_fc_kernel_config.json").write_text("{")
    with pytest.raises(ConfigError, match="jupyter_fc_kernel_config"):
        await provisioner.pre_launch(env={})
