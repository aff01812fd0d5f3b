"""Which notebook a kernel is started for, from what a client tells; and notebooks that are none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from jupyter_server.services.contents.filemanager import AsyncFileContentsManager, FileContentsManager

from fc_kernel.errors import SpecError
from fc_kernel.settings import notebook as notebook_module
from fc_kernel.settings.notebook import notebook_source, path_on_server

UUID = "0b5ed9ac-cd3b-4d4a-8d8d-0c1f6a0f7b1e"


def written(path: Path, vcpu_count: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "cells": [],
        "metadata": {"fc_kernel": {"vcpu_count": vcpu_count}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(document))
    return path


async def found(name: str | Path | None, cwd: Any = None, contents_manager: Any = None) -> int | None:
    environ = {} if name is None else {"JPY_SESSION_NAME": str(name)}
    source = await notebook_source(environ, cwd, contents_manager)
    if source is None:
        return None
    assert source.name == "notebook"
    assert not source.trusted
    return int(source.values["vcpu_count"])


async def test_jupyterlab_tells_the_absolute_path(tmp_path: Path) -> None:
    assert await found(written(tmp_path / "sub/a.ipynb"), tmp_path / "sub") == 2
    assert await found(written(tmp_path / "sub/a.ipynb")) == 2


async def test_a_path_relative_to_the_servers_root(tmp_path: Path) -> None:
    written(tmp_path / "sub/a.ipynb")
    assert await found("sub/a.ipynb", tmp_path) == 2
    assert await found("sub/a.ipynb", str(tmp_path / "sub")) == 2
    assert await found("sub/b.ipynb", tmp_path) is None


async def test_without_a_directory_it_is_the_present_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "a.ipynb")
    monkeypatch.chdir(tmp_path)
    assert await found("a.ipynb") == 2


async def test_vs_code_makes_up_a_name_beside_the_notebooks(tmp_path: Path) -> None:
    written(tmp_path / "a.ipynb")
    assert await found(tmp_path / f"a-jvsc-{UUID}.ipynb", tmp_path) == 2
    assert await found(tmp_path / "a-jvsc-short.ipynb", tmp_path) is None


async def test_a_drive_before_the_path(tmp_path: Path) -> None:
    written(tmp_path / "sub/a.ipynb")
    assert await found("RTC:sub/a.ipynb", tmp_path) == 2


@pytest.mark.parametrize("name", [None, "", "Console 1", "/root/Console 1", "a.py", "a.ipynb/", ".ipynb", "x\0.ipynb"])
async def test_sessions_that_are_no_notebook(name: str | None, tmp_path: Path) -> None:
    written(tmp_path / "a.ipynb")
    assert await found(name, tmp_path) is None


async def test_a_notebook_without_settings(tmp_path: Path) -> None:
    for text in (
        '{"metadata": {}}',
        '{"metadata": {"fc_kernel": null}}',
        "{}",
        '{"metadata": null}',
        '{"metadata": []}',
    ):
        (tmp_path / "a.ipynb").write_text(text)
        assert await notebook_source({"JPY_SESSION_NAME": "a.ipynb"}, tmp_path) is None


@pytest.mark.parametrize("value", ["text", [1, 2], 7, True, "x" * 1_000_000, list(range(1_000_000))])
async def test_settings_that_are_no_object(value: object, tmp_path: Path) -> None:
    (tmp_path / "a.ipynb").write_text(json.dumps({"metadata": {"fc_kernel": value}}))
    with pytest.raises(SpecError) as caught:
        await found("a.ipynb", tmp_path)
    assert caught.value.field == "metadata.fc_kernel"
    assert len(str(caught.value)) < 200


BROKEN = {
    "empty": b"",
    "no JSON": b"%PDF-1.4",
    "cut off": b'{"metadata": {"fc_kernel": {"vcpu_count": 2}}',
    "no UTF-8": b'{"metadata": {"fc_kernel": {"vcpu_count": 2}}, "x": "\xff"}',
    "deep": b"[" * 1_000_000,
    "deep settings": b'{"metadata":' * 100_000,
    "a number that Python does not read": b'{"metadata": {"fc_kernel": {"vcpu_count": ' + b"9" * 5000 + b"}}}",
    "a list": b"[]",
    "a string": b'"metadata"',
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_a_file_that_is_no_notebook_gives_no_settings(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.ipynb").write_bytes(BROKEN[kind])
    assert await found("a.ipynb", tmp_path) is None


async def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.ipynb")
    monkeypatch.setattr(notebook_module, "MAX_NOTEBOOK_BYTES", path.stat().st_size)
    assert await found(path) == 2
    monkeypatch.setattr(notebook_module, "MAX_NOTEBOOK_BYTES", path.stat().st_size - 1)
    assert await found(path) is None


async def test_a_huge_sparse_file_costs_nothing(tmp_path: Path) -> None:
    with (tmp_path / "a.ipynb").open("wb") as file:
        file.truncate(1 << 40)
    assert await found("a.ipynb", tmp_path) is None


async def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.ipynb")
    assert await found("a.ipynb", tmp_path) is None


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/stdin", "/nowhere", "a.ipynb", "."])
async def test_a_link_to_what_is_no_file(target: str, tmp_path: Path) -> None:
    (tmp_path / "a.ipynb").symlink_to(target)
    assert await found("a.ipynb", tmp_path) is None


async def test_a_link_to_a_notebook_is_one(tmp_path: Path) -> None:
    (tmp_path / "a.ipynb").symlink_to(written(tmp_path / "elsewhere/b.ipynb"))
    assert await found("a.ipynb", tmp_path) == 2


async def test_a_directory_is_no_notebook(tmp_path: Path) -> None:
    (tmp_path / "a.ipynb").mkdir()
    assert await found("a.ipynb", tmp_path) is None


async def test_a_notebook_named_outright(tmp_path: Path) -> None:
    chosen, other = written(tmp_path / "chosen.ipynb", 3), written(tmp_path / "a.ipynb", 2)
    environ = {"FC_KERNEL_NOTEBOOK": str(chosen), "JPY_SESSION_NAME": str(other)}
    source = await notebook_source(environ)
    assert source is not None
    assert source.values == {"vcpu_count": 3}
    assert await notebook_source({"FC_KERNEL_NOTEBOOK": str(tmp_path / "missing.ipynb")}) is None


@pytest.mark.parametrize("kind", [FileContentsManager, AsyncFileContentsManager])
async def test_the_servers_contents_manager_is_asked(kind: type[FileContentsManager], tmp_path: Path) -> None:
    written(tmp_path / "sub/a.ipynb", 3)
    manager = kind(root_dir=str(tmp_path))
    assert await found(tmp_path / "sub/a.ipynb", "/", manager) == 3
    assert await found("sub/a.ipynb", "/", manager) == 3
    assert await found("RTC:sub/a.ipynb", "/", manager) == 3
    assert await found(tmp_path / f"sub/a-jvsc-{UUID}.ipynb", "/", manager) == 3


@pytest.mark.parametrize("kind", [FileContentsManager, AsyncFileContentsManager])
async def test_what_the_contents_manager_does_not_know_is_looked_for_as_a_file(
    kind: type[FileContentsManager], tmp_path: Path
) -> None:
    written(tmp_path / "outside/a.ipynb", 3)
    (tmp_path / "root").mkdir()
    manager = kind(root_dir=str(tmp_path / "root"))
    assert await found(tmp_path / "outside/a.ipynb", "/", manager) == 3
    assert await found("missing.ipynb", tmp_path, manager) is None


async def test_the_contents_manager_is_not_asked_for_what_is_above_its_root(tmp_path: Path) -> None:
    written(tmp_path / "secret.ipynb", 3)
    (tmp_path / "root").mkdir()
    manager = FileContentsManager(root_dir=str(tmp_path / "root"))
    assert await found("../secret.ipynb", tmp_path / "root" / "sub", manager) is None


class Contents:
    """A contents manager of somebody else's, with an answer or an error."""

    def __init__(self, answer: Any, *, asynchronous: bool, root_dir: Any = "/root") -> None:
        self.answer, self.asynchronous, self.root_dir = answer, asynchronous, root_dir
        self.asked: list[str] = []

    def get(self, path: str, *, content: bool, type: str) -> Any:  # noqa: A002 - the interface's
        assert (content, type) == (True, "notebook")
        self.asked.append(path)
        if self.asynchronous:
            return self._later()
        return self._now()

    async def _later(self) -> Any:
        return self._now()

    def _now(self) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (RuntimeError("the store is down"), 2),
        (KeyError("content"), 2),
        (None, 2),
        ({}, 2),
        (7, 2),
        ({"content": None}, 2),
        ({"content": "text"}, None),
        ({"content": {"metadata": {}}}, None),
    ],
)
async def test_a_contents_manager_that_fails(
    answer: Any, expected: int | None, asynchronous: bool, tmp_path: Path
) -> None:
    written(tmp_path / "a.ipynb")
    manager = Contents(answer, asynchronous=asynchronous)
    assert await found("a.ipynb", tmp_path, manager) == expected
    assert manager.asked == ["a.ipynb"]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_notebooks_that_are_no_files(asynchronous: bool, tmp_path: Path) -> None:
    content = {"content": {"metadata": {"fc_kernel": {"vcpu_count": 5}}}}
    manager = Contents(content, asynchronous=asynchronous, root_dir=None)
    assert await found("bucket/a.ipynb", tmp_path, manager) == 5
    assert manager.asked == ["bucket/a.ipynb"]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("/srv/work/sub/n.ipynb", "sub/n.ipynb"),
        ("/srv/workshop/n.ipynb", "/srv/workshop/n.ipynb"),
        ("sub/n.ipynb", "sub/n.ipynb"),
        ("RTC:sub/n.ipynb", "sub/n.ipynb"),
        ("/srv/work/n-jvsc-" + "0" * 36 + ".ipynb", "n.ipynb"),
    ],
)
def test_a_sessions_name_as_the_server_has_it(name: str, path: str) -> None:
    class Contents:
        root_dir = "/srv/work"

    assert path_on_server(name, Contents()) == path
    assert path_on_server("n.ipynb") == "n.ipynb"
