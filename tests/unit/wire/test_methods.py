"""The protocol's names are written in one place: no module of host or guest spells one out."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from fc_kernel.wire import methods, operations

PACKAGE = Path(methods.__file__).parents[1]
SPEAKERS = sorted(
    path
    for part in ("guest", "machine", "sessions", "supply", "testing/scripted_guest")
    for path in (PACKAGE / part).rglob("*.py")
)
#: Names that are the protocol's and nobody else's. The others are also plain words, such as ``snapshot``.
OURS = {
    *(name for name in (*methods.METHODS, *methods.NOTIFICATIONS) if "." in name),
    *(value for name, value in vars(operations).items() if name.endswith("_VARIABLE")),
}
#: As the first argument of a call, or compared with a method or an operation, the plain words are names.
WORDS = {
    *methods.METHODS, *operations.OPERATIONS, operations.THREAD_READY, operations.PREPARE, operations.PREPARED,
    operations.RENEW, operations.RENEWED, operations.REHEARSED, operations.GO_ON,
}  # fmt: skip
CALLS = {"call", "_call", "notify", "_notify", "request", "_aware", "at"}
CODES = {value for name, value in vars(methods).items() if isinstance(value, int) and value < 0}


def strings(tree: ast.AST) -> Iterator[str]:
    """All strings but docstrings, which may name what they like."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def named(tree: ast.AST) -> Iterator[object]:
    """Constants in the places where a method or an operation is named."""
    for node in ast.walk(tree):
        places: list[ast.expr | None] = []
        if isinstance(node, ast.Call) and node.args:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            places = [node.args[0]] if name in CALLS else []
        elif isinstance(node, ast.Dict):
            # An order or a request: ``{"op": …}``.
            pairs = zip(node.keys, node.values, strict=True)
            places = [value for key, value in pairs if isinstance(key, ast.Constant) and key.value == "op"]
        elif isinstance(node, ast.Compare) and any(word in ast.unparse(node.left) for word in ("op", "method")):
            places = [*node.comparators]
        for place in places:
            for constant in ast.walk(place) if place is not None else ():
                if isinstance(constant, ast.Constant):
                    yield constant.value


def codes(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = getattr(node.operand, "value", None)
            if isinstance(value, int):
                yield -value


@pytest.mark.parametrize("path", SPEAKERS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_spells_out_a_name_or_a_code(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert sorted(OURS & set(strings(tree))) == []
    assert sorted(WORDS & {each for each in named(tree) if isinstance(each, str)}) == []
    assert sorted(CODES & set(codes(tree))) == []


def test_the_search_would_find_them() -> None:
    tree = ast.parse(
        "def f(self):\n    '''kernel.exited'''\n    self.call('freeze', x=1)\n    tell({'op': 'renew'})\n"
        "    if op == 'fork' or method == 'ping' or method in ('thaw',):\n        raise E(-32601, 'kernel.start')\n"
    )
    assert OURS & set(strings(tree)) == {"kernel.start"}
    assert WORDS & set(named(tree)) == {"freeze", "renew", "fork", "ping", "thaw"}
    assert CODES & set(codes(tree)) == {methods.NO_SUCH_METHOD}


def test_no_two_names_are_the_same() -> None:
    everything = (*methods.METHODS, *methods.NOTIFICATIONS)
    assert len(set(everything)) == len(everything)
    spelled = {value for name, value in vars(methods).items() if name.isupper() and isinstance(value, str)}
    assert spelled - set(methods.ROLES) == set(everything), "METHODS and NOTIFICATIONS are all that there are"
    assert len(CODES) == 6
    assert set(operations.COPYING) < set(operations.OPERATIONS)


def test_they_need_nothing_but_python() -> None:
    for module in (methods, operations):
        tree = ast.parse(Path(str(module.__file__)).read_text(), feature_version=(3, 9))
        imported = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert {node.module for node in imported if isinstance(node, ast.ImportFrom)} <= {"__future__", "typing"}
        assert not [node for node in imported if isinstance(node, ast.Import)]
