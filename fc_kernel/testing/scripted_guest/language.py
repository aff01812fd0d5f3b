"""The language of a scripted guest's cells: assignments, expressions of plain data, a few functions, magics.

There are no loops and no methods. A cell is a list of statements, and all values are JSON's, so that a running cell can be
saved as a position and some data.
"""

from __future__ import annotations

import ast
import operator
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

#: Functions that take time. They stand alone in a statement, or at the right of an assignment.
WAITING = ("sleep", "stream", "input", "native")
#: Cells come from tests, which make mistakes: no value takes more memory than this.
MAX_BYTES = 64 << 20
MAX_BITS = 4096

BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip
UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_,
}  # fmt: skip
COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip
PURE: dict[str, Callable[..., Any]] = {
    "len": len, "str": str, "int": int, "float": float, "repr": repr, "abs": abs, "min": min, "max": max, "sum": sum,
    "sorted": sorted, "round": round,
}  # fmt: skip


class CellError(Exception):
    """A cell's own error, as its reply says it."""

    def __init__(self, ename: str, evalue: str) -> None:
        self.ename = ename
        self.evalue = evalue
        super().__init__(f"{ename}: {evalue}")


@dataclass(frozen=True)
class Statement:
    """One step of a cell: a magic (its name and the words after it), or a value and perhaps the name that gets it."""

    magic: str = ""
    words: tuple[str, ...] = ()
    target: str = ""
    value: ast.expr | None = None

    @property
    def waiting(self) -> str:
        """The function that takes time, when that is what the value is."""
        call = self.value
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in WAITING:
            return call.func.id
        return ""


def statements(code: str) -> list[Statement]:
    """The steps of a cell; raises :class:`CellError`."""
    found: list[Statement] = []
    lines: list[str] = []
    for line in [*code.splitlines(), "%"]:
        if not line.startswith("%"):
            lines.append(line)
            continue
        found += _parsed("\n".join(lines))
        lines.clear()
        if line != "%":
            found.append(_magic(line))
    return found


def _magic(line: str) -> Statement:
    try:
        name, *words = shlex.split(line[1:])
    except ValueError as error:
        raise CellError("UsageError", f"{line}: {error}") from None
    return Statement(magic=name, words=tuple(words))


def _parsed(code: str) -> list[Statement]:
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CellError("SyntaxError", str(error)) from None
    return [statement for node in body if not isinstance(node, ast.Pass) for statement in [_statement(node)]]


def _statement(node: ast.stmt) -> Statement:
    if isinstance(node, ast.Expr):
        return Statement(value=node.value)
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return Statement(target=node.targets[0].id, value=node.value)
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        left = ast.Name(node.target.id, ast.Load())
        return Statement(target=node.target.id, value=ast.BinOp(left, node.op, node.value))
    raise CellError("SyntaxError", f"a scripted guest knows no {type(node).__name__}")


Functions = Mapping[str, Callable[..., Any]]


def evaluate(node: ast.expr, names: Mapping[str, Any], functions: Functions) -> Any:
    """A value of plain data; raises :class:`CellError`, and what the functions raise of it."""
    try:
        return _Evaluation(names, {**PURE, **functions}).of(node)
    except CellError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise CellError(type(error).__name__, str(error)) from None


def arguments(node: ast.expr, names: Mapping[str, Any], functions: Functions) -> list[Any]:
    """The arguments of a call; raises :class:`CellError`."""
    assert isinstance(node, ast.Call)  # noqa: S101 - a waiting statement's value is one
    if node.keywords:
        raise CellError("TypeError", "a scripted guest knows no keyword arguments")
    return [evaluate(each, names, functions) for each in node.args]


