"""What unit tests of monitors share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fc_kernel.paths import RunDir, new_vm_id


@pytest.fixture
def run_dir(short_private_runtime_dir: Path) -> Iterator[Path]:
    """The private directory of one VM."""
    run_dir = RunDir.create(new_vm_id())
    yield run_dir.path
    run_dir.remove()
