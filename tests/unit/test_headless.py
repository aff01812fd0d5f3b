"""Which kernel a notebook gets without a browser: a microVM's, or a clear error, and never one on the host."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import papermill.engines  # it imports the engine itself, by its entry point
import pytest
from nbformat import NotebookNode

from fc_kernel import headless
from fc_kernel.errors import ConfigError, FcKernelError, SpecError
from fc_kernel.headless import execute, microvm_kernel, notebook_settings, read_notebook, require_microvm
from fc_kernel.settings.kernelspec import DEFAULT_NAME, Profile, install

HOSTS_OWN = {"argv": ["python"], "display_name": "Python", "language": "python", "metadata": {}}


@pytest.fixture(autouse=True)
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Kernelspecs: the default, a profile, one of the host's, and damaged ones."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share/jupyter"))
    install(Profile(), prefix=str(tmp_path))
    install(Profile(name="fc-big"), prefix=str(tmp_path))
    directory = tmp_path / "share/jupyter/kernels"
    for name, text in {
        "on-the-host": json.dumps(HOSTS_OWN),
        "odd": json.dumps({**HOSTS_OWN, "metadata": {"kernel_provisioner": "fc-provisioner"}}),
        "broken": "{",
        "a-list": "[]",
        "a-number": '{"argv": 5}',
    }.items():
        (directory / name).mkdir()
        (directory / name / "kernel.json").write_text(text)
    return directory


def notebook(**metadata: Any) -> NotebookNode:
    made: NotebookNode = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    made.metadata.update(nbformat.from_dict(metadata))
    return made


@pytest.mark.parametrize("name", [DEFAULT_NAME, "fc-big"])
def test_microvm_kernelspecs(name: str) -> None:
    require_microvm(name)
    assert microvm_kernel(notebook(kernelspec={"name": name})) == name


@pytest.mark.parametrize("name", ["on-the-host", "odd"])
def test_a_kernelspec_of_the_host_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="on this host, not in a microVM"):
        require_microvm(name)


@pytest.mark.parametrize("name", ["missing", "broken", "a-list", "a-number", "../odd", "", "a b", "ä"])
def test_there_is_no_such_kernelspec(name: str) -> None:
    with pytest.raises(ConfigError, match=r"there is no kernelspec .*; install it with: fc-kernel install"):
        require_microvm(name)


@pytest.mark.parametrize(
    "metadata", [{}, {"kernelspec": None}, {"kernelspec": {}}, {"kernelspec": {"name": "on-the-host"}}]
)
def test_a_python_notebook_gets_the_default(metadata: dict[str, Any]) -> None:
    assert microvm_kernel(notebook(**metadata)) == DEFAULT_NAME
    engine = papermill.engines.papermill_engines.get_engine("fc_kernel")
    assert engine.nb_kernel_name(notebook(**metadata)) == DEFAULT_NAME
    assert engine.nb_kernel_name(notebook(**metadata), "fc-big") == "fc-big"


@pytest.mark.parametrize(
    "metadata",
    [
        {"kernelspec": {"name": "ir", "language": "R"}},
        {"kernelspec": {"name": "ir"}, "language_info": {"name": "R"}},
        {"kernelspec": {"name": "ir", "language": "python"}, "language_info": {"name": "R"}},
    ],
)
def test_another_language_is_not_run_by_python(metadata: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"language is 'R', and its kernel 'ir' does not run in a microVM"):
        microvm_kernel(notebook(**metadata))


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"kernelspec": "fc-python3"}, "metadata.kernelspec"),
        ({"kernelspec": ["fc-python3"]}, "metadata.kernelspec"),
        ({"kernelspec": {"name": 5}}, "metadata.kernelspec.name"),
        ({"kernelspec": {"name": ["a"]}}, "metadata.kernelspec.name"),
        ({"kernelspec": {"name": "x"}, "language_info": "python"}, "metadata.language_info"),
        ({"fc_kernel": [1]}, "metadata.fc_kernel"),
        ({"fc_kernel": "big"}, "metadata.fc_kernel"),
    ],
)
def test_malformed_metadata(metadata: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        execute(notebook(**metadata))
    assert (caught.value.field, caught.value.source) == (field, "notebook")


def test_nothing_runs_on_the_host_by_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoClient:
        def __init__(self, *_: object, **__: object) -> None:
            pytest.fail("a client was made")

    monkeypatch.setattr(headless, "NotebookClient", NoClient)
    for name in ("on-the-host", "missing", "broken"):
        with pytest.raises(ConfigError):
            execute(notebook(), kernel_name=name)


def test_nor_by_papermill() -> None:
    engine = papermill.engines.papermill_engines.get_engine("fc_kernel")
    for name in ("on-the-host", "missing", "broken"):
        with pytest.raises(ConfigError):
            engine.execute_managed_notebook(SimpleNamespace(nb=notebook()), name)


class Client:
    """In nbclient's place: what it was given."""

    made: Client

    def __init__(self, notebook: NotebookNode, **options: Any) -> None:
        self.notebook, self.options = notebook, options
        Client.made = self

    def execute(self, **start: Any) -> NotebookNode:
        self.start = start
        return self.notebook


