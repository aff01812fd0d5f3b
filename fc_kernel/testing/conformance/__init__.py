"""The suite that every monitor's driver passes; other projects may run it on theirs.

A driver is tested with a guest that serves :mod:`fc_kernel.testing.guest_services`. The driver's
capabilities decide what is checked: what it can do works as promised, and what it cannot do is refused before any start.

    report = await check_vmm(lambda plan: MyVmm(plan), VmSpec(kernel=..., vcpu_count=1, mem_size_mib=256, boot_args="..."))
    print(len(report.passed), report.not_promised, report.not_possible)

A guest of ours serves it with ``fc.service=`` and :data:`~fc_kernel.testing.guest_services.SERVICE` on its command line, and
:data:`~fc_kernel.testing.guest_services.FILES` in its initramfs. For a test runner, each of :data:`CHECKS` runs
alone on a :class:`Bench`.
"""

from __future__ import annotations

from . import capturing, devices, lifecycle, lineage, network, pausing, snapshots, streams  # noqa: F401
from .bench import Bench, MakeVmm
from .check import CHECKS, Check
from .expecting import ConformanceError, NotPossibleHere
from .suite import Report, check_vmm

__all__ = ["CHECKS", "Bench", "Check", "ConformanceError", "MakeVmm", "NotPossibleHere", "Report", "check_vmm"]
