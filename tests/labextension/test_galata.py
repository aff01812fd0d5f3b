"""The JupyterLab extension: its unit tests, and Galata's in a real browser on a real JupyterLab with real microVMs."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.jupyter.conftest import DEADLINE_S, jupyter_path  # noqa: F401 - a fixture

CHECKOUT = Path(__file__).parents[2]
SOURCES = CHECKOUT / "labextension"
#: Pictures of what was seen are kept here.
RESULTS = Path(os.environ.get("FC_KERNEL_UI_RESULTS", SOURCES / "test-results"))
#: All of Galata's tests, each with a microVM or two of its own.
ALL_S = 1800

CONFIG = """
from pathlib import Path
from jupyterlab.galata import configure_jupyter_server

configure_jupyter_server(c)
c.ServerApp.ip = "127.0.0.1"
c.ServerApp.port = 0
c.ServerApp.root_dir = {root!r}
c.ServerApp.allow_root = True
# An editable install does not enable it.
c.ServerApp.jpserver_extensions = {{"fc_kernel": True, "jupyterlab": True}}
c.LabApp.workspaces_dir = {workspaces!r}
c.LabServerApp.extra_labextensions_path = [c.LabServerApp.extra_labextensions_path, {extensions!r}]
"""


@pytest.fixture(scope="module")
def built() -> ModuleType:
    """The extension as the sources have it, and the packages that its tests need."""
    spec = importlib.util.spec_from_file_location("hatch_build", SOURCES / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.build()
    module.install()
    return module


def npm(*words: str, timeout_s: float, **environment: str) -> None:
    """Run a script of the extension's package; what it says is shown when it fails."""
    done = subprocess.run(
        ["npm", "run", "--silent", *words],
        cwd=SOURCES,
        env={**os.environ, "CI": "true", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-8000:]


@pytest.mark.timeout(600)
def test_units(built: ModuleType) -> None:
    npm("check", timeout_s=300)
    npm("test", timeout_s=300)


@pytest.mark.timeout(600)
def test_generated_types_are_current(built: ModuleType) -> None:
    # ``python`` of the script is to be this one.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    npm("check:types", timeout_s=120, PATH=path)


@pytest.fixture
def lab(built: ModuleType, jupyter_path: Path, tmp_path: Path) -> Iterator[str]:  # noqa: F811
    """A JupyterLab with the extension as it is built, and with no password: Galata asks for that."""
    extensions, root, workspaces = (tmp_path / name for name in ("extensions", "root", "workspaces"))
    for directory in (extensions, root, workspaces):
        directory.mkdir()
    (extensions / built.NAME).symlink_to(built.BUILT)
    config = tmp_path / "jupyter_server_config.py"
    config.write_text(
        CONFIG.format(root=str(root), workspaces=str(workspaces), extensions=str(extensions)), encoding="utf-8"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyter", "lab", f"--config={config}"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
        env={
            **os.environ,
            "FC_KERNEL_MONITOR": "qemu",
            "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
            "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"),
        },
    )
    log: list[str] = []
    url = ""
    assert process.stderr is not None
    for line in process.stderr:
        log.append(line)
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            url = found[0]
            break
    drain = threading.Thread(target=lambda: log.extend(process.stderr or ()), name="lab-log", daemon=True)
    drain.start()
    assert url, "".join(log)
    yield url
    process.terminate()
    process.wait(DEADLINE_S)
    drain.join(DEADLINE_S)
    process.stderr.close()
    print("".join(log)[-20000:])


@pytest.mark.vm
@pytest.mark.browser
@pytest.mark.timeout(ALL_S + 120)
def test_in_the_browser(lab: str) -> None:
    chromium = shutil.which("chromium")
    assert chromium, "Debian's chromium is missing; scripts/test installs it"
    only = os.environ.get("FC_KERNEL_UI_ONLY")
    npm(
        "test:browser",
        *(["--", only] if only else []),
        timeout_s=ALL_S,
        FC_KERNEL_UI_URL=lab,
        FC_KERNEL_UI_RESULTS=str(RESULTS.resolve()),
        FC_KERNEL_CHROMIUM=chromium,
        FC_KERNEL_PYTHON=sys.executable,
        PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD="1",
    )
