"""The checks of the suite, and how one is registered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ...vmm.base import Capability
from .bench import Bench


@dataclass(frozen=True)
class Check:
    """One promise. It is checked where the driver has all capabilities in ``needs`` and none in ``lacks``."""

    name: str
    promise: str
    run: Callable[[Bench], Awaitable[None]]
    needs: frozenset[Capability]
    lacks: frozenset[Capability]

    def inapplicable(self, capabilities: frozenset[Capability]) -> str:
        """Why the check does not apply to a driver with these capabilities; empty if it does."""
        if missing := self.needs - capabilities:
            return "not promised: " + ", ".join(sorted(each.value for each in missing))
        if present := self.lacks & capabilities:
            return "it can: " + ", ".join(sorted(each.value for each in present))
        return ""


#: All checks, in the order of their definition.
CHECKS: list[Check] = []


def check(
    *needs: Capability, lacks: tuple[Capability, ...] = ()
) -> Callable[[Callable[[Bench], Awaitable[None]]], Callable[[Bench], Awaitable[None]]]:
    """Register a coroutine as a check; its docstring is the promise."""

    def register(run: Callable[[Bench], Awaitable[None]]) -> Callable[[Bench], Awaitable[None]]:
        name = run.__name__
        CHECKS.append(Check(name, " ".join((run.__doc__ or "").split()), run, frozenset(needs), frozenset(lacks)))
        return run

    return register
