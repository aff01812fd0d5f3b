"""JupyterLab in a real browser: choose the kernel, run cells, see the plot."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from .conftest import DEADLINE_S
from .server import Server

pytestmark = [pytest.mark.vm, pytest.mark.browser]

CHROMIUM = shutil.which("chromium")
#: Without these Chromium looks up and calls hosts of its own, which a closed network refuses one by one.
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip


@pytest.fixture(scope="module")
def monitor(jupyter_path: Path) -> Iterator[str]:
    """The browser's test is slow: only on a real VM."""
    patch = pytest.MonkeyPatch()
    patch.setenv("FC_KERNEL_MONITOR", "qemu")
    yield "qemu"
    patch.undo()


@pytest.fixture
def lab(monitor: str, tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, "--ServerApp.jpserver_extensions=jupyterlab=True")
    yield server
    server.stop()


def test_choose_the_kernel_run_cells_see_the_plot(lab: Server, tmp_path: Path) -> None:
    from playwright.sync_api import expect, sync_playwright

    quickstart = Path(__file__).parents[2] / "examples/quickstart.ipynb"
    notebook = nbformat.read(quickstart, as_version=4)
    del notebook.metadata["kernelspec"]
    nbformat.write(notebook, lab.root / "quickstart.ipynb")
    assert CHROMIUM, "Debian's chromium is missing; scripts/test installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 1240})
            page.set_default_timeout(DEADLINE_S * 1000)
            page.goto(f"{lab.url}/lab/tree/quickstart.ipynb?token={lab.token}")
            dialog = page.locator(".jp-Dialog")
            dialog.locator("select").select_option(label="Python (microVM)")
            dialog.locator(".jp-mod-accept").click()
            # Lab runs nothing before it has its session.
            status = page.locator("#jp-main-statusbar")
            expect(status).to_contain_text("Python (microVM) | Idle", timeout=DEADLINE_S * 1000)
            page.get_by_role("button", name="Hide notification").click()
            page.locator(".jp-Notebook .jp-Cell").first.click()
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_text("Run All Cells", exact=True).click()
            outputs = page.locator(".jp-OutputArea-output")
            expect(outputs.filter(has_text="tier:").first).to_contain_text("emulated", timeout=DEADLINE_S * 1000)
            plot = page.locator(".jp-OutputArea-output img")
            expect(plot).to_be_visible(timeout=DEADLINE_S * 1000)
            assert plot.evaluate("image => image.naturalWidth") > 100
            expect(outputs.filter(has_text="['lo']")).to_be_visible(timeout=DEADLINE_S * 1000)
            page.locator(".jp-Notebook .jp-Cell").first.scroll_into_view_if_needed()
            expect(status).to_contain_text("Python (microVM) | Idle", timeout=DEADLINE_S * 1000)
            if shown := os.environ.get("FC_KERNEL_SCREENSHOT"):
                page.screenshot(path=shown)
        finally:
            browser.close()
