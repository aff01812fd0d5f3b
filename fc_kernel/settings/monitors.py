"""The names of all monitors, in the order in which ``auto`` looks for one.

Settings, configuration and the schema take their choices from here; :mod:`fc_kernel.vmm.monitors` says how each is found and
made. A new monitor is a row here, a row there, and a driver.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Lets the host decide.
AUTO = "auto"


@dataclass(frozen=True)
class MonitorName:
    """One monitor. One that is ``for_tests`` isolates nothing: only a trusted source may choose it, and ``auto`` never does."""

    name: str
    for_tests: bool = False


MONITOR_NAMES = (
    MonitorName("firecracker"),
    MonitorName("qemu"),
    MonitorName("fake", for_tests=True),
)
#: What a setting may say.
CHOICES = (AUTO, *(row.name for row in MONITOR_NAMES))
FOR_TESTS = frozenset(row.name for row in MONITOR_NAMES if row.for_tests)
#: What anybody may ask for.
OPEN_TO_ALL = tuple(name for name in CHOICES if name not in FOR_TESTS)


def in_words(names: tuple[str, ...]) -> str:
    """``a, b or c``."""
    return f"{', '.join(names[:-1])} or {names[-1]}"
