"""Doctor: every line in each of its conditions, and what follows from them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

from fc_kernel.host import doctor
from fc_kernel.host.doctor import Check, Report, Status, examine
from fc_kernel.images.manifest import ImageManifest, Part
from fc_kernel.images.steps import BUILD_PROGRAMS
from fc_kernel.settings.config import FcKernelConfig
from fc_kernel.settings.tier import Tier
from fc_kernel.vmm.kvm import KvmReport

from ..calling import call

FIRECRACKER = "echo 'Firecracker v1.16.1'"
QEMU = """case "$1" in
-version) echo 'QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)';;
-machine) echo 'microvm              microvm (i386)';;
esac"""
USABLE = KvmReport("usable", "3000 million instructions a second", None, 3e9)
PVM = KvmReport("pvm", "kvm_pvm, which runs only guest kernels built with CONFIG_PVM_GUEST", "use another host")
NAMES = [
    "platform", "kvm", "firecracker", "qemu", "tier", "image", "run directory", "user namespaces", "build tools", "disk",
]  # fmt: skip


class Host:
    """A healthy host; a test breaks what it is about."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch) -> None:
        self.path, self.patch = path, patch
        self.values: dict[str, Any] = {}
        self.program("firecracker", FIRECRACKER)
        self.program("qemu", QEMU)
        self.kvm(USABLE)
        patch.setenv("FC_KERNEL_DATA_DIR", str(path / "data"))
        patch.setenv("FC_KERNEL_CACHE_DIR", str(path / "cache"))
        (path / "bin").mkdir()
        patch.setenv("PATH", str(path / "bin"))
        for program in (*BUILD_PROGRAMS, "unshare"):
            self.program(f"bin/{program}", "exit 0")
        patch.setattr("platform.system", lambda: "Linux")
        patch.setattr("platform.machine", lambda: "x86_64")
        self.room(100 << 30)
        self.image("default")

    def program(self, name: str, script: str | None) -> None:
        program = self.path / name
        program.unlink(missing_ok=True)
        if script is not None:
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o700)
        if name in ("firecracker", "qemu"):
            self.values[f"{name}_path"] = str(program)

    def kvm(self, report: KvmReport) -> None:
        for module in ("fc_kernel.host.doctor", "fc_kernel.vmm.monitors"):
            self.patch.setattr(f"{module}.probe_kvm", lambda: report)

    def room(self, free: int) -> None:
        usage = type("Usage", (), {"free": free})
        self.patch.setattr("fc_kernel.host.doctor.shutil.disk_usage", lambda _: usage)

    def image(self, name: str) -> Path:
        path = self.path / "data/images" / name
        path.mkdir(parents=True)
        for role in ("kernel", "initrd", "rootfs"):
            (path / role).write_text(role)
        parts = tuple(Part.of(role, path / role) for role in ("kernel", "initrd", "rootfs"))
        manifest = ImageManifest(
            name=name, created="2026", recipe="r", kernel_release="6.1.0", python="3.11", boot_args="", parts=parts
        )
        (path / "manifest.json").write_text(manifest.model_dump_json())
        return path

    def report(self, *, image_needed: bool = True) -> Report:
        return examine(FcKernelConfig(config=Config({"FcKernelConfig": self.values})), image_needed=image_needed)

    def line(self, name: str) -> Check:
        (check,) = (check for check in self.report().checks if check.name == name)
        return check


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_a_healthy_host(host: Host) -> None:
    report = host.report()
    assert [check.name for check in report.checks] == NAMES
    assert {check.status for check in report.checks} == {Status.OK}
    assert not any(check.remedy for check in report.checks)
    assert (report.monitor, report.tier, report.can_start) == ("firecracker", Tier.KVM, True)


def check_line(host: Host, name: str, status: Status, detail: str, remedy: str, *, can_start: bool) -> None:
    check = host.line(name)
    assert check.status is status
    assert detail in check.detail
    assert remedy in check.remedy
    assert host.report().can_start is can_start


@pytest.mark.parametrize(("system", "machine"), [("Darwin", "x86_64"), ("Linux", "aarch64")])
def test_another_platform(host: Host, system: str, machine: str) -> None:
    host.patch.setattr("platform.system", lambda: system)
    host.patch.setattr("platform.machine", lambda: machine)
    check_line(host, "platform", Status.FAIL, f"{system} on {machine}", "Linux on x86_64", can_start=False)


