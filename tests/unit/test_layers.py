"""The package's shape: a module imports only from its own group or from a layer below; names, sizes, exports."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest

import fc_kernel
from fc_kernel.guest.payload import guest_files
from fc_kernel.testing.guest_services import FILES

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fc_kernel"
MAX_LINES, MEDIAN_LINES, MIN_LINES = 400, 200, 40

#: From the bottom. A group is one or more modules or packages; groups of one layer do not import each other.
LAYERS = [
    ["errors"],
    ["base", "wire"],
    ["memory", "guest"],
    ["settings"],
    ["headless", "channels"],
    ["vmm"],
    ["images", "snapshots"],
    ["machine"],
    ["supply"],
    ["api"],
    ["sessions"],
    ["host"],
    ["provisioner", "launcher", "papermill", "server"],
    ["cli"],
    ["testing"],
]
#: Modules of fewer than MIN_LINES lines, and why each is a file of its own. (A package's docstring alone needs no reason.)
SMALL = {
    "base.files": "read by the images' store, the snapshots' manifest and the notebook's settings alike",
    "api.from_store": "the one way from the store to the boundary; sessions and server use it",
    "base.text": "the one place that says what text of a guest is shown without; vmm, server and command line use it",
    "cli": "the entry point",
    "cli.__main__": "the entry point of python -m",
    "cli.app": "the table of commands; a command's module is imported only when it is asked for",
    "cli.schema": "a command; each has a module, because only the one that was asked for is imported",
    "guest.in_kernel": "what `import fc_kernel` gives in a microVM",
    "guest.kernel_app": "a program of its own, run by its path in the guest",
    "guest.payload": "the table of what is shipped into the guest; runs on the host only",
    "images.cpio": "a codec: one archive format and nothing else",
    "settings.loaded": "a rule of its own beside the sources' rules: what is loaded comes from none of them",
    "server": "what Jupyter Server looks for; it must import nothing",
    "sessions.incarnation": "what a session, its watchdog and all that is done to a kernel have in common",
    "server.loading": "above the handlers, which need the extension",
    "settings.monitors": "the table of names that settings, schema, configuration and the drivers share",
    "settings.tier": "a word of the settings, the drivers and the API, which do not import each other",
    "snapshots": "what the package exports",
    "supply.stores": "made from the configuration, by whoever has one",
    "testing": "what the package exports; also in a guest under test, so it must import nothing",
    "testing.conformance": "what the package exports",
    "testing.scripted_guest.__main__": "the entry point of python -m",
    "vmm.console": "a bounded buffer that every driver has, and knows nothing of any",
    "wire.ports": "constants of the protocol that host and guest share",
}

#: Group → its layer, and module or package → its group.
LAYER_OF = {group: number for number, groups in enumerate(LAYERS) for group in groups}
GROUP_OF = {name: group for group in LAYER_OF for name in group.split()}


def modules() -> dict[str, Path]:
    """Every module's name without the package's, and its file."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def group_of(module: str) -> str:
    """The group of the longest name in the table that the module is in."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (group := GROUP_OF.get(".".join(parts[:length]))) is not None:
            return group
    pytest.fail(f"fc_kernel.{module} is in no layer; put it into the table")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def is_module_getattr(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name == "__getattr__"


def imports(module: str, *, at_run_time: bool = False) -> Iterator[str]:
    """Absolute names of what a module imports, anywhere in it; ``at_run_time`` leaves out types and what is asked for."""
    path = MODULES[module]
    package = [*path.relative_to(ROOT).parts[:-1]]
    nodes: list[ast.AST] = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if at_run_time and (is_type_checking(node) or is_module_getattr(node)):
            continue
        nodes.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                yield whole if whole.removeprefix("fc_kernel.") in MODULES else source


def test_the_table_is_of_what_there_is() -> None:
    assert [name for name in GROUP_OF if name not in MODULES] == []
    assert len(GROUP_OF) == sum(len(group.split()) for group in LAYER_OF)


@pytest.mark.parametrize("module", sorted(set(MODULES) - {""}))
def test_a_module_imports_from_its_own_group_or_below(module: str) -> None:
    own = group_of(module)
    upward = []
    for name in imports(module):
        if not name.startswith("fc_kernel."):
            continue
        other = group_of(name.removeprefix("fc_kernel."))
        if other != own and LAYER_OF[other] >= LAYER_OF[own]:
            upward.append(name)
    assert upward == []


def graph() -> dict[str, set[str]]:
    """Module → the modules that it imports anywhere in it: in functions and for types, too.

    The package itself is left out. It exports what is above everything, but imports it only when it is asked for.
    """
    return {
        module: {name.removeprefix("fc_kernel.") for name in imports(module)} & set(MODULES) - {module}
        for module in sorted(set(MODULES) - {""})
    }


def reachable(edges: dict[str, set[str]], start: str) -> set[str]:
    """Where one comes from ``start``; ``start`` itself only by a circle."""
    found: set[str] = set()
    ahead = [*edges[start]]
    while ahead:
        if (module := ahead.pop()) not in found:
            found.add(module)
            ahead.extend(edges[module])
    return found


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules of which each reaches each other (strongly connected components)."""
    reach = {module: reachable(edges, module) for module in edges}
    found: list[set[str]] = []
    for module in edges:
        if module in reach[module] and not any(module in circle for circle in found):
            found.append({other for other in reach[module] if module in reach[other]})
    return found


def test_a_circle_would_be_found() -> None:
    edges = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": {"e"}, "e": {"f", "d"}, "f": set[str]()}
    assert circles(edges) == [{"b", "c"}, {"d", "e"}]


