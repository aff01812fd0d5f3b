"""Eight forks of a real machine: each a kernel of its own, which any client can attach to."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from ...waiting import eventually
from ..conftest import DEADLINE_S
from ..snapshot_clients import Caller

pytestmark = [pytest.mark.vm, pytest.mark.timeout(4 * DEADLINE_S)]

FORKS = 8


def _gone(file: Path) -> bool:
    return not file.exists()


@pytest.fixture
def forks(caller: Caller) -> Iterator[list[Any]]:
    """The forks' connection files, and what ends them."""
    files: list[Path] = []
    yield files
    for file in filter(Path.exists, files):
        client = BlockingKernelClient(connection_file=str(file))
        client.load_connection_file()
        client.start_channels()
        client.shutdown()
        eventually(partial(_gone, file), "the fork has ended")
        client.stop_channels()


def made(caller: Caller, code: str) -> list[tuple[str, Path]]:
    """The forks that a cell makes: their kernel ids and connection files."""
    printed = caller.did(code).printed
    files = [Path(word) for word in re.findall(r"--existing (\S+)", printed)]
    assert all(file.exists() for file in files), printed
    return [(file.stem.removeprefix("kernel-"), file) for file in files]


#: All of what must not be the same in two machines.
FACTS = """
import os, platform, random, secrets, socket, uuid
import numpy
(os.urandom(16), random.getrandbits(128), numpy.random.bytes(16), str(uuid.uuid4()), secrets.token_hex(16),
 socket.gethostname(), platform.node(), open('/etc/machine-id').read(), open('/proc/sys/kernel/random/uuid').read())
"""


def test_eight_forks(caller: Caller, manager: KernelManager, forks: list[Path]) -> None:
    caller.did("import random, numpy; random.seed(1); numpy.random.seed(1); x = 'parent'; ran = []")
    found = made(caller, f"%fork -n {FORKS}\nran.append('the rest')")
    forks += [file for _, file in found]
    assert len({kernel_id for kernel_id, _ in found} | {manager.kernel_id}) == FORKS + 1
    assert caller.value("ran") == ["the rest"]
    callers = [Caller.of_file(str(file)) for file in forks]
    try:
        for number, fork in enumerate(callers):
            fork.did(f"x += '-{number}'; open('/tmp/mine', 'w').write(x)")
        told = [caller.value(FACTS), *(fork.value(FACTS) for fork in callers)]
        for fact, values in enumerate(zip(*told, strict=True)):
            assert len(set(values)) == FORKS + 1, (fact, values)
        # What one writes no other sees, and the rest of the cell ran in the parent alone.
        for number, fork in enumerate(callers):
            assert fork.value("(x, open('/tmp/mine').read(), ran)") == (f"parent-{number}", f"parent-{number}", [])
        assert caller.value("import os; (x, os.path.exists('/tmp/mine'))") == ("parent", False)
        keys = {fork.client.session.key for fork in callers} | {caller.client.session.key}
        assert len(keys) == FORKS + 1
        # One ends, and nobody else.
        callers[0].client.shutdown()
        assert callers[1].value("x") == "parent-1"
        assert caller.value("x") == "parent"
    finally:
        for fork in callers:
            fork.close()


def test_a_fork_in_a_console(caller: Caller, forks: list[Path]) -> None:
    caller.did("x = 20")
    [(_, file)] = made(caller, "%fork\nx = 0")
    forks.append(file)
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", "console", "--existing", str(file), "--simple-prompt",
         f"--ZMQTerminalInteractiveShell.kernel_timeout={DEADLINE_S}"],
        input="x += 1\nprint('twice is', 2 * x)\nexit\n",
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )  # fmt: skip
    assert "twice is 42" in done.stdout, done.stdout + done.stderr
    assert caller.value("x") == 0


def test_a_fork_of_a_fork(caller: Caller, forks: list[Path]) -> None:
    caller.did("x = 1")
    [(_, file)] = made(caller, "%fork")
    forks.append(file)
    child = Caller.of_file(str(file))
    try:
        child.did("x += 1")
        [(_, file)] = made(child, "%fork")
        forks.append(file)
        grandchild = Caller.of_file(str(file))
        try:
            assert (grandchild.value("x"), child.value("x"), caller.value("x")) == (2, 2, 1)
        finally:
            grandchild.close()
    finally:
        child.close()
