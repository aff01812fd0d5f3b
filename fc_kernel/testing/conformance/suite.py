"""Running all checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ...settings.spec import VmSpec
from .bench import Bench, MakeVmm
from .check import CHECKS
from .expecting import ConformanceError, NotPossibleHere
from .guest import BOOT_DEADLINE_S, DEADLINE_S


@dataclass
class Report:
    """The names of the checks by result, with a reason for each that was not run."""

    passed: list[str] = field(default_factory=list)
    not_promised: dict[str, str] = field(default_factory=dict)
    not_possible: dict[str, str] = field(default_factory=dict)


async def check_vmm(
    make_vmm: MakeVmm,
    spec: VmSpec,
    *,
    initrd: Path | None = None,
    start_timeout_s: float = DEADLINE_S,
    boot_deadline_s: float = BOOT_DEADLINE_S,
    progress: Callable[[str], None] = lambda _name: None,
) -> Report:
    """Run every check that the driver's capabilities call for.

    ``make_vmm(plan)`` makes a VM that is not started. ``spec`` and ``initrd`` are of a guest that serves
    :mod:`fc_kernel.testing.guest_services`; the checks add drives and interfaces. ``progress`` is called with each name.
    Raises an :class:`ExceptionGroup` with one :class:`ConformanceError` for each check that failed; its message begins with
    the check's name.
    """
    report = Report()
    failures: list[Exception] = []
    async with Bench(
        make_vmm, spec, initrd=initrd, start_timeout_s=start_timeout_s, boot_deadline_s=boot_deadline_s
    ) as bench:
        for check in CHECKS:
            if reason := check.inapplicable(bench.capabilities):
                report.not_promised[check.name] = reason
                continue
            progress(check.name)
            try:
                await check.run(bench)
            except NotPossibleHere as error:
                report.not_possible[check.name] = str(error)
            except Exception as error:  # noqa: BLE001 - whatever a driver raises is a failure of its check
                failure = ConformanceError(f"{check.name}: {error} (promised: {check.promise})")
                failure.__cause__ = error
                failures.append(failure)
            else:
                report.passed.append(check.name)
    if failures:
        raise ExceptionGroup(f"{len(failures)} of {len(failures) + len(report.passed)} checks failed", failures)
    return report
