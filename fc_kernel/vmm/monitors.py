"""Which monitor runs a kernel: the best of the host that gives at least the tier required."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import ConfigError, IsolationUnavailable, MonitorUnavailable
from ..settings.config import FcKernelConfig
from ..settings.resolve import Resolved
from ..settings.tier import Tier
from .base import BootPlan, Vmm
from .kvm import probe_kvm

MakeVmm = Callable[[BootPlan], Vmm]


@dataclass(frozen=True)
class Choice:
    """The monitor that runs a kernel: its name, the tier that is expected of it, and the maker of a VM."""

    monitor: str
    tier: Tier
    make: MakeVmm
    version: str = ""
    #: Whether it can save and load; whether a loaded VM needs more is for its driver to say.
    snapshots: bool = True


def choose_monitor(resolved: Resolved, config: FcKernelConfig) -> Choice:
    """The best monitor of the host, if it is good enough.

    Raises :class:`~fc_kernel.errors.MonitorUnavailable` with every reason, or
    :class:`~fc_kernel.errors.IsolationUnavailable` when the best there is is below ``minimum_tier``.
    """
    choice = best_monitor(resolved.monitor, config)
    if choice.tier.rank < resolved.minimum_tier.rank:
        raise IsolationUnavailable(
            f"this host gives the tier {choice.tier}, and at least {resolved.minimum_tier} is required; "
            "`fc-kernel doctor` says what is missing"
        )
    return choice


def best_monitor(monitor: str, config: FcKernelConfig) -> Choice:
    """The monitor of that name, whatever its tier.

    ``auto`` takes Firecracker on usable KVM, else QEMU on usable KVM, else QEMU's emulation, and never the fake. Raises
    :class:`~fc_kernel.errors.MonitorUnavailable` with every reason.
    """
    if monitor == "fake":
        from ..testing.fake_vmm import FakeVmm

        scripted = os.environ.get("FC_KERNEL_FAKE_GUEST") == "scripted"
        return Choice("fake", Tier.NONE, FakeVmm, platform.python_version(), snapshots=scripted)
    reasons = []
    kvm = probe_kvm()
    if monitor in ("auto", "firecracker"):
        if kvm.usable:
            try:
                return Choice("firecracker", Tier.KVM, *_firecracker(config))
            except ConfigError as error:
                reasons.append(f"firecracker: {error}")
        else:
            reasons.append(f"firecracker: it needs KVM, which is {kvm.verdict}: {kvm.detail}")
    if monitor in ("auto", "qemu"):
        try:
            tier = Tier.KVM if kvm.usable else Tier.EMULATED
            return Choice("qemu", tier, *_qemu(config, accelerated=kvm.usable))
        except ConfigError as error:
            reasons.append(f"qemu: {error}")
    raise MonitorUnavailable("no monitor can run here; " + "; ".join(reasons) + "; see `fc-kernel doctor`")


def _firecracker(config: FcKernelConfig) -> tuple[MakeVmm, str]:
    from .firecracker.driver import FirecrackerVmm, find_firecracker

    program = find_firecracker(config.firecracker_path or None)
    return lambda plan: FirecrackerVmm(plan, program), program.version


def _qemu(config: FcKernelConfig, *, accelerated: bool) -> tuple[MakeVmm, str]:
    from .qemu.driver import QemuVmm
    from .qemu.program import find_qemu

    program = find_qemu(config.qemu_path or None)
    return lambda plan: QemuVmm(plan, program, accelerated=accelerated), program.version