def test_kvm_that_is_not_usable_is_reported_by_name(host: Host) -> None:
    host.kvm(PVM)
    check_line(host, "kvm", Status.WARN, "pvm: kvm_pvm", "use another host", can_start=True)
    check_line(host, "firecracker", Status.WARN, "needs KVM", "QEMU is used instead", can_start=True)
    check_line(host, "tier", Status.WARN, "emulated (qemu)", "", can_start=True)
    assert (host.report().monitor, host.report().tier) == ("qemu", Tier.EMULATED)


def test_no_firecracker(host: Host) -> None:
    host.program("firecracker", None)
    check_line(host, "firecracker", Status.WARN, "not installed", "fc-kernel firecracker install", can_start=True)
    assert (host.report().monitor, host.report().tier) == ("qemu", Tier.KVM)
    host.kvm(PVM)
    check_line(host, "firecracker", Status.WARN, "not installed", "useful once KVM is", can_start=True)


def test_an_old_firecracker(host: Host) -> None:
    host.program("firecracker", "echo 'Firecracker v1.4.0'")
    check_line(host, "firecracker", Status.WARN, "found Firecracker 1.4.0", "firecracker install", can_start=True)


def test_no_qemu(host: Host) -> None:
    host.program("qemu", None)
    check_line(host, "qemu", Status.WARN, "not installed", "apt-get install qemu-system-x86", can_start=True)
    host.kvm(PVM)
    check_line(host, "tier", Status.FAIL, "no monitor can run here", "install QEMU", can_start=False)
    assert (host.report().monitor, host.report().tier) == (None, None)


def test_a_required_tier_that_is_not_there(host: Host) -> None:
    host.values["minimum_tier"] = "jailed"
    check_line(host, "tier", Status.FAIL, "kvm (firecracker), but at least jailed", "minimum_tier", can_start=False)
    host.values.pop("minimum_tier")
    host.patch.setenv("JUPYTERHUB_API_TOKEN", "a token")
    check_line(host, "tier", Status.FAIL, "at least jailed", "minimum_tier", can_start=False)


def test_the_configured_monitor_is_judged_not_the_best(host: Host) -> None:
    host.kvm(PVM)
    host.values["monitor"] = "firecracker"
    check_line(host, "tier", Status.FAIL, "firecracker: it needs KVM", "", can_start=False)
    host.values["monitor"] = "auto"
    host.patch.setenv("FC_KERNEL_MONITOR", "firecracker")
    check_line(host, "tier", Status.FAIL, "firecracker: it needs KVM", "", can_start=False)
    host.patch.setenv("FC_KERNEL_MONITOR", "fake")
    check_line(host, "tier", Status.WARN, "none (fake): for tests; it isolates nothing", "", can_start=True)
    assert "image" not in [check.name for check in host.report().checks]


@pytest.mark.parametrize("values", [{"vcpu_count": 0}, {"vcpu_count": 4, "max_vcpu_count": 2}, {"networks": {"a": 1}}])
def test_a_configuration_that_starts_nothing(host: Host, values: dict[str, Any]) -> None:
    host.values.update(values)
    check_line(host, "configuration", Status.FAIL, next(iter(values)), "correct it", can_start=False)


def test_a_missing_image(host: Host) -> None:
    host.values["image"] = "geo"
    check_line(host, "image", Status.FAIL, "no image 'geo'", "fc-kernel image build --name geo", can_start=False)
    report = host.report(image_needed=False)
    assert report.can_start
    assert Status.WARN in {check.status for check in report.checks}


def test_a_damaged_image(host: Host) -> None:
    (host.path / "data/images/default/rootfs").write_text("other")
    check_line(host, "image", Status.FAIL, "SHA-256", "fc-kernel image build", can_start=False)


def test_a_run_directory_that_cannot_be_used(host: Host) -> None:
    host.patch.setenv("FC_KERNEL_RUNTIME_DIR", "/tmp/" + "x" * 100)
    check_line(host, "run directory", Status.FAIL, "too deep", "FC_KERNEL_RUNTIME_DIR", can_start=False)


