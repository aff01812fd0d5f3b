"""The reference says all that the code has."""

from __future__ import annotations

from pathlib import Path

import pytest
from generated import MARK, PARTS, commands
from generated.markdown import code, prose, table
from generated.settings import type_of

from fc_kernel.api.openapi import description
from fc_kernel.cli.command import Command, CommandGroup
from fc_kernel.server.routes import ROUTES
from fc_kernel.settings.config import FcKernelConfig
from fc_kernel.settings.kernel_settings import json_schema

ROOT = Path(__file__).parents[2]


def test_every_part_is_on_one_page() -> None:
    pages = [page.read_text() for page in (ROOT / "docs/reference").glob("*.md")]
    assert sorted(name for page in pages for name in MARK.findall(page)) == sorted(PARTS)


def test_every_setting() -> None:
    schema = json_schema()
    text = PARTS["settings"]()
    for holder in (schema, *schema["$defs"].values()):
        for name, field in holder["properties"].items():
            assert f"| `{name}` |" in text
            assert " ".join(prose(field["description"]).split()) in text


def test_every_option_of_the_administrator() -> None:
    text = PARTS["configuration"]()
    for name, trait in FcKernelConfig.class_traits(config=True).items():
        assert f"| `{name}` |" in text
        assert prose(trait.help).partition("|")[0] in text


def test_every_command_with_its_options() -> None:
    text = PARTS["commands"]()
    found = list(commands.tree())
    assert {"fc-kernel doctor", "fc-kernel image build", "fc-kernel snapshot create"} <= {
        words for words, _, _ in found
    }
    for words, command, _line in found:
        section = text.partition(f"## {words}\n")[2].partition("\n## ")[0]
        assert section
        if not issubclass(command, CommandGroup):
            assert words in section.partition("```\n")[2]
            for names in {*command.aliases, *command.flags} - {*Command.aliases, *Command.flags}:
                for name in (names,) if isinstance(names, str) else names:
                    assert f"`{'-' if len(name) == 1 else '--'}{name}`" in section


def test_every_operation_and_model() -> None:
    text = PARTS["rest"]()
    document = description(ROUTES)
    for path, item in document["paths"].items():
        for method in item.keys() - {"parameters"}:
            assert f"## {method.upper()} {path}\n" in text
    for name in document["components"]["schemas"]:
        assert f"### {name}\n" in text


def test_every_event() -> None:
    text = PARTS["events"]()
    for name in ("StateChanged", "SnapshotTaken", "SnapshotRestored", "KernelForked", "SnapshotDeleted"):
        assert f"## {name}\n" in text


@pytest.mark.parametrize(
    ("field", "said"),
    [
        (
            {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 255}, {"type": "null"}]},
            "integer, at least 1, at most 255",
        ),
        ({"type": "array", "items": {"$ref": "#/$defs/DriveSpec"}}, "list of [DriveSpec](#drivespec)"),
        ({"enum": ["a", "b"]}, "`a`, `b`"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 3600.0}, "number, above 0, at most 3,600"),
        ({"type": "string", "format": "path"}, "path"),
        ({}, "any"),
    ],
)
def test_types_in_words(field: dict[str, object], said: str) -> None:
    assert type_of(field) == said


def test_markdown() -> None:
    assert table(["a", "b"], [["x|y", "two\nlines"]]).splitlines()[-1] == "| x\\|y | two lines |"
    assert code("") == ""
    assert code("a`b") == "`` a`b ``"
    assert prose("See :class:`~fc_kernel.errors.SpecError` and ``x``.") == "See `SpecError` and `x`."
