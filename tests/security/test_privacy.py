"""What a guest, and another user of the host, can see of a running kernel: nothing that is not theirs."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from fc_kernel.base.paths import RunDir, runtime_dir
from fc_kernel.errors import RunDirError
from fc_kernel.settings.sources import guest_environment

from ..jupyter.conftest import Run
from .conftest import connected, managed

DEADLINE_S = 60.0
MARK = "mark-of-a-secret-that-stays-on-the-host"
#: Names that servers, hubs and clouds give to what must not leave them.
SECRETS = (
    "JUPYTER_TOKEN", "JUPYTERHUB_CLIENT_ID", "JUPYTERHUB_OAUTH_ACCESS_SCOPES", "JPY_API_TOKEN", "JPY_TOKEN",
    "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AZURE_CLIENT_SECRET", "GOOGLE_APPLICATION_CREDENTIALS", "GITHUB_TOKEN",
    "GH_TOKEN", "OPENAI_API_KEY", "HF_TOKEN", "DATABASE_URL", "PGPASSWORD", "SSH_AUTH_SOCK", "KUBECONFIG", "SECRET_KEY",
    "FC_GUEST_TOKEN", "KERNEL_PASSWORD", "FC_KERNEL_SECRET", "LD_PRELOAD_PATH", "PYTHONPATH_EXTRA",
)  # fmt: skip
#: What a kernel's process may be started with; the rest of its environment it makes itself.
ALLOWED = {
    "PATH", "HOME", "USER", "LANG", "JPY_PARENT_PID", "JPY_SESSION_NAME", "TZ", "PYDEVD_DISABLE_FILE_VALIDATION",
    "FC_KERNEL_TIER", "FC_KERNEL_MONITOR", "FC_KERNEL_VM_ID", "FC_KERNEL_VCPU_COUNT", "FC_KERNEL_MEM_SIZE_MIB",
    "FC_GUEST_COLOUR",
    # The agent's socket, which is in the guest.
    "FC_KERNEL_AGENT_SOCKET",
}  # fmt: skip
PASSES_ON = "FC_GUEST_COLOUR"


class Running:
    """A kernel, its client, and where everything of it is."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient, runtime_dir: Path) -> None:
        self.manager = manager
        self.client = client
        self.runtime_dir = runtime_dir

    @property
    def processes(self) -> list[psutil.Process]:
        """The guest's: the agent, and the kernel below it."""
        found = psutil.Process().children(recursive=True)
        guests = [
            each for each in found if "main.py" in " ".join(each.cmdline()) or "kernel.json" in str(each.cmdline())
        ]
        assert len(guests) >= 2
        return guests

    @property
    def key(self) -> bytes:
        """The clients' key."""
        key = self.manager.session.key
        assert len(key) >= 32
        return bytes(key)


