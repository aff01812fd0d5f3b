"""Root file systems to build images from, cut out of the default image; and kernels in what was built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from jupyter_client.manager import KernelManager

from fc_kernel.base.paths import cache_dir, data_dir
from fc_kernel.images.store import ImageStore

from ..jupyter.conftest import DEADLINE_S, Run, jupyter_path  # noqa: F401

#: Large, and not needed to start a kernel.
LEFT_OUT = (
    "pandas",
    "matplotlib",
    "numpy",
    "PIL",
    "fontTools",
    "mpl_toolkits",
    "contourpy",
    "kiwisolver",
    "widgetsnbextension",
)
DIST_PACKAGES = "usr/local/lib/python3.11/dist-packages"

Execute = Callable[[str], Run]


@pytest.fixture(scope="session")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default image's root file system without its largest packages; tests do not change it."""
    if os.geteuid() != 0:
        pytest.skip("unpacking a root file system with its owners needs root")
    root = tmp_path_factory.mktemp("from") / "root"
    rootfs = ImageStore(data_dir() / "images", cache_dir()).get("default").rootfs
    subprocess.run(["fsck.erofs", f"--extract={root}", "--preserve", str(rootfs)], check=True, capture_output=True)
    for name in ("proc", "sys", "dev", "run"):
        shutil.rmtree(root / name, ignore_errors=True)
    for name in LEFT_OUT:
        for path in (root / DIST_PACKAGES).glob(f"{name}*"):
            shutil.rmtree(path)
    return root


class Build(subprocess.Popen[str]):
    """``fc-kernel image build`` in a process of its own, with a data directory of its own."""

    def __init__(self, data_dir: Path, *words: str, prefix: tuple[str, ...] = (), **environment: str) -> None:
        self.images = data_dir / "images"
        super().__init__(
            [*prefix, sys.executable, "-m", "fc_kernel.cli", "image", "build", *words],
            env={**os.environ, "FC_KERNEL_DATA_DIR": str(data_dir), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self) -> tuple[int, str]:
        """Exit status, and what it said on standard error."""
        _, err = self.communicate()
        return self.returncode, err

    def succeed(self) -> ImageStore:
        """Wait for it and give the store with the image."""
        status, err = self.finish()
        assert status == 0, err
        return ImageStore(self.images, self.images.parent / "cache")

    def left(self) -> list[str]:
        return sorted(path.name for path in self.images.iterdir()) if self.images.is_dir() else []


@pytest.fixture
def booted(
    jupyter_path: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Path], AbstractContextManager[Execute]]:
    """Start a kernel in the image ``default`` of a data directory, under QEMU, and execute code in it."""

    @contextmanager
    def start(data_dir: Path) -> Iterator[Execute]:
        monkeypatch.setenv("FC_KERNEL_MONITOR", "qemu")
        monkeypatch.setenv("FC_KERNEL_DATA_DIR", str(data_dir))
        manager = KernelManager(kernel_name="fc-python3")
        manager.start_kernel()
        client = manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=DEADLINE_S)
            yield lambda code: Run(client, code)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
            manager.cleanup_resources()

    return start
