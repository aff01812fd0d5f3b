"""How a check says what it expects of a driver, and the errors if the driver does otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import FcKernelError


class ConformanceError(AssertionError):
    """A monitor's driver does not do what is promised."""


class NotPossibleHere(Exception):
    """A check needs something that this host lacks; the message says what."""


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
