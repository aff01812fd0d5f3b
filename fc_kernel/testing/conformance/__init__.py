"""The suite that every monitor's driver passes; other projects may run it on theirs.

A driver is tested with a guest that serves :mod:`fc_kernel.testing.guest_services`. What is checked follows from the
driver's capabilities: what it says it can do works as promised, and what it cannot is refused before anything is started.
"""

from __future__ import annotations

from . import devices, lifecycle, network, pausing, snapshots, streams  # noqa: F401
from .bench import Bench, MakeVmm
from .check import CHECKS, Check, ConformanceError, NotPossibleHere
from .suite import Report, check_vmm

__all__ = ["CHECKS", "Bench", "Check", "ConformanceError", "MakeVmm", "NotPossibleHere", "Report", "check_vmm"]