def test_the_settings_are_passed_to_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(headless, "NotebookClient", Client)
    given = notebook(fc_kernel={"vcpu_count": 2})
    assert execute(given, cwd=tmp_path, timeout=7, fc_kernel={"mem_size_mib": 300}) is given
    assert Client.made.start == {"fc_kernel_notebook": {"vcpu_count": 2}, "fc_kernel": {"mem_size_mib": 300}}
    assert Client.made.options["kernel_name"] == DEFAULT_NAME
    assert Client.made.options["timeout"] == 7
    assert Client.made.options["startup_timeout"] == 300
    assert Client.made.options["resources"] == {"metadata": {"path": str(tmp_path)}}
    execute(notebook(), startup_timeout=5)
    assert Client.made.start == {"fc_kernel_notebook": {}}
    assert Client.made.options["startup_timeout"] == 5
    assert Client.made.options["resources"] == {}


def test_settings_of_a_notebook() -> None:
    assert notebook_settings(notebook()) == {}
    assert notebook_settings(notebook(fc_kernel=None)) == {}
    assert notebook_settings(notebook(fc_kernel={"vcpu_count": 2})) == {"vcpu_count": 2}


def test_reading_a_notebook(tmp_path: Path) -> None:
    nbformat.write(notebook(fc_kernel={"vcpu_count": 2}), tmp_path / "a.ipynb")
    assert notebook_settings(read_notebook(tmp_path / "a.ipynb")) == {"vcpu_count": 2}
    old = {"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": []}
    (tmp_path / "old.ipynb").write_text(json.dumps(old))
    assert read_notebook(tmp_path / "old.ipynb").nbformat == 4


WHOLE = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}
NO_NOTEBOOKS: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"hello",
    "no UTF-8": b"\xff\xfe",
    "deep": b"[" * 100_000,
    **{
        name: json.dumps(document).encode()
        for name, document in {
            "a list": [],
            "a number": 5,
            "an empty object": {},
            "another version": {**WHOLE, "nbformat": 5},
            "no version": {**WHOLE, "nbformat": "x"},
            "no metadata": {**WHOLE, "metadata": None},
            "metadata of another type": {**WHOLE, "metadata": [1]},
            "cells of another type": {**WHOLE, "cells": 5},
            "cells of text": {**WHOLE, "cells": "abc"},
            "a cell of another type": {**WHOLE, "cells": [5]},
            "a cell without its type": {**WHOLE, "cells": [{"source": "1"}]},
            "a cell without its source": {**WHOLE, "cells": [{"cell_type": "code", "id": "a"}]},
            "a cell with a number": {**WHOLE, "cells": [{"cell_type": "code", "source": 1, "id": "a"}]},
        }.items()
    },
}


@pytest.mark.parametrize("kind", NO_NOTEBOOKS)
def test_what_is_no_notebook(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    path.write_bytes(NO_NOTEBOOKS[kind])
    with pytest.raises(FcKernelError, match=r"a\.ipynb") as caught:
        read_notebook(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["missing.ipynb", ".", "a\0.ipynb"])
def test_what_is_no_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the notebook"):
        read_notebook(tmp_path / name)
