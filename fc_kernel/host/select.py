"""Which monitor runs a kernel: the best of the host that gives at least the tier required."""

from __future__ import annotations

from collections.abc import Callable

from ..config import FcKernelConfig
from ..errors import ConfigError, IsolationUnavailable, MonitorUnavailable
from ..resolve import Resolved
from ..tier import Tier
from ..vmm.base import BootPlan, Vmm
from ..vmm.kvm import probe_kvm

MakeVmm = Callable[[BootPlan], Vmm]


def choose_monitor(resolved: Resolved, config: FcKernelConfig) -> tuple[MakeVmm, Tier]:
    """A maker of the VM, and the tier that is expected of it.

    ``auto`` takes Firecracker on usable KVM, else QEMU on usable KVM, else QEMU's emulation, and never the fake. Raises
    :class:`~fc_kernel.errors.MonitorUnavailable` with every reason, or
    :class:`~fc_kernel.errors.IsolationUnavailable` when the best there is is below ``minimum_tier``.
    """
    if resolved.monitor == "fake":
        from ..testing.fake_vmm import FakeVmm

        make: MakeVmm = FakeVmm
        tier = Tier.NONE
    else:
        make, tier = _real(resolved.monitor, config)
    if tier.rank < resolved.minimum_tier.rank:
        raise IsolationUnavailable(
            f"this host gives the tier {tier}, and at least {resolved.minimum_tier} is required; `fc-kernel doctor` says "
            "what is missing"
        )
    return make, tier


def _real(monitor: str, config: FcKernelConfig) -> tuple[MakeVmm, Tier]:
    reasons = []
    kvm = probe_kvm()
    if monitor in ("auto", "firecracker"):
        if kvm.usable:
            try:
                return _firecracker(config), Tier.KVM
            except ConfigError as error:
                reasons.append(f"firecracker: {error}")
        else:
            reasons.append(f"firecracker: it needs KVM, which is {kvm.verdict}: {kvm.detail}")
    if monitor in ("auto", "qemu"):
        try:
            return _qemu(config, accelerated=kvm.usable), Tier.KVM if kvm.usable else Tier.EMULATED
        except ConfigError as error:
            reasons.append(f"qemu: {error}")
    raise MonitorUnavailable("no monitor can run here; " + "; ".join(reasons) + "; see `fc-kernel doctor`")


def _firecracker(config: FcKernelConfig) -> MakeVmm:
    from ..vmm.firecracker.driver import FirecrackerVmm, find_firecracker

    program = find_firecracker(config.firecracker_path or None)
    return lambda plan: FirecrackerVmm(plan, program)


def _qemu(config: FcKernelConfig, *, accelerated: bool) -> MakeVmm:
    from ..vmm.qemu.driver import QemuVmm
    from ..vmm.qemu.program import find_qemu

    program = find_qemu(config.qemu_path or None)
    return lambda plan: QemuVmm(plan, program, accelerated=accelerated)
