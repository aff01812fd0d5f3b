"""Notebooks that were written to do harm: opening one starts nothing, and starting its kernel grants nothing.

Each is a file on disk, opened by a real contents manager as a server does it, and then a kernel is asked for as JupyterLab
asks: by the notebook's path. ``REFUSED`` ones end with an error before anything is started; ``IGNORED`` ones get what any
notebook gets.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import psutil
import pytest
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from traitlets.config import Config

from fc_kernel.base.paths import runtime_dir
from fc_kernel.errors import SpecError
from fc_kernel.settings.config import FcKernelConfig
from fc_kernel.settings.resolve import Resolved
from fc_kernel.settings.tier import Tier
from fc_kernel.vmm.journal import list_entries

from ..resolving import resolve_settings
from .conftest import managed

DEADLINE_S = 20.0
MARKUP = "<img src=x onerror=alert(1)>"
LIMITS = {"max_vcpu_count": 2, "max_mem_size_mib": 2048, "max_start_timeout_s": 120.0, "allowed_images": ["default"]}


def notebook(fc_kernel: Any = None, /, *, cells: Any = None, **metadata: Any) -> dict[str, Any]:
    """A notebook with that metadata and those cells."""
    if fc_kernel is not None:
        metadata["fc_kernel"] = fc_kernel
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells or []}


def drive(path: str) -> dict[str, Any]:
    return {"extra_drives": [{"drive_id": "d", "path_on_host": path, "is_read_only": False}]}


def restore(**fields: Any) -> dict[str, Any]:
    return {"restore_from": {"vm_id": "vm", "snapshot_id": "s", **fields}}


def html(text: str) -> dict[str, Any]:
    """A cell whose output is markup."""
    output = {"output_type": "display_data", "data": {"text/html": text}, "metadata": {}}
    return {
        "cell_type": "code", "id": "c", "source": "", "execution_count": 1, "metadata": {}, "outputs": [output],
    }  # fmt: skip


#: ``FIFO`` in a path becomes that of a FIFO: whoever opened it would wait for ever.
REFUSED: dict[str, dict[str, Any]] = {
    "its own kernel": notebook({"kernel": "FIFO"}),
    "its own root file system": notebook({"rootfs": "FIFO"}),
    "a writable root file system": notebook({"rootfs_read_only": False}),
    "the host's disk": notebook(drive("/dev/sda")),
    "the host's passwords": notebook(drive("/etc/shadow")),
    "a drive from above": notebook(drive("/images/../etc/shadow")),
    "a drive that waits": notebook(drive("FIFO")),
    "a process's memory": notebook(drive("/proc/self/mem")),
    "boot arguments": notebook({"boot_args": "init=/bin/sh"}),
    "a tap device": notebook({"network_interfaces": [{"iface_id": "eth0", "host_dev_name": "tap0"}]}),
    "the host's network": notebook({"network": "host"}),
    "a network by markup": notebook({"network": MARKUP}),
    "a vsock address": notebook({"vsock": {"cid": 2, "uds_path": "/run/other/v.sock"}}),
    "another VM's socket": notebook({"vsock": {"cid": 3, "uds_path": "../0badcafe/v.sock"}}),
    "too many vCPUs": notebook({"vcpu_count": 3}),
    "vCPUs by the thousand": notebook({"vcpu_count": 10**9}),
    "too much memory": notebook({"mem_size_mib": 4096}),
    "all memory there is": notebook({"mem_size_mib": 2**64}),
    "negative memory": notebook({"mem_size_mib": -1}),
    "infinite memory": notebook({"mem_size_mib": float("inf")}),
    "a start without end": notebook({"start_timeout_s": 3600}),
    "no isolation": notebook({"minimum_tier": "none"}),
    "the fake monitor": notebook({"monitor": "fake"}),
    "another monitor": notebook({"monitor": "/bin/sh"}),
    "an image that is not allowed": notebook({"image": "other"}),
    "an image from above": notebook({"image": "../../root"}),
    "an image by URL": notebook({"image": "https://evil.example/image.tar"}),
    "a snapshot from above": notebook(restore(snapshot_id="../../other/snapshot")),
    "a snapshot by path": notebook(restore(vm_id="/var/lib/snapshots/of-another")),
    "a snapshot's network": notebook(restore(network_overrides=[{"iface_id": "e", "host_dev_name": "t"}])),
    "a snapshot's memory file": notebook(restore(mem="FIFO")),
    "a program": notebook({"argv": ["sh", "-c", "touch CANARY"]}),
    "an environment": notebook({"env": {"LD_PRELOAD": "/tmp/evil.so"}}),
    "a limit": notebook({"max_vcpu_count": 64}),
    "a trait": notebook({"FcKernelConfig": {"max_vcpu_count": 64}}),
    "a path to Firecracker": notebook({"firecracker_path": "FIFO"}),
    "a path to QEMU": notebook({"qemu_path": "/bin/sh"}),
    "a name that Python knows": notebook({"__class__": "os"}),
    "settings that are a list": notebook([{"vcpu_count": 64}]),
    "settings that are text": notebook("vcpu_count=64"),
    "settings that are a number": notebook(64),
    "settings of ten megabytes": notebook({"image": "x" * 10_000_000}),
    "many settings": notebook({f"setting{number}": number for number in range(50_000)}),
    "a label of markup": notebook({"image": MARKUP}),
    "a label that turns the text around": notebook({"image": "\u202egpj.exe"}),
    "a label with an end of line": notebook({"image": "x\nERROR: all is lost"}),
    "a template": notebook({"image": "{{ 7 * 7 }}"}),
    "a variable": notebook({"image": "${HOME}"}),
    "a command": notebook({"image": "$(touch CANARY)"}),
}
IGNORED: dict[str, Any] = {
    "a kernelspec of the host": notebook(kernelspec={"name": "python3", "display_name": "Python (microVM)"}),
    "a kernelspec by path": notebook(kernelspec={"name": "../../../tmp/evil", "display_name": MARKUP}),
    "a kernelspec with a provisioner": notebook(
        kernelspec={"name": "x", "metadata": {"kernel_provisioner": {"provisioner_name": "local-provisioner"}}}
    ),
    "a kernelspec with settings": notebook(kernelspec={"name": "x", "fc_kernel": {"vcpu_count": 64}}),
    "settings in another place": notebook(**{"fc-kernel": {"vcpu_count": 64}, "FC_KERNEL": {"mem_size_mib": 1 << 20}}),
    "settings in a cell": notebook(cells=[{**html(""), "metadata": {"fc_kernel": {"vcpu_count": 64}}}]),
    "environment variables": notebook(env={"FC_KERNEL_MONITOR": "fake"}, FC_KERNEL_NOTEBOOK="FIFO"),
    "a launcher of its own": notebook(jupyter_fc_kernel_config="c.FcKernelConfig.minimum_tier = 'none'"),
    "output that runs": notebook(cells=[html("<script>fetch('/api/kernels', {method: 'POST'})</script>")]),
    "output that loads": notebook(cells=[html("<iframe src='/api/terminals'></iframe>")]),
    "an image of markup": notebook(cells=[html(f"<svg onload=alert(1)>{MARKUP}</svg>")]),
    "a cell that runs at once": notebook(
        cells=[{**html(""), "source": "%restore evil", "metadata": {"init_cell": True}}]
    ),
    "widgets": notebook(widgets={"application/vnd.jupyter.widget-state+json": {"state": {"x": MARKUP}}}),
    "no settings": notebook({}),
    "settings that are nothing": {**notebook(), "metadata": {"fc_kernel": None}},
}
#: Not even notebooks.
BROKEN: dict[str, bytes] = {
    "no metadata": b'{"nbformat": 4, "nbformat_minor": 5, "cells": []}',
    "nothing": b"",
    "no JSON": b"\x7fELF" + bytes(100),
    "half a notebook": json.dumps(REFUSED["the fake monitor"]).encode()[:-3],
    "a list": b"[1, 2, 3]",
    "deep": b'{"metadata": ' + b"[" * 100_000,
    "many digits": b'{"metadata": {"fc_kernel": {"vcpu_count": ' + b"9" * 100_000 + b"}}}",
    "another encoding": "{}".encode("utf-16"),
}


def test_the_corpus_is_large_enough() -> None:
    assert len(REFUSED) + len(IGNORED) + len(BROKEN) >= 60


class Host:
    """A server's directory with one hostile notebook, and what must not change."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "root"
        self.root.mkdir()
        self.fifo = directory / "fifo"
        os.mkfifo(self.fifo)
        self.canary = directory / "canary"
        self.contents = AsyncLargeFileManager(root_dir=str(self.root))
        self.config = FcKernelConfig(config=Config({"FcKernelConfig": LIMITS}))
        self._children = set(psutil.Process().children(recursive=True))

    def save(self, content: dict[str, Any] | bytes) -> None:
        if isinstance(content, dict):
            text = json.dumps(content).replace("FIFO", str(self.fifo)).replace("CANARY", str(self.canary))
            content = text.encode()
        (self.root / "hostile.ipynb").write_bytes(content)

    async def open(self) -> Any:
        """As a server does when the user clicks on it."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.contents.get("hostile.ipynb", type="notebook", content=True)

    async def resolve(self) -> Resolved:
        """As the provisioner does when a kernel is asked for."""
        async with asyncio.timeout(DEADLINE_S):
            return await resolve_settings(
                self.config,
                profile={},
                environ={"JPY_SESSION_NAME": "hostile.ipynb"},
                cwd=self.root,
                contents_manager=self.contents,
            )

    def is_untouched(self) -> bool:
        """Nothing was started or made."""
        assert list_entries(runtime_dir()) == []
        assert set(psutil.Process().children(recursive=True)) <= self._children
        assert not self.canary.exists()
        return [path.name for path in self.root.iterdir()] == ["hostile.ipynb"]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.delenv("FC_KERNEL_MONITOR", raising=False)
    return Host(tmp_path)


def assert_as_any_other(resolved: Resolved) -> None:
    """What a notebook without settings gets, and nothing of the host."""
    spec = resolved.spec
    assert (spec.vcpu_count, spec.mem_size_mib) == (1, 1024)
    assert (spec.kernel, spec.rootfs, spec.boot_args, spec.vsock, spec.restore_from) == (None,) * 5
    assert not spec.extra_drives
    assert not spec.network_interfaces
    assert spec.rootfs_read_only is not False
    assert (resolved.image, resolved.monitor, resolved.network) == ("default", "auto", "none")
    assert resolved.minimum_tier is Tier.EMULATED


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
async def test_what_reaches_for_more_is_refused(host: Host, content: dict[str, Any]) -> None:
    host.save(content)
    assert (await host.open())["type"] == "notebook"
    with pytest.raises(SpecError) as caught:
        await host.resolve()
    message = str(caught.value)
    assert "notebook" in message
    assert "allowed:" in message
    assert len(message) < 1000
    assert "\n" not in message
    assert host.is_untouched()


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
def test_its_kernel_does_not_start(
    host: Host, content: dict[str, Any], on_the_fake: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for by its path, and by a client that read its metadata itself."""
    monkeypatch.setenv("FC_KERNEL_MONITOR", "fake")
    host.save(content)
    with managed(config=Config({"FcKernelConfig": LIMITS})) as manager:
        with pytest.raises(SpecError):
            manager.start_kernel(cwd=str(host.root), env={**os.environ, "JPY_SESSION_NAME": "hostile.ipynb"})
        with pytest.raises(SpecError):
            manager.start_kernel(fc_kernel_notebook=content["metadata"]["fc_kernel"])
    assert host.is_untouched()


