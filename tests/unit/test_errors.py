"""The tree of errors is what its docstring says, and every message fits into a browser's dialog."""

from __future__ import annotations

import inspect
import pickle
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fc_kernel
from fc_kernel import errors
from fc_kernel.errors import FcKernelError, LaunchError, LimitError, SpecError, UnsupportedByMonitor


def tree_of_the_docstring() -> dict[str, str]:
    """Name of each class → name of its base, from the drawing."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        drawn = re.match(r"    ((?:│   |    )*)(?:[├└]── )?(\w+)", line)
        if drawn is None:
            continue
        depth = len(drawn[1]) // 4 + (1 if "──" in line else 0)
        del path[depth:]
        if path:
            parents[drawn[2]] = path[-1]
        path.append(drawn[2])
    return parents


def tree_of_the_classes() -> dict[str, str]:
    return {
        name: member.__bases__[0].__name__
        for name, member in vars(errors).items()
        if inspect.isclass(member) and issubclass(member, FcKernelError) and member is not FcKernelError
    }


def test_the_drawing_is_the_truth() -> None:
    assert tree_of_the_docstring() == tree_of_the_classes()
    assert len(tree_of_the_classes()) > 20


def test_the_base_is_exported() -> None:
    assert fc_kernel.FcKernelError is FcKernelError
    assert FcKernelError.__bases__ == (Exception,)


def test_every_class_says_what_it_is() -> None:
    for name in tree_of_the_classes():
        assert re.match(r"[A-Z][^\n]+[.;](\s|$)", inspect.getdoc(getattr(errors, name)) or ""), name


def test_a_spec_error_keeps_what_it_is_about() -> None:
    error = SpecError("vcpu_count", "2", "a whole number", source="notebook")
    assert (error.field, error.value, error.allowed, error.source) == ("vcpu_count", "2", "a whole number", "notebook")
    assert str(error) == "vcpu_count (from notebook) is '2'; allowed: a whole number"
    assert str(LimitError("vcpu_count", 9, "at most 8")) == "vcpu_count is 9; allowed: at most 8"


class Evil:
    def __repr__(self) -> str:
        return "two\nlines\x1b[31m" + "x" * 1000


anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.just(Evil()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner) | st.sets(st.integers()),
)


@given(field=st.text(), value=anything, allowed=st.text(st.characters(categories=["L", "N", "Zs"], max_codepoint=126)))
def test_a_message_is_one_short_line(field: str, value: object, allowed: str) -> None:
    message = str(SpecError(field, value, allowed, source="kernelspec"))
    assert len(message) < 400
    assert message.isprintable()
    assert re.fullmatch(r".+ \(from kernelspec\) is .+; allowed: .*", message)


@pytest.mark.parametrize(
    "value",
    [
        "x" * 5_000_000,
        [1] * 500_000,
        {"a": ["x" * 5_000_000]},
        10**5000,
        [10**5000],
        b"x" * 5_000_000,
        {10**5000: 1},
    ],
    ids=["text", "list", "nested text", "integer", "integer in a list", "bytes", "integer as a name"],
)
def test_a_large_value_is_cut(value: object) -> None:
    message = str(SpecError("field", value, "less"))
    assert len(message) <= len("field is ; allowed: less") + errors.MAX_SHOWN_VALUE


def test_a_launch_error_carries_the_console() -> None:
    error = LaunchError("the guest ended", console=["panic", "reboot"])
    assert error.console == ("panic", "reboot")
    assert str(error) == "the guest ended\nlast lines of the console:\n  | panic\n  | reboot"
    assert str(LaunchError("the guest ended")) == "the guest ended"


def test_what_a_monitor_cannot_do_names_both_versions() -> None:
    error = UnsupportedByMonitor("vsock_override", needs="Firecracker 1.16", found="Firecracker 1.12.1")
    assert str(error) == "vsock_override needs Firecracker 1.16; found Firecracker 1.12.1"
    assert (error.what, error.needs, error.found) == ("vsock_override", "Firecracker 1.16", "Firecracker 1.12.1")


EXAMPLES: dict[str, FcKernelError] = {
    "SpecError": SpecError("a", 1, "b", source="c"),
    "LimitError": LimitError("a", 1, "b", source="c"),
    "UnsupportedByMonitor": UnsupportedByMonitor("a", needs="b", found="c"),
    "LaunchError": LaunchError("a", console=["b"]),
    "MonitorExited": errors.MonitorExited("a", returncode=-9),
    "MonitorApiError": errors.MonitorApiError("a", status=400),
    "AgentError": errors.AgentError("a", code=-32000),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_errors_cross_a_process_boundary(name: str) -> None:
    error = EXAMPLES[name]
    same = pickle.loads(pickle.dumps(error))
    assert type(same) is type(error)
    assert str(same) == str(error)
    assert vars(same) == vars(error)
