"""Reference pages made of the code while the site is built, so that they cannot differ from it.

A page says ``<!-- generated: settings -->`` where the part is to be; see :data:`PARTS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .commands import command_line
from .rest import event_stream, rest_api
from .settings import configuration_table, settings_tables

#: Name of a part → what makes its Markdown.
PARTS: dict[str, Callable[[], str]] = {
    "settings": settings_tables,
    "configuration": configuration_table,
    "commands": command_line,
    "rest": rest_api,
    "events": event_stream,
}
MARK = re.compile(r"^<!-- generated: (\S+) -->$", re.MULTILINE)


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("source-read", _fill_in)
    app.connect("env-get-outdated", _always_read)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def _fill_in(_app: Any, _docname: str, source: list[str]) -> None:
    source[0] = MARK.sub(lambda mark: PARTS[mark[1]](), source[0])


def _always_read(_app: Any, env: Any, _added: Iterable[str], _changed: Any, _removed: Any) -> Sequence[str]:
    """The code may have changed though the page has not."""
    return [name for name in env.found_docs if MARK.search(env.doc2path(name).read_text())]
