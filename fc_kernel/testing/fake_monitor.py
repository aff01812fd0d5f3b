"""The fake as a monitor that settings can name: what the entry point ``fake`` of the group ``fc_kernel.monitors`` loads.

The runtime knows nothing of this package; it looks the entry point up when a trusted source asks for ``monitor: fake``.
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from ..settings.config import FcKernelConfig
from ..settings.tier import Tier
from ..vmm.base import BootPlan
from ..vmm.monitors import Monitor
from .fake_vmm import GUEST_VARIABLE, FakeVmm


@dataclass(frozen=True)
class Interpreter:
    """What runs a fake's guest: this Python."""

    path: Path
    version: str


def _find(_config: FcKernelConfig, _data_dir: Path | None) -> Interpreter:
    return Interpreter(Path(sys.executable), platform.python_version())


def _make(plan: BootPlan, _program: Interpreter, _accelerated: bool) -> FakeVmm:
    return FakeVmm(plan)


MONITOR = Monitor(
    name=FakeVmm.name,
    title="the fake monitor",
    find=_find,
    make=_make,
    on_kvm=Tier.NONE,
    without_kvm=Tier.NONE,
    needs_image=False,
    snapshots=lambda: os.environ.get(GUEST_VARIABLE) == "scripted",
)
