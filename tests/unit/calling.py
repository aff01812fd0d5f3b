"""The command line, called in this process."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import pytest
from traitlets.config import SingletonConfigurable

from fc_kernel.cli import FcKernelApp


@dataclass(frozen=True)
class Called:
    """What a command did: its exit status, and what it wrote."""

    status: int
    out: str
    err: str


def call(*words: str) -> Called:
    """Call ``fc-kernel`` with these words, as its entry point does."""
    app = FcKernelApp()
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as caught:
            _run(app, words)
    finally:
        each: Any = app
        while each is not None:
            # Applications are singletons of their process; the next call gets one of its own.
            if isinstance(each, SingletonConfigurable):
                type(each).clear_instance()
            each = getattr(each, "subapp", None)
    code = caught.value.code
    return Called(code if isinstance(code, int) else 0 if code is None else 1, out.getvalue(), err.getvalue())


def _run(app: FcKernelApp, words: tuple[str, ...]) -> None:
    app.initialize(list(words))
    app.start()