@pytest.fixture(scope="module")
def running(on_the_fake: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Its run directories are made by the product in a directory that everybody may enter."""
    outer = Path("/tmp") / f"fcks{os.getpid()}"
    outer.mkdir(mode=0o755)
    outer.chmod(0o755)
    patch = pytest.MonkeyPatch()
    for name in SECRETS:
        patch.setenv(name, MARK)
    patch.setenv(PASSES_ON, "blue")
    patch.setenv("FC_KERNEL_RUNTIME_DIR", str(outer / "run"))
    before = os.umask(0o022)
    try:
        with managed() as manager:
            manager.start_kernel()
            with connected(manager) as client:
                client.wait_for_ready(timeout=DEADLINE_S)
                yield Running(manager, client, outer / "run")
    finally:
        os.umask(before)
        patch.undo()
        shutil.rmtree(outer)


def below(directory: Path) -> list[Path]:
    return [directory, *directory.rglob("*")]


def test_all_that_is_made_is_for_its_owner_alone(running: Running) -> None:
    found = {path: path.lstat().st_mode for path in below(running.runtime_dir)}
    kinds = [stat.S_IFMT(mode) for mode in found.values()]
    assert kinds.count(stat.S_IFSOCK) >= 11, "five for clients, twice named; and the guest's"
    assert {path: stat.filemode(mode) for path, mode in found.items() if stat.S_IMODE(mode) & 0o077} == {}


def as_nobody(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a program as another user."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    setpriv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    return subprocess.run([*setpriv, *words], capture_output=True, text=True, timeout=DEADLINE_S, check=False)


TRY_ALL = """
import os, socket, sys
for path in sys.stdin.read().splitlines():
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
        print("connected to", path)
    except PermissionError:
        pass
    try:
        os.listdir(path) if os.path.isdir(path) else open(path).close()
        print("read", path)
    except PermissionError:
        pass
print("tried", os.geteuid())
"""


def test_another_user_can_read_and_reach_nothing(running: Running, tmp_path: Path) -> None:
    assert as_nobody("id", "-u").stdout == "65534\n"
    connection_file = Path(running.manager.connection_file)
    paths = "\n".join(map(str, [*below(running.runtime_dir), connection_file]))
    python = shutil.which("python3", path="/usr/bin:/bin")
    assert python is not None
    setpriv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", python, "-I", "-c", TRY_ALL]
    done = subprocess.run(setpriv, input=paths, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert (done.stdout, done.stderr) == ("tried 65534\n", "")


def test_another_users_processes_can_be_named_but_not_read(running: Running) -> None:
    for process in running.processes:
        assert "Permission denied" in as_nobody("cat", f"/proc/{process.pid}/environ").stderr
        assert "Permission denied" in as_nobody("cat", f"/proc/{process.pid}/mem").stderr


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701, 0o777])
def test_a_run_directory_that_others_may_enter_is_refused(
    tmp_path: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Path("/tmp") / f"fckm{os.getpid()}"
    short.mkdir()
    short.chmod(mode)
    monkeypatch.setenv("FC_KERNEL_RUNTIME_DIR", str(short))
    try:
        with pytest.raises(RunDirError, match="mode 0700"):
            RunDir.create(runtime_dir(), "00000000")
    finally:
        short.rmdir()


def test_a_link_in_place_of_the_run_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    link = Path("/tmp") / f"fckl{os.getpid()}"
    link.symlink_to(real)
    monkeypatch.setenv("FC_KERNEL_RUNTIME_DIR", str(link))
    try:
        with pytest.raises(RunDirError):
            RunDir.create(runtime_dir(), "00000000")
    finally:
        link.unlink()
    assert list(real.iterdir()) == []


def listening(processes: list[psutil.Process]) -> set[tuple[str, int]]:
    """Internet sockets of these processes that wait for connections or datagrams."""
    found = set()
    for process in processes:
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN or connection.type.name == "SOCK_DGRAM":
                found.add((str(connection.laddr), process.pid))
    return found


def test_nothing_listens_on_the_network(running: Running) -> None:
    """What the kernel itself listens on is in its guest's network, which is no network here but the host's."""
    assert Run(running.client, "1").ok
    agents = [process for process in running.processes if "main.py" in " ".join(process.cmdline())]
    assert len(agents) == 1
    assert listening([psutil.Process(), *agents]) == set()


def started_with(process: psutil.Process) -> dict[str, str]:
    words = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    return dict(word.decode().split("=", 1) for word in words if word)


def test_the_guests_environment_is_the_allowed_one(running: Running) -> None:
    for process in running.processes:
        names = set(started_with(process))
        assert names <= ALLOWED, process.cmdline()
    [seen] = re.findall(r"{.*}", Run(running.client, "import json, os; json.dumps(dict(os.environ))").value, re.DOTALL)
    environ = json.loads(seen.encode().decode("unicode_escape"))
    assert environ[PASSES_ON] == "blue"
    assert MARK not in seen
    assert not set(SECRETS) & set(environ)


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("declared", [False, True], ids=["undeclared", "declared"])
def test_a_secret_is_not_passed_on(name: str, declared: bool) -> None:
    """A kernelspec that names it brings it in only if it is not a server's own secret."""
    declares = {name: "${" + name + "}"} if declared else {}
    shown = guest_environment({name: MARK, "PATH": "/bin"}, declares)
    servers_own = name.startswith(("JUPYTER", "JPY_API")) or any(
        word in name for word in ("TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")
    )
    assert shown == ({name: MARK} if declared and not servers_own else {})


def memory_holds(process: psutil.Process, needle: bytes) -> bool:
    """Whether a process has these bytes anywhere in its writable memory."""
    with Path(f"/proc/{process.pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            if "rw" not in rights:
                continue
            start, end = (int(each, 16) for each in span.split("-"))
            memory.seek(start)
            try:
                if needle in memory.read(end - start):
                    return True
            except OSError:
                continue
    return False


def guests_key(running: Running) -> bytes:
    [file] = running.runtime_dir.rglob("kernel.json")
    return str(json.loads(file.read_text())["key"]).encode()


def test_the_clients_key_is_not_in_the_guest(running: Running) -> None:
    """Not in its processes' memory, arguments, environment and files; its own key is, so the search works."""
    assert Run(running.client, "print('signed')").ok
    own = guests_key(running)
    assert own != running.key
    holders = [memory_holds(process, own) for process in running.processes]
    assert any(holders)
    for process in running.processes:
        assert not memory_holds(process, running.key)
        assert running.key.decode() not in " ".join(process.cmdline())
        assert running.key.decode() not in str(started_with(process))
    for path in below(running.runtime_dir):
        if path.is_file():
            assert running.key not in path.read_bytes(), path


def test_no_secret_of_the_server_is_in_the_guests_memory(running: Running) -> None:
    assert memory_holds(psutil.Process(), MARK.encode())
    assert not any(memory_holds(process, MARK.encode()) for process in running.processes)


def test_every_kernel_process_has_a_key_of_its_own(running: Running) -> None:
    """Another kernel's, and that of a restarted one."""
    keys = {guests_key(running)}
    with managed() as manager:
        manager.start_kernel()
        manager.restart_kernel(now=True)
        files = list(running.runtime_dir.rglob("kernel.json"))
        keys |= {str(json.loads(file.read_text())["key"]).encode() for file in files}
        assert len(files) == len(keys) == 3
        assert manager.session.key not in keys
    assert running.key not in keys


def test_a_connection_file_is_for_its_owner_alone(running: Running) -> None:
    mode = Path(running.manager.connection_file).stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_arguments_tell_other_users_nothing(running: Running) -> None:
    """Everybody on the host can list them."""
    told = " ".join(word for process in running.processes for word in process.cmdline())
    assert guests_key(running).decode() not in told
    assert MARK not in told
    assert Path(sys.executable).name in told
