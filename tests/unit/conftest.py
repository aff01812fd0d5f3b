"""The command line, called in this process."""

from __future__ import annotations

from collections.abc import Callable
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


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Called]:
    """Call ``fc-kernel`` with these words, as its entry point does."""

    def call(*words: str) -> Called:
        capsys.readouterr()
        app = FcKernelApp()
        try:
            with pytest.raises(SystemExit) as caught:
                app.initialize(list(words))
                app.start()
        finally:
            app_or_command: Any = app
            while app_or_command is not None:
                # Applications are singletons of their process; the next call gets one of its own.
                if isinstance(app_or_command, SingletonConfigurable):
                    type(app_or_command).clear_instance()
                app_or_command = getattr(app_or_command, "subapp", None)
        code = caught.value.code
        out, err = capsys.readouterr()
        return Called(code if isinstance(code, int) else 0 if code is None else 1, out, err)

    return call
