"""Which monitor a kernel gets, for every combination of what the host has, what is asked for and what is required."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

from fc_kernel.errors import ConfigError, IsolationUnavailable, MonitorUnavailable
from fc_kernel.settings.config import FcKernelConfig
from fc_kernel.settings.kernel_settings import json_schema
from fc_kernel.settings.monitors import CHOICES, FOR_TESTS, MONITOR_NAMES, OPEN_TO_ALL
from fc_kernel.settings.resolve import Resolved
from fc_kernel.settings.spec import VmSpec
from fc_kernel.settings.tier import Tier
from fc_kernel.testing.fake_vmm import FakeVmm
from fc_kernel.vmm import monitors
from fc_kernel.vmm.base import BootPlan
from fc_kernel.vmm.firecracker.driver import FirecrackerVmm
from fc_kernel.vmm.kvm import KvmReport
from fc_kernel.vmm.monitors import MONITORS, best_monitor, choose_monitor, monitor_named
from fc_kernel.vmm.qemu.driver import QemuVmm

FIRECRACKER = "echo 'Firecracker v1.16.1'"
QEMU = """case "$1" in
-version) echo 'QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)';;
-machine) echo 'Supported machines are:'; echo 'microvm              microvm (i386)';;
esac"""
USABLE = KvmReport("usable", "3000 million instructions a second", None, 3e9)
NOT_USABLE = KvmReport("emulated", "it emulates instead of virtualising", "enable VT-x")


@dataclass
class Host:
    """Programs that say what monitors say, and a KVM report."""

    path: Path
    monkeypatch: pytest.MonkeyPatch
    config: FcKernelConfig

    def has(self, *, kvm: bool, firecracker: str | None = FIRECRACKER, qemu: str | None = QEMU) -> FcKernelConfig:
        self.monkeypatch.setattr("fc_kernel.vmm.monitors.probe_kvm", lambda: USABLE if kvm else NOT_USABLE)
        values = {}
        for name, script in (("firecracker", firecracker), ("qemu", qemu)):
            program = self.path / name
            program.unlink(missing_ok=True)
            if script is not None:
                program.write_text(f"#!/bin/sh\n{script}\n")
                program.chmod(0o700)
            values[f"{name}_path"] = str(program)
        return FcKernelConfig(config=Config({"FcKernelConfig": values}))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch, FcKernelConfig())


def asked(monitor: str, minimum: Tier) -> Resolved:
    values: dict[str, Any] = {"monitor": monitor, "minimum_tier": minimum}
    return Resolved(spec=VmSpec(), image="default", network="none", start_timeout_s=60.0, **values)


def expected(monitor: str, *, kvm: bool, firecracker: bool, qemu: bool) -> tuple[str, Tier] | None:
    """The rule in words of its own."""
    if monitor == "fake":
        return "fake", Tier.NONE
    if kvm and firecracker and monitor in ("auto", "firecracker"):
        return "firecracker", Tier.KVM
    if qemu and monitor in ("auto", "qemu"):
        return "qemu", Tier.KVM if kvm else Tier.EMULATED
    return None


@pytest.mark.parametrize("monitor", ["auto", "firecracker", "qemu", "fake"])
@pytest.mark.parametrize(("kvm", "firecracker", "qemu"), list(itertools.product([True, False], repeat=3)))
def test_every_combination(monitor: str, kvm: bool, firecracker: bool, qemu: bool, host: Host) -> None:
    config = host.has(kvm=kvm, firecracker=FIRECRACKER if firecracker else None, qemu=QEMU if qemu else None)
    wanted = expected(monitor, kvm=kvm, firecracker=firecracker, qemu=qemu)
    if wanted is None:
        with pytest.raises(MonitorUnavailable, match="no monitor can run here"):
            choose_monitor(asked(monitor, Tier.NONE), config)
        return
    for minimum in Tier:
        if wanted[1].rank >= minimum.rank:
            choice = choose_monitor(asked(monitor, minimum), config)
            assert (choice.monitor, choice.tier) == wanted
        else:
            with pytest.raises(IsolationUnavailable, match=rf"tier {wanted[1]}, and at least {minimum} is required"):
                choose_monitor(asked(monitor, minimum), config)
    assert best_monitor(monitor, config).tier is wanted[1]


@pytest.mark.parametrize(("kvm", "monitor", "kind"), [(True, "auto", FirecrackerVmm), (False, "auto", QemuVmm)])
def test_the_maker_makes_it_and_starts_nothing(kvm: bool, monitor: str, kind: type, host: Host, tmp_path: Path) -> None:
    choice = choose_monitor(asked(monitor, Tier.NONE), host.has(kvm=kvm))
    plan = BootPlan(vm_id="00000001", spec=VmSpec(vcpu_count=1, mem_size_mib=128), run_dir=tmp_path)
    vmm = choice.make(plan)
    assert type(vmm) is kind
    assert vmm.name == choice.monitor
    assert vmm.pid is None


def test_the_fake_is_never_chosen_automatically(host: Host) -> None:
    config = host.has(kvm=False, firecracker=None, qemu=None)
    for monitor in ("auto", "firecracker", "qemu"):
        with pytest.raises(MonitorUnavailable):
            best_monitor(monitor, config)
    plan = BootPlan(vm_id="00000001", spec=VmSpec(), run_dir=host.path)
    assert type(best_monitor("fake", config).make(plan)) is FakeVmm


def test_one_table_in_one_order() -> None:
    """The names that settings know, the rows here, and what a test registers."""
    assert [row.name for row in MONITOR_NAMES if not row.for_tests] == [row.name for row in MONITORS]
    assert sorted(FOR_TESTS) == ["fake"]
    assert {row.name: monitor_named(row.name).name for row in MONITOR_NAMES} == {name: name for name in CHOICES[1:]}
    schema = json_schema()["properties"]["monitor"]
    assert schema["anyOf"][0]["enum"] == list(CHOICES) == list(FcKernelConfig.monitor.values or ())
    assert OPEN_TO_ALL == ("auto", "firecracker", "qemu")


def test_a_monitor_for_tests_that_nobody_provides(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the package's tests were left out of an installation."""
    monkeypatch.setattr(monitors, "entry_points", lambda **_: ())
    with pytest.raises(MonitorUnavailable, match="no installed distribution provides the monitor 'fake'"):
        best_monitor("fake", host.has(kvm=True))


