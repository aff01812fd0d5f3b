"""What this host can do, and what to do where it cannot: the checks behind ``fc-kernel doctor``."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from ..base.paths import cache_dir, data_dir, runtime_dir
from ..errors import ConfigError, FcKernelError, ImageError
from ..images import namespaces
from ..images.steps import BUILD_PROGRAMS, missing_packages
from ..images.store import ImageStore
from ..settings.config import FcKernelConfig
from ..settings.environment import environment_source
from ..settings.resolve import Resolved, resolve
from ..settings.tier import Tier
from ..vmm.kvm import KvmReport, probe_kvm
from ..vmm.monitors import MONITORS, Choice, Monitor, best_monitor

#: A default image takes 0.5 GiB, and building it takes about three times as much for a while.
ROOMY_DISK_BYTES = 3 << 30
#: Below this not even a run directory with its log is safe.
LEAST_DISK_BYTES = 64 << 20


class Status(StrEnum):
    """The outcome of a check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One line: what was checked, what was found, and what to do (empty when nothing)."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class Report:
    """All lines, and what follows from them: the monitor that a kernel would get, and its tier."""

    checks: tuple[Check, ...]
    monitor: str | None
    tier: Tier | None

    @property
    def can_start(self) -> bool:
        """Whether a kernel could start now."""
        return all(check.status is not Status.FAIL for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """The report for ``--json``."""
        return {
            "can_start": self.can_start,
            "monitor": self.monitor,
            "tier": self.tier,
            "checks": [asdict(check) for check in self.checks],
        }


def examine(config: FcKernelConfig, *, image_needed: bool = True) -> Report:
    """Look at the whole host; takes as long as the KVM probe, and changes nothing."""
    kvm = probe_kvm()
    checks = [_platform(), _kvm(kvm), *(_monitor(row, config, kvm) for row in MONITORS)]
    choice = None
    try:
        # The settings of a kernel that asks for nothing.
        resolved = resolve([config.as_source(), environment_source(os.environ, trusted=True)], config.limits())
    except FcKernelError as error:
        remedy = "correct it in jupyter_fc_kernel_config, the server's configuration or FC_KERNEL_*"
        checks.append(Check("configuration", Status.FAIL, str(error), remedy))
    else:
        tier, choice = _tier(config, resolved)
        checks.append(tier)
        if choice is None or choice.needs_image:
            checks.append(_image(resolved.image, needed=image_needed))
    checks += [_run_dir(), _user_namespaces(), _build_programs(), _disk()]
    return Report(tuple(checks), choice.monitor if choice else None, choice.tier if choice else None)


def _platform() -> Check:
    system, machine = platform.system(), platform.machine()
    if (system, machine) == ("Linux", "x86_64"):
        return Check("platform", Status.OK, f"{system} {platform.release()} on {machine}")
    return Check("platform", Status.FAIL, f"{system} on {machine}", "microVMs are supported on Linux on x86_64")


def _kvm(report: KvmReport) -> Check:
    status = Status.OK if report.usable else Status.WARN
    return Check("kvm", status, f"{report.verdict}: {report.detail}", report.remedy or "")


def _monitor(row: Monitor, config: FcKernelConfig, kvm: KvmReport) -> Check:
    runs = row.tier(kvm) is not None
    try:
        program = row.find(config, data_dir())
    except ConfigError as error:
        # Where it could not run, its absence is no fault.
        return Check(
            row.name, Status.WARN, str(error), row.remedy if runs else f"useful once KVM is usable: {row.remedy}"
        )
    if not runs:
        detail = f"{program.version} ({program.path}), but it needs KVM that can run an ordinary kernel"
        instead = next((f"; {other.title} is used instead" for other in MONITORS if other.tier(kvm)), "")
        return Check(row.name, Status.WARN, detail, f"see the line on kvm{instead}")
    return Check(row.name, Status.OK, f"{program.version} ({program.path}){row.remark}")


def _tier(config: FcKernelConfig, resolved: Resolved) -> tuple[Check, Choice | None]:
    try:
        choice = best_monitor(resolved.monitor, config, data_dir())
    except ConfigError as error:
        return Check("tier", Status.FAIL, str(error), "install QEMU 7.2 or later, or make KVM usable"), None
    tier, least = choice.tier, resolved.minimum_tier
    shown = f"{tier} ({choice.monitor})"
    if tier.rank < least.rank:
        remedy = "make KVM usable, or lower FcKernelConfig.minimum_tier knowingly"
        return Check("tier", Status.FAIL, f"{shown}, but at least {least} is required", remedy), choice
    if tier is Tier.EMULATED:
        detail = f"{shown}: works, about ten times slower, and promises no isolation"
        return Check("tier", Status.WARN, detail), choice
    if tier is Tier.NONE:
        return Check("tier", Status.WARN, f"{shown}: for tests; it isolates nothing"), choice
    return Check("tier", Status.OK, shown), choice


def _image(name: str, *, needed: bool) -> Check:
    store = ImageStore(data_dir() / "images", cache_dir())
    missing = Status.FAIL if needed else Status.WARN
    build = "fc-kernel image build" + ("" if name == "default" else f" --name {name}")
    try:
        image = store.get(name)
        store.verify(image)
    except ImageError as error:
        return Check("image", missing, str(error), build)
    return Check("image", Status.OK, f"{name}: kernel {image.manifest.kernel_release}, digests match")


def _run_dir() -> Check:
    try:
        path = runtime_dir()
    except ConfigError as error:
        return Check("run directory", Status.FAIL, str(error), "set FC_KERNEL_RUNTIME_DIR to a short private path")
    return Check("run directory", Status.OK, str(path))


def _user_namespaces() -> Check:
    name = "user namespaces"
    said = namespaces.refusal()
    if said is None:
        return Check(name, Status.OK, "images can be built without root")
    if os.geteuid() == 0:
        return Check(name, Status.OK, "not available, and not needed by root")
    return Check(name, Status.WARN, said, namespaces.remedy())


def _build_programs() -> Check:
    if missing := missing_packages():
        remedy = f"apt-get install {' '.join(missing)}"
        return Check("build tools", Status.WARN, f"images cannot be built: {', '.join(missing)} missing", remedy)
    return Check("build tools", Status.OK, ", ".join(BUILD_PROGRAMS))


def _disk() -> Check:
    return _room(lambda path: shutil.disk_usage(path).free)


def _room(free_bytes_of: Callable[[Any], int]) -> Check:
    path = data_dir()
    existing = next(place for place in (path, *path.parents) if place.exists())
    free = free_bytes_of(existing)
    shown = f"{free / (1 << 30):.1f} GiB free for {path}"
    if free < LEAST_DISK_BYTES:
        return Check("disk", Status.FAIL, shown, "free some space, or set FC_KERNEL_DATA_DIR")
    if free < ROOMY_DISK_BYTES:
        return Check("disk", Status.WARN, shown, "building an image takes up to 3 GiB for a while")
    return Check("disk", Status.OK, shown)