def test_no_user_namespaces(host: Host) -> None:
    host.program("bin/unshare", "echo 'unshare failed: Operation not permitted' >&2; exit 1")
    host.patch.setattr(os, "geteuid", lambda: 1000)
    host.patch.setattr("fc_kernel.host.doctor.runtime_dir", lambda: Path("/run"))
    check_line(host, "user namespaces", Status.WARN, "Operation not permitted", "build images as root", can_start=True)
    host.patch.setattr(os, "geteuid", lambda: 0)
    check_line(host, "user namespaces", Status.OK, "not needed by root", "", can_start=True)


def test_unshare_that_cannot_be_run(host: Host) -> None:
    host.program("bin/unshare", None)
    host.patch.setattr(os, "geteuid", lambda: 1000)
    host.patch.setattr("fc_kernel.host.doctor.runtime_dir", lambda: Path("/run"))
    check_line(host, "user namespaces", Status.WARN, "unshare", "build images as root", can_start=True)


def test_unshare_that_hangs(host: Host) -> None:
    host.patch.setattr("fc_kernel.images.namespaces.DEADLINE_S", 0.1)
    host.patch.setattr(os, "geteuid", lambda: 1000)
    host.patch.setattr("fc_kernel.host.doctor.runtime_dir", lambda: Path("/run"))
    host.program("bin/unshare", "exec /bin/sleep 600")
    check_line(host, "user namespaces", Status.WARN, "did not end", "build images as root", can_start=True)


def test_no_build_tools(host: Host) -> None:
    host.program("bin/mkfs.erofs", None)
    host.program("bin/dpkg-deb", None)
    remedy = "apt-get install dpkg erofs-utils"
    check_line(host, "build tools", Status.WARN, "dpkg, erofs-utils missing", remedy, can_start=True)


def test_the_disk(host: Host) -> None:
    host.room(doctor.ROOMY_DISK_BYTES - 1)
    check_line(host, "disk", Status.WARN, "3.0 GiB free", "up to 3 GiB", can_start=True)
    host.room(doctor.LEAST_DISK_BYTES - 1)
    check_line(host, "disk", Status.FAIL, "0.1 GiB free", "free some space", can_start=False)


@pytest.fixture
def configured(host: Host) -> Host:
    """The host, and the command line's configuration of it."""
    directory = host.path / "config"
    directory.mkdir()
    (directory / "jupyter_fc_kernel_config.json").write_text(json.dumps({"FcKernelConfig": host.values}))
    host.patch.setenv("JUPYTER_CONFIG_DIR", str(directory))
    return host


def test_the_command(configured: Host) -> None:
    called = call("doctor")
    lines = called.out.splitlines()
    assert called.status == 0
    assert [line[6:].partition("  ")[0] for line in lines[:-1]] == NAMES
    assert {line[:4].strip() for line in lines[:-1]} == {"ok"}
    assert lines[-1] == "a kernel can start: firecracker, tier kvm"
    configured.kvm(PVM)
    configured.program("qemu", None)
    called = call("doctor")
    assert called.status == 1
    assert "→ install QEMU 7.2 or later" in called.out
    assert called.out.splitlines()[-1] == "no kernel can start on this host"


def test_the_command_for_scripts(configured: Host) -> None:
    called = call("doctor", "--json")
    document = json.loads(called.out)
    assert called.status == 0
    assert set(document) == {"can_start", "monitor", "tier", "checks"}
    assert (document["can_start"], document["monitor"], document["tier"]) == (True, "firecracker", "kvm")
    assert [check["name"] for check in document["checks"]] == NAMES
    assert all(set(check) == {"name", "status", "detail", "remedy"} for check in document["checks"])
    (configured.path / "data/images/default/manifest.json").unlink()
    called = call("doctor", "--json")
    assert called.status == 1
    assert json.loads(called.out)["can_start"] is False
    called = call("doctor", "--json", "--no-image")
    assert called.status == 0
    assert json.loads(called.out)["can_start"] is True


def test_on_this_very_host() -> None:
    words = [sys.executable, "-m", "fc_kernel.cli", "doctor", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    document = json.loads(done.stdout)
    assert done.returncode == (0 if document["can_start"] else 1)
    assert [check["name"] for check in document["checks"]] == NAMES