def test_a_registration_that_is_something_else_is_none(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("platform:python_version", "fc_kernel.vmm.monitors:MONITORS"):
        other = EntryPoint("fake", value, monitors.ENTRY_POINTS)
        monkeypatch.setattr(monitors, "entry_points", lambda *, _other=other, **_: (_other,))
        with pytest.raises(MonitorUnavailable, match="'fake'"):
            best_monitor("fake", host.has(kvm=True))


def test_the_error_gives_every_reason(host: Host) -> None:
    config = host.has(kvm=False, firecracker=None, qemu=None)
    with pytest.raises(MonitorUnavailable) as caught:
        best_monitor("auto", config)
    message = str(caught.value)
    assert "firecracker: it needs KVM, which is emulated: it emulates instead of virtualising" in message
    assert "qemu: " in message
    assert "is not installed" in message
    assert "fc-kernel doctor" in message
    assert isinstance(caught.value, ConfigError)


def test_only_what_was_asked_for_is_in_the_error(host: Host) -> None:
    with pytest.raises(MonitorUnavailable) as caught:
        best_monitor("firecracker", host.has(kvm=False))
    assert "qemu" not in str(caught.value)


@pytest.mark.parametrize(
    ("firecracker", "reason"),
    [
        ("echo 'Firecracker v1.11.0'", "needs Firecracker 1.12 or later"),
        ("echo 'Firecracker v2.0.0'", "below 2"),
        ("echo hello", "not a Firecracker version"),
        ("exit 3", "not a Firecracker version"),
    ],
)
def test_a_firecracker_of_no_use_is_passed_over_and_named(firecracker: str, reason: str, host: Host) -> None:
    assert best_monitor("auto", host.has(kvm=True, firecracker=firecracker)).monitor == "qemu"
    with pytest.raises(MonitorUnavailable, match=reason):
        best_monitor("auto", host.has(kvm=True, firecracker=firecracker, qemu=None))


@pytest.mark.parametrize(
    ("qemu", "reason"),
    [
        ("echo 'QEMU emulator version 6.2.0'", "needs QEMU 7.2; found QEMU 6.2.0"),
        ("echo 'QEMU emulator version 9.0.1'", "machine 'microvm'"),
        ("echo hello", "does not say its version"),
    ],
)
def test_a_qemu_of_no_use_is_named(qemu: str, reason: str, host: Host) -> None:
    with pytest.raises(MonitorUnavailable, match=reason):
        best_monitor("auto", host.has(kvm=False, qemu=qemu))


def test_a_replaced_program_is_asked_again(host: Host) -> None:
    with pytest.raises(MonitorUnavailable, match=r"6\.2"):
        best_monitor("qemu", host.has(kvm=False, qemu="echo 'QEMU emulator version 6.2.0'"))
    assert best_monitor("qemu", host.has(kvm=False)).monitor == "qemu"
