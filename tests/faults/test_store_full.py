"""A disk that is really full: a small tmpfs in a namespace of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
DEADLINE_S = 120

SCRIPT = """
import json, os, sys
from pathlib import Path
from fc_kernel.errors import QuotaExceeded
from fc_kernel.snapshots import StoreLimits
from tests.snapshots_made import *
store = store_in(Path(sys.argv[1]), limits=StoreLimits(min_free_bytes=0))
base = save(store, "base")
filler = Path(sys.argv[1], "filler")
free = os.statvfs(sys.argv[1])
told = []
many = {number: page(number) for number in range(400)}
with store.begin(name="early", scope=SCOPE, expected_bytes=0):
    try:
        store.begin(name="late", scope=SCOPE, expected_bytes=100 * MIB)
    except QuotaExceeded as error:
        told.append(str(error))
for left in range(40, 1700, 75):
    filler.write_bytes(b"x" * max(0, (free.f_bavail * free.f_frsize // 1024 - left) * 1024))
    for on in (None, base):
        try:
            saved = save(store, "x", on=on, pages=many, notebook=b"{}" * 5000)
        except (QuotaExceeded, OSError) as error:
            told.append(type(error).__name__ if isinstance(error, QuotaExceeded) else error.strerror)
        else:
            store.check(saved)
            store.delete(saved)
            told.append("saved")
        assert [name for name in directories(store)] == [base.id], directories(store)
        store.check(base)
filler.unlink()
store.check(save(store, "x", on=base, pages=many))
print(json.dumps(told))
"""


def can_mount(path: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(path)]
    return subprocess.run([*NAMESPACE, *mount], capture_output=True, check=False).returncode == 0


def test_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if not can_mount(disk):
        pytest.skip("no namespace in which to mount a tmpfs")
    mounted = [*NAMESPACE, "sh", "-ec", 'mount -t tmpfs -o size=6m none "$1"; shift; exec "$@"', "-", str(disk)]
    done = subprocess.run(
        [*mounted, sys.executable, "-c", SCRIPT, str(disk)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert "the disk has" in told[0]
    # What the driver cannot write is its own affair; all else is told as it is.
    assert {"QuotaExceeded", "saved"} <= set(told[1:]) <= {"QuotaExceeded", "saved", "No space left on device"}
