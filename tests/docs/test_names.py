"""What the documentation names exists: files, tests, modules and their contents, commands, options, settings, links."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from generated import commands

from fc_kernel.settings.config import FcKernelConfig
from fc_kernel.settings.kernel_settings import KernelSettings

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fc_kernel"
BUILT = ROOT / "docs/_build"
PAGES = sorted(
    [
        *(path for path in (ROOT / "docs").rglob("*.md") if BUILT not in path.parents),
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
    ]
)
#: Directories whose files are named from the root, and those of the package, which architecture pages name without it.
TOP = ("fc_kernel", "tests", "scripts", "docs", "labextension", "kernelspec", "examples")
WITHIN = tuple(path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name not in ("docs", "labextension"))

CODE_BLOCK = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
PATH = re.compile(rf"(?:{'|'.join((*TOP, *WITHIN))})/[\w./*-]*\w[\w*/]*")
DOTTED = re.compile(r"(?<![\w./-])fc_kernel(?:\.\w+)+")
OPTION = re.compile(r"\bFcKernelConfig\.(\w+)")
AUTODOC = re.compile(r"^\.\. auto\w+:: ([\w.]+)", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")


def spans(page: Path) -> Iterator[str]:
    """Inline code of a page."""
    yield from CODE.findall(CODE_BLOCK.sub("", page.read_text()))


def called(page: Path) -> str:
    return str(page.relative_to(ROOT))


each_page = pytest.mark.parametrize("page", PAGES, ids=called)


@each_page
def test_files(page: Path) -> None:
    named = {span.partition("::")[0] for span in spans(page) if PATH.fullmatch(span.partition("::")[0].rstrip("/"))}
    # What a build makes is there only afterwards.
    made = str(BUILT.relative_to(ROOT))
    missing = [name for name in named - {made} if not any(any(base.glob(name.rstrip("/"))) for base in (ROOT, PACKAGE))]
    assert missing == []


@each_page
def test_tests(page: Path) -> None:
    for file, name in TEST.findall(page.read_text()):
        tree = ast.parse((ROOT / file).read_text())
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert name in functions, f"{file} has no {name}"


def exists(dotted: str) -> bool:
    """Whether a module, or something in one, has that name; in the guest, ``fc_kernel`` has what its own package has."""
    for start in (dotted, dotted.replace("fc_kernel.", "fc_kernel.guest.in_kernel.", 1)):
        parts = start.split(".")
        for length in range(len(parts), 0, -1):
            try:
                found: object = import_module(".".join(parts[:length]))
            except ModuleNotFoundError:
                continue
            for attribute in parts[length:]:
                found = getattr(found, attribute, None)
            if found is not None:
                return True
            break
    return False


@each_page
def test_dotted_names(page: Path) -> None:
    named = {name for span in spans(page) for name in DOTTED.findall(span)}
    named.update(name for name in AUTODOC.findall(page.read_text()) if name.startswith("fc_kernel."))
    assert [name for name in sorted(named) if not exists(name)] == []


@each_page
def test_options(page: Path) -> None:
    known = FcKernelConfig.class_trait_names(config=True)
    assert [name for name in OPTION.findall(page.read_text()) if name not in known] == []


def words_of(text: str) -> Iterator[str]:
    """``fc-kernel`` and the words after it, wherever they are meant to be typed."""
    yield from re.findall(r"(?:^|`|\$ |jupyter )fc-kernel((?: [a-z]+)+)", text, re.MULTILINE)


@each_page
def test_commands(page: Path) -> None:
    tree = list(commands.tree())
    known = {words for words, _, _ in tree}
    groups = {" ".join(words.split()[:2]) for words in known if len(words.split()) > 2}
    for words in words_of(page.read_text()):
        length = 2 if f"fc-kernel {words.split()[0]}" in groups and len(words.split()) > 1 else 1
        assert " ".join(["fc-kernel", *words.split()[:length]]) in known


@each_page
def test_links(page: Path) -> None:
    """Links to files of the checkout; within the site Sphinx looks at the anchors, too."""
    targets = [target.partition("#")[0] for target in LINK.findall(page.read_text()) if "://" not in target]
    assert [target for target in targets if target and not (page.parent / target).exists()] == []


def test_labels_of_the_extension() -> None:
    """A command of JupyterLab is called what its label says."""
    sources = "\n".join(path.read_text() for path in (ROOT / "labextension/src").glob("commands.ts"))
    text = " ".join("\n".join(page.read_text() for page in PAGES if page.parent.name in ("user", "admin")).split())
    named = set(re.findall(r"(?<!\*)\*([A-Z][a-zA-Z: ]*MicroVM(?: [a-zA-Z: ]*)?|MicroVM [A-Z][a-zA-Z: ]*)\*", text))
    assert named >= {"Show MicroVM Console"}
    assert [name for name in named if f"trans.__('{name}')" not in sources] == []


def test_settings_of_the_examples() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    objects = re.findall(r'"fc_kernel": (\{.*\})', text)
    names = {name for found in objects for name in re.findall(r'"(\w+)":', found)} - {"vm_id", "snapshot_id"}
    assert names
    assert names <= set(KernelSettings.model_fields)


def test_it_would_notice() -> None:
    """The patterns find what they are for."""
    assert PATH.fullmatch("vmm/base.py")
    assert PATH.fullmatch("tests/unit")
    assert PATH.fullmatch("fc_kernel/testing/scripted_guest")
    assert not exists("fc_kernel.vmm.base.NoSuchThing")
    assert not exists("fc_kernel.no_such_module")
    assert exists("fc_kernel.on_restore.remove")
    assert list(words_of("`fc-kernel snapshot list`")) == [" snapshot list"]
