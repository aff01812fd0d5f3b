"""What a check is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import FcKernelError
from ...vmm.base import Capability

if TYPE_CHECKING:
    from .bench import Bench


class ConformanceError(AssertionError):
    """A monitor's driver does not do what is promised."""


class NotPossibleHere(Exception):
    """A check needs something of the host that is not there; the message says what."""


@dataclass(frozen=True)
class Check:
    """One promise: checked where the driver has all of ``needs`` and none of ``lacks``."""

    name: str
    promise: str
    run: Callable[[Bench], Awaitable[None]]
    needs: frozenset[Capability]
    lacks: frozenset[Capability]

    def inapplicable(self, capabilities: frozenset[Capability]) -> str:
        """Why it is not checked for a driver with these capabilities; empty if it is."""
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


def expect(true: object, what: str) -> None:
    """Raise :class:`ConformanceError` with ``what`` unless ``true``. (An ``assert`` goes away under ``-O``.)"""
    if not true:
        raise ConformanceError(what)


class Refusal:
    """Filled in by :func:`refused`."""

    error: FcKernelError


@contextmanager
def refused(kind: type[FcKernelError], what: str) -> Iterator[Refusal]:
    """Expect the block to raise ``kind``."""
    refusal = Refusal()
    try:
        yield refusal
    except kind as error:
        refusal.error = error
    except FcKernelError as error:
        raise ConformanceError(f"{what} raised {type(error).__name__} instead of {kind.__name__}: {error}") from error
    else:
        raise ConformanceError(f"{what} did not raise {kind.__name__}")
