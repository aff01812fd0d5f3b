"""Chooses the monitor of a kernel: the first of the table that this host can run, if its tier is high enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from ..errors import ConfigError, IsolationUnavailable, MonitorUnavailable
from ..settings.config import FcKernelConfig
from ..settings.monitors import AUTO, FOR_TESTS, MONITOR_NAMES
from ..settings.resolve import Resolved
from ..settings.tier import Tier
from .base import BootPlan, Vmm
from .firecracker.versions import RECOMMENDED_VERSION
from .kvm import KvmReport, probe_kvm

#: The group of entry points in which a distribution registers a monitor for tests, as a :class:`Monitor`. It is imported
#: only when it is asked for.
ENTRY_POINTS = "fc_kernel.monitors"

MakeVmm = Callable[[BootPlan], Vmm]


class Program(Protocol):
    """A usable program of a monitor, found on this host."""

    @property
    def path(self) -> Path:
        """Where it is."""

    @property
    def version(self) -> str:
        """Its version, such as ``1.16.1``."""


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """One row of the table: how a monitor is found, what its VMs are, and how one is made."""

    name: str
    #: Its name in a sentence.
    title: str
    #: Finds the program, also one installed below the tenant's data directory; raises
    #: :class:`~fc_kernel.errors.ConfigError` if there is no usable one.
    find: Callable[[FcKernelConfig, Path | None], Program]
    #: Makes a VM from a plan; the last argument says whether it may use KVM.
    make: Callable[[BootPlan, Any, bool], Vmm]
    #: The tiers to expect with usable KVM and without; ``None`` where it cannot run.
    on_kvm: Tier = Tier.KVM
    without_kvm: Tier | None = None
    #: How to install it, and what ``fc-kernel doctor`` adds about an installed one.
    remedy: str = ""
    remark: str = ""
    #: Whether its guests boot from an image.
    needs_image: bool = True
    #: Whether it can save and load VMs; its driver's capabilities tell more.
    snapshots: Callable[[], bool] = lambda: True

    def tier(self, kvm: KvmReport) -> Tier | None:
        """The tier to expect on this host."""
        return self.on_kvm if kvm.usable else self.without_kvm


@dataclass(frozen=True)
class Choice:
    """The chosen monitor: its name, the tier to expect, and a function that makes a VM."""

    monitor: str
    tier: Tier
    make: MakeVmm
    version: str = ""
    snapshots: bool = True
    needs_image: bool = True


def _find_firecracker(config: FcKernelConfig, data_dir: Path | None) -> Program:
    from .firecracker.program import find_firecracker

    return find_firecracker(config.firecracker_path or None, data_dir=data_dir)


def _make_firecracker(plan: BootPlan, program: Any, accelerated: bool) -> Vmm:
    from .firecracker.driver import FirecrackerVmm

    return FirecrackerVmm(plan, program)


def _find_qemu(config: FcKernelConfig, _data_dir: Path | None) -> Program:
    from .qemu.program import find_qemu

    return find_qemu(config.qemu_path or None)


def _make_qemu(plan: BootPlan, program: Any, accelerated: bool) -> Vmm:
    from .qemu.driver import QemuVmm

    return QemuVmm(plan, program, accelerated=accelerated)


#: In the order of :data:`~fc_kernel.settings.monitors.MONITOR_NAMES`. Drivers are imported when they are used.
MONITORS = (
    Monitor(
        name="firecracker",
        title="Firecracker",
        find=_find_firecracker,
        make=_make_firecracker,
        remedy=f"fc-kernel firecracker install   (fetches release {RECOMMENDED_VERSION} and verifies it)",
    ),
    Monitor(
        name="qemu",
        title="QEMU",
        find=_find_qemu,
        make=_make_qemu,
        without_kvm=Tier.EMULATED,
        remedy="apt-get install qemu-system-x86",
        remark=", microvm machine",
    ),
)


def monitor_named(name: str) -> Monitor:
    """The row of that name, or the monitor that a distribution has registered under it.

    Raises :class:`~fc_kernel.errors.MonitorUnavailable` if there is neither.
    """
    for row in MONITORS:
        if row.name == name:
            return row
    if name in FOR_TESTS:
        for registered in entry_points(group=ENTRY_POINTS, name=name):
            row = registered.load()
            if isinstance(row, Monitor) and row.name == name:
                return row
    raise MonitorUnavailable(
        f"no installed distribution provides the monitor {name!r} (entry points of the group {ENTRY_POINTS})"
    )


def choose_monitor(resolved: Resolved, config: FcKernelConfig, data_dir: Path | None = None) -> Choice:
    """The best monitor of this host, if its tier is high enough.

    Raises :class:`~fc_kernel.errors.MonitorUnavailable` with every reason, or
    :class:`~fc_kernel.errors.IsolationUnavailable` when the best there is is below ``minimum_tier``.
    """
    choice = best_monitor(resolved.monitor, config, data_dir)
    if choice.tier.rank < resolved.minimum_tier.rank:
        raise IsolationUnavailable(
            f"this host gives the tier {choice.tier}, and at least {resolved.minimum_tier} is required; "
            "`fc-kernel doctor` says what is missing"
        )
    return choice


def best_monitor(monitor: str, config: FcKernelConfig, data_dir: Path | None = None) -> Choice:
    """The monitor of that name, whatever its tier; ``auto`` is the first of the table that can run here.

    ``data_dir`` is the tenant's, where programs may be installed; without it none of those is found.

    Raises :class:`~fc_kernel.errors.MonitorUnavailable` with every reason.
    """
    names = [row.name for row in MONITOR_NAMES if not row.for_tests] if monitor == AUTO else [monitor]
    reasons = []
    for row in map(monitor_named, names):
        try:
            return _choice(row, config, data_dir)
        except ConfigError as error:
            reasons.append(f"{row.name}: {error}")
    raise MonitorUnavailable("no monitor can run here; " + "; ".join(reasons) + "; see `fc-kernel doctor`")


def _choice(row: Monitor, config: FcKernelConfig, data_dir: Path | None) -> Choice:
    # The fake needs no KVM, and the probe takes a moment.
    kvm = None if row.on_kvm is row.without_kvm else probe_kvm()
    tier = row.on_kvm if kvm is None else row.tier(kvm)
    if tier is None:
        assert kvm is not None  # noqa: S101 - a row that runs nowhere would have both tiers
        raise MonitorUnavailable(f"it needs KVM, which is {kvm.verdict}: {kvm.detail}")
    program = row.find(config, data_dir)
    accelerated = kvm is not None and kvm.usable

    def make(plan: BootPlan) -> Vmm:
        return row.make(plan, program, accelerated)

    return Choice(row.name, tier, make, program.version, row.snapshots(), row.needs_image)