class _Evaluation:
    def __init__(self, names: Mapping[str, Any], functions: Functions) -> None:
        self._names = names
        self._functions = functions

    def of(self, node: ast.expr) -> Any:
        """The value of an expression."""
        kind = getattr(self, f"_{type(node).__name__.lower()}", None)
        if kind is None:
            raise CellError("SyntaxError", f"a scripted guest knows no {type(node).__name__}")
        return kind(node)

    def _constant(self, node: ast.Constant) -> Any:
        if not isinstance(node.value, (str, int, float, bool, type(None))):
            raise CellError("SyntaxError", f"a scripted guest knows no {type(node.value).__name__}")
        return node.value

    def _name(self, node: ast.Name) -> Any:
        if node.id not in self._names:
            raise CellError("NameError", f"name {node.id!r} is not defined")
        return self._names[node.id]

    def _list(self, node: ast.List | ast.Tuple) -> list[Any]:
        return [self.of(each) for each in node.elts]

    _tuple = _list

    def _dict(self, node: ast.Dict) -> dict[str, Any]:
        pairs = {}
        for key, value in zip(node.keys, node.values, strict=True):
            name = self.of(key) if key is not None else None
            if not isinstance(name, str):
                raise CellError("TypeError", "keys of a dict are strings here")
            pairs[name] = self.of(value)
        return pairs

    def _binop(self, node: ast.BinOp) -> Any:
        left, right = self.of(node.left), self.of(node.right)
        if type(node.op) not in BINARY or (isinstance(node.op, ast.Mod) and isinstance(left, str)):
            raise CellError("SyntaxError", f"a scripted guest knows no {type(node.op).__name__} of these")
        if isinstance(node.op, ast.Mult):
            _check_product(left, right)
        return BINARY[type(node.op)](left, right)

    def _unaryop(self, node: ast.UnaryOp) -> Any:
        if type(node.op) not in UNARY:
            raise CellError("SyntaxError", f"a scripted guest knows no {type(node.op).__name__}")
        return UNARY[type(node.op)](self.of(node.operand))

    def _boolop(self, node: ast.BoolOp) -> Any:
        value = None
        for each in node.values:
            value = self.of(each)
            if bool(value) is isinstance(node.op, ast.Or):
                break
        return value

    def _compare(self, node: ast.Compare) -> bool:
        left = self.of(node.left)
        for kind, operand in zip(node.ops, node.comparators, strict=True):
            right = self.of(operand)
            if type(kind) not in COMPARE:
                raise CellError("SyntaxError", f"a scripted guest knows no {type(kind).__name__}")
            if not COMPARE[type(kind)](left, right):
                return False
            left = right
        return True

    def _ifexp(self, node: ast.IfExp) -> Any:
        return self.of(node.body if self.of(node.test) else node.orelse)

    def _subscript(self, node: ast.Subscript) -> Any:
        return self.of(node.value)[self.of(node.slice)]

    def _joinedstr(self, node: ast.JoinedStr) -> str:
        return "".join(str(self.of(each)) for each in node.values)

    def _formattedvalue(self, node: ast.FormattedValue) -> str:
        if node.format_spec is not None or node.conversion != -1:
            raise CellError("SyntaxError", "a scripted guest knows no formats")
        return str(self.of(node.value))

    def _call(self, node: ast.Call) -> Any:
        if not isinstance(node.func, ast.Name) or node.keywords:
            raise CellError("SyntaxError", "a scripted guest calls functions by name, without keywords")
        if node.func.id in WAITING:
            raise CellError("SyntaxError", f"{node.func.id}() stands alone in a statement")
        if node.func.id not in self._functions:
            raise CellError("NameError", f"name {node.func.id!r} is not defined")
        return self._functions[node.func.id](*(self.of(each) for each in node.args))


def _check_product(left: Any, right: Any) -> None:
    for one, other in ((left, right), (right, left)):
        if isinstance(one, (str, list)) and isinstance(other, int) and len(one) * other > MAX_BYTES:
            raise CellError("MemoryError", f"more than {MAX_BYTES} bytes")
        if isinstance(one, int) and isinstance(other, int) and one.bit_length() + other.bit_length() > MAX_BITS:
            raise CellError("OverflowError", f"more than {MAX_BITS} bits")
