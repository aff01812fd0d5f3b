"""The command line, from the commands' own help."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from fc_kernel.cli.app import FcKernelApp
from fc_kernel.cli.command import Command, CommandGroup

from .markdown import block, code, prose, table, trait_type


def tree(
    group: type[Any] = FcKernelApp, words: tuple[str, ...] = ("fc-kernel",)
) -> Iterator[tuple[str, type[Any], str]]:
    """Every command and group: its words, its class, and the one line that its group says of it."""
    for word, (named, line) in group.subcommands.items():
        command = _loaded(named) if isinstance(named, str) else named
        yield " ".join((*words, word)), command, line
        if issubclass(command, CommandGroup):
            yield from tree(command, (*words, word))


def _loaded(name: str) -> type[Any]:
    module, _, attribute = name.rpartition(".")
    found: type[Any] = getattr(import_module(module), attribute)
    return found


def command_line() -> str:
    """A section for each command."""
    parts = []
    for words, command, line in tree():
        parts.append(f"## {words}\n")
        if issubclass(command, CommandGroup):
            parts.append(f"{line}\n")
            continue
        parts.append(prose(str(command.description)).strip() + "\n")
        parts.append(block(f"{words} {_positional(command)}".rstrip() + (" [OPTIONS]" if _options(command) else "")))
        if options := _options(command):
            parts.append(table(["option", "meaning", "default"], options))
        if command.examples:
            parts.append(block(command.examples, "shell"))
    return "\n".join(parts)


def _positional(command: type[Command]) -> str:
    least, most = command.words
    if not command.words_shown:
        return ""
    shown = command.words_shown
    if not shown.startswith("KERNEL"):
        # Words of a sentence stand for what is to be given.
        shown = f"<{shown}>"
    return f"[{shown}]" if least == 0 and most != 0 else shown


def _options(command: type[Command]) -> list[list[str]]:
    """The command's own; those of every Jupyter application are said once on the page."""
    rows = []
    for names, target in command.aliases.items():
        if names in Command.aliases:
            continue
        owner, _, attribute = target.partition(".")
        trait: Any = next(getattr(kind, attribute) for kind in command.__mro__ if kind.__name__ == owner)
        default = trait.default()
        shown = "" if default in (None, "", []) else code(str(default))
        rows.append([f"{_names(names)} {trait_type(trait)}", prose(trait.help), shown])
    for names, (_config, help_line) in command.flags.items():
        if names not in Command.flags:
            rows.append([_names(names), prose(help_line), ""])
    return rows


def _names(names: str | tuple[str, ...]) -> str:
    each = (names,) if isinstance(names, str) else names
    return ", ".join(code(f"{'-' if len(name) == 1 else '--'}{name}") for name in each)
