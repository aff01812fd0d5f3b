"""Errors as data: what is raised on one side of the boundary is caught as the same on the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fc_kernel import errors
from fc_kernel.api.failures import crossing, error_of, failure_of
from fc_kernel.api.models import Failure
from fc_kernel.errors import FcKernelError, LaunchError, LimitError, SnapshotIncompatible, SpecError


def every(kind: type[FcKernelError]) -> Iterator[type[FcKernelError]]:
    yield kind
    for each in kind.__subclasses__():
        if each.__module__ == errors.__name__:
            yield from every(each)


MADE: dict[type[FcKernelError], FcKernelError] = {
    SpecError: SpecError("vcpu_count", 0, "at least 1", source="notebook"),
    LimitError: LimitError("mem_size_mib", 10**6, "at most 4096", source="call"),
    errors.UnsupportedByMonitor: errors.UnsupportedByMonitor("overrides", needs="1.12", found="1.10"),
    errors.SnapshotCorrupt: errors.SnapshotCorrupt("mem", "it is cut off"),
    SnapshotIncompatible: SnapshotIncompatible("cpu", have="a", want="b"),
    errors.MonitorExited: errors.MonitorExited("it ended", returncode=-9),
    errors.MonitorApiError: errors.MonitorApiError("no", status=400),
    errors.AgentError: errors.AgentError("no", code=-32000),
}
KINDS = list(dict.fromkeys(every(FcKernelError)))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_crosses(kind: type[FcKernelError]) -> None:
    error = MADE.get(kind) or kind(f"see /run/{kind.__name__}/x\nand more")
    made = error_of(Failure.model_validate_json(crossing(error).model_dump_json()))
    assert type(made) is kind
    assert str(made) == str(error)
    # What does not cross is there, and says nothing.
    assert vars(made).keys() >= vars(error).keys()


def test_what_is_kept_of_a_value_that_was_refused() -> None:
    made = error_of(crossing(MADE[SpecError]))
    assert isinstance(made, SpecError)
    assert (made.field, made.source) == ("vcpu_count", "notebook")


def test_the_console_crosses() -> None:
    error = LaunchError("it did not start", console=["Linux version", "Kernel panic"])
    made = error_of(Failure.model_validate_json(crossing(error).model_dump_json()))
    assert isinstance(made, LaunchError)
    assert made.console == error.console
    assert str(made) == str(error)


@pytest.mark.parametrize("reason", ["NoSuchError", "SpecError.__init__", "annotations", "Sequence", ""])
def test_a_class_that_is_none_of_ours(reason: str) -> None:
    made = error_of(Failure(message="no", reason=reason, details=[]))
    assert type(made) is FcKernelError
    assert str(made) == "no"


def test_a_browser_sees_no_paths_and_one_line() -> None:
    status, failure = failure_of(LaunchError("no place in /var/lib/x/y\nmore", console=["at /home/me/z"]))
    assert (status, failure.message, failure.details) == (500, "no place in …/y", ["at …/z"])
    status, failure = failure_of(MADE[LimitError])
    assert (status, failure.field, failure.source) == (422, "mem_size_mib", "call")