@pytest.mark.parametrize("content", IGNORED.values(), ids=IGNORED)
async def test_what_is_no_setting_is_ignored(host: Host, content: dict[str, Any]) -> None:
    host.save(content)
    assert (await host.open())["type"] == "notebook"
    assert_as_any_other(await host.resolve())
    assert host.is_untouched()


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
async def test_what_is_no_notebook_has_no_settings(host: Host, content: bytes) -> None:
    host.save(content)
    assert_as_any_other(await host.resolve())
    assert host.is_untouched()


async def test_a_notebook_that_is_a_fifo(host: Host) -> None:
    os.mkfifo(host.root / "hostile.ipynb")
    assert_as_any_other(await host.resolve())
    assert host.is_untouched()


async def test_a_notebook_that_is_a_directory(host: Host) -> None:
    (host.root / "hostile.ipynb").mkdir()
    assert_as_any_other(await host.resolve())
    assert host.is_untouched()


@pytest.mark.parametrize("name", ["../../etc/passwd.ipynb", "/etc/hostile.ipynb", "a\0b.ipynb", "x" * 5000 + ".ipynb"])
async def test_a_name_that_is_none(host: Host, name: str) -> None:
    host.save(notebook())
    resolved = await resolve_settings(
        host.config,
        profile={},
        environ={"JPY_SESSION_NAME": name},
        cwd=host.root,
        contents_manager=host.contents,
    )
    assert_as_any_other(resolved)
    assert host.is_untouched()
