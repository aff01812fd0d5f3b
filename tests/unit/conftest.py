"""What unit tests of monitors share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fc_kernel.base.paths import RunDir, new_vm_id, runtime_dir
from fc_kernel.settings.environment import PREFIXES, SETTINGS


@pytest.fixture
def run_dir(short_private_runtime_dir: Path) -> Iterator[Path]:
    """The private directory of one VM."""
    run_dir = RunDir.create(runtime_dir(), new_vm_id())
    yield run_dir.path
    run_dir.remove()


@pytest.fixture(autouse=True)
def settings_of_nobody(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have settings and a configuration; the tests do not see them."""
    for name in (prefix + name for prefix in PREFIXES for name in (*SETTINGS, "NOTEBOOK")):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("JUPYTERHUB_API_TOKEN", raising=False)
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path_factory.getbasetemp() / "no-configuration"))