def test_no_modules_import_each_other() -> None:
    """Neither at run time nor for types, nor one inside a function: a circle has no lowest module that could be read first."""
    assert circles(graph()) == []


def test_the_package_itself_imports_nothing_of_its_own() -> None:
    assert [name for name in imports("", at_run_time=True) if name.startswith("fc_kernel")] == []
    code = "import fc_kernel, sys; print(*[name for name in sys.modules if name.startswith('fc_kernel.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_nothing_but_tests_names_the_tests_own_package() -> None:
    """No import, and no name in a string either: it is a leaf."""
    named = re.compile(r"fc_kernel[./]testing|(?<![\w.])testing[./]\w")
    found = [
        name for name, path in MODULES.items() if not name.startswith("testing") and named.search(path.read_text())
    ]
    assert found == []


def shipped() -> list[str]:
    """Modules in the guest, and those in a guest under test."""
    paths = [path if path != "main.py" else "fc_kernel/guest/main.py" for path in guest_files(FILES)]
    return sorted(name for name, path in MODULES.items() if str(path.relative_to(ROOT)) in paths)


def test_what_is_shipped_is_there() -> None:
    assert len(shipped()) == len(guest_files(FILES))
    assert not [name for name in guest_files() if "testing" in name]
    assert {"guest.main", "guest.agent", "wire.link", "wire.mux", "errors", ""} <= set(shipped())


#: What runs in the kernel's process, not in the agent's.
IN_THE_KERNEL = ("guest.kernel_app", "guest.in_kernel")


@pytest.mark.parametrize("module", shipped())
def test_the_guest_needs_only_python_and_zmq(module: str) -> None:
    allowed = {f"fc_kernel.{name}".rstrip(".") for name in shipped()}
    in_the_kernel = module.startswith(IN_THE_KERNEL)
    packages = {*sys.stdlib_module_names, "zmq", *(["ipykernel", "IPython", "traitlets"] if in_the_kernel else [])}
    foreign = [
        name
        for name in imports(module, at_run_time=True)
        if name.partition(".")[0] not in packages and name not in allowed
    ]
    assert foreign == []
    if not in_the_kernel:
        theirs = tuple(f"fc_kernel.{name}" for name in IN_THE_KERNEL)
        assert not [name for name in imports(module, at_run_time=True) if name.startswith(theirs)]


@pytest.mark.parametrize("module", shipped())
def test_the_guest_may_have_an_older_python(module: str) -> None:
    ast.parse(MODULES[module].read_text(), feature_version=(3, 9))


@pytest.mark.parametrize("word", ["util", "helper", "manager", "misc", "common"])
def test_no_module_is_named_for_nothing(word: str) -> None:
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
    assert [str(path) for path in files if word in path.stem.lower()] == []


def test_no_module_is_too_long() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for directory in ("fc_kernel", "tests", "scripts")
        for path in (ROOT / directory).rglob("*.py")
    }
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}
    assert statistics.median(length for name, length in lengths.items() if name.startswith("fc_kernel")) < MEDIAN_LINES


def test_a_small_module_has_a_reason() -> None:
    texts = {name: path.read_text() for name, path in MODULES.items()}
    small = {name for name, text in texts.items() if len(text.splitlines()) < MIN_LINES}
    only_docstrings = {name for name in small if len(ast.parse(texts[name]).body) == 1}
    assert sorted(small - only_docstrings - set(SMALL)) == [], "put it where it is used, or say in SMALL why not"
    assert sorted(set(SMALL) - set(MODULES)) == [], "these modules are gone; take them off SMALL"


def test_every_module_says_what_it_is() -> None:
    assert [name for name, path in MODULES.items() if not ast.get_docstring(ast.parse(path.read_text()))] == []


def exporting() -> list[str]:
    return [name for name, path in MODULES.items() if re.search(r"^__all__\b", path.read_text(), re.MULTILINE)]


@pytest.mark.parametrize("module", exporting())
def test_all_is_what_is_exported(module: str) -> None:
    imported = import_module(f"fc_kernel.{module}".rstrip("."))
    assert len(set(imported.__all__)) == len(imported.__all__)
    for name in imported.__all__:
        assert getattr(imported, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        imported.no_such_name  # noqa: B018


def test_what_the_package_exports_is_what_type_checkers_see() -> None:
    tree = ast.parse(MODULES[""].read_text())
    (block,) = (node for node in tree.body if is_type_checking(node))
    seen = {
        alias.asname: f".{node.module}"
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == fc_kernel._EXPORTS
    assert set(fc_kernel.__all__) == {*fc_kernel._EXPORTS, "__version__"}


def test_every_module_can_be_imported_first(tmp_path: Path) -> None:
    """No import works only because another module was imported before."""
    names = [
        module.name for module in walk_packages([str(PACKAGE)], "fc_kernel.") if not module.name.endswith("__main__")
    ]
    code = """
import gc, importlib, sys
gc.disable()  # every module is made anew for each; looking for what can go would take longer
import papermill  # it imports the engine by its entry point
# Compiled once, also where the environment says that no bytecode is to be written.
sys.dont_write_bytecode, sys.pycache_prefix = False, sys.argv.pop()
for name in sys.argv[1:]:
    for known in [known for known in sys.modules if known.partition(".")[0] == "fc_kernel"]:
        del sys.modules[known]
    importlib.import_module(name)
    print(name)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *names, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == names


def test_the_version_is_in_the_changelog() -> None:
    headings = re.findall(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert re.fullmatch(r"\d+\.\d+\.\d+", fc_kernel.__version__)
    assert fc_kernel.__version__ in headings
    assert set(headings[: headings.index(fc_kernel.__version__)]) <= {"Unreleased"}
