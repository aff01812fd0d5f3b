"""Real builds: the same bytes whoever builds, images from other root file systems, and what a failed build leaves."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest

from fc_kernel.images.store import ImageStore

from .conftest import DIST_PACKAGES, Build, Execute

Booted = Callable[[Path], AbstractContextManager[Execute]]

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

DEADLINE_S = 60


def digests(store: ImageStore, name: str = "default") -> dict[str, str]:
    return {part.role: part.sha256 for part in store.get(name).manifest.parts}


def none_is_left(mark: str) -> None:
    """No process works in a directory any more, and nothing is mounted there."""
    end = time.monotonic() + DEADLINE_S
    while found := [
        process
        for process in psutil.process_iter(["cmdline"])
        if mark in " ".join(process.info["cmdline"] or ()) and process.pid != os.getpid()
    ]:
        assert time.monotonic() < end, found
        time.sleep(0.05)
    assert mark not in Path("/proc/mounts").read_text()


@pytest.fixture
def user() -> Iterator[tuple[str, Path]]:
    """A user without any privilege, with the ids for a namespace that ``useradd`` gives; and a directory of theirs."""
    if os.geteuid() != 0:
        pytest.skip("making a user needs root")
    if subprocess.run(["unshare", "--user", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("user namespaces are refused here, as in a chroot")
    name = f"fck{secrets.token_hex(4)}"
    home = Path(tempfile.mkdtemp(prefix="fck home ", dir="/tmp"))
    subprocess.run(["useradd", "--no-create-home", "--home-dir", str(home), name], check=True, capture_output=True)
    try:
        shutil.chown(home, name, name)
        yield name, home
    finally:
        subprocess.run(["userdel", "--remove", name], check=True, capture_output=True)
        shutil.rmtree(home, ignore_errors=True)


def without_privilege(name: str, home: Path) -> tuple[str, ...]:
    """Words that run a command as the user, who may read (and no more) wherever this test's interpreter is."""
    user = ("setpriv", f"--reuid={name}", f"--regid={name}", "--init-groups")
    may = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    return (*user, *may, "--", "env", f"HOME={home}", f"USER={name}")


def test_root_and_a_user_build_the_same_bytes(user: tuple[str, Path], tmp_path: Path, booted: Booted) -> None:
    """At the same time, with other paths, another umask and another pip cache; and the user's image boots."""
    name, home = user
    roots = Build(tmp_path)
    before = os.umask(0o077)
    try:
        users = Build(home / "data", prefix=without_privilege(name, home))
    finally:
        os.umask(before)
    stores = roots.succeed(), users.succeed()
    assert digests(stores[0]) == digests(stores[1])
    assert {path.stat().st_uid for path in (home / "data").rglob("*")} == {pwd.getpwnam(name).pw_uid}
    assert users.left() == ["default"]
    none_is_left(str(home))
    none_is_left(str(tmp_path))
    with booted(home / "data") as execute:
        found = execute(OWNERS).stdout.splitlines()
        assert found == ["/etc/shadow 0 42 0o640", "/usr/bin/passwd 0 0 0o4755", "/tmp 0 0 0o1777", "others' []"]
        command = "import subprocess; subprocess.run(['pip', '--version'], stdout=subprocess.PIPE).stdout.split()[0]"
        assert execute(command).value == "b'pip'"
        assert execute("import numpy; int(numpy.arange(9).sum())").value == "36"


OWNERS = """
import os
for path in ("/etc/shadow", "/usr/bin/passwd", "/tmp"):
    found = os.lstat(path)
    print(path, found.st_uid, found.st_gid, oct(found.st_mode & 0o7777))
owners = [(d, os.lstat(f"{d}/{name}").st_uid) for d, dirs, names in os.walk("/usr") for name in dirs + names]
print("others'", [d for d, uid in owners if uid != 0])
"""


def listing(root: Path) -> list[tuple[str, int, int]]:
    return sorted((str(path), path.lstat().st_mode, path.lstat().st_ctime_ns) for path in root.rglob("*"))


def test_from_a_directory_which_stays_as_it_is(small_root: Path, tmp_path: Path, booted: Booted) -> None:
    """One without mount points. Its image may be removed while a VM runs from it."""
    assert not (small_root / "proc").exists()
    before = listing(small_root)
    store = Build(tmp_path, "--from", str(small_root)).succeed()
    assert listing(small_root) == before
    assert store.get("default").manifest.source == str(small_root)
    with booted(tmp_path) as execute:
        assert execute("import os; (os.getpid() > 1, oct(os.stat('/tmp').st_mode))").value == "(True, '0o41777')"
        store.remove("default")
        assert not (tmp_path / "images/default").exists()
        code = "import hashlib, glob; len({hashlib.sha256(open(p, 'rb').read()).digest() for p in glob.glob('/usr/bin/*')}) > 9"
        assert execute(code).value == "True"


def test_from_a_tar_with_a_virtual_environment(small_root: Path, tmp_path: Path, booted: Booted) -> None:
    """As ``docker export`` writes it: no leading ``./``, empty mount points, a device or two."""
    root = tmp_path / "root"
    subprocess.run(["cp", "-a", str(small_root), str(root)], check=True)
    for name in ("proc", "sys", "dev/pts", "dev/shm"):
        (root / name).mkdir(parents=True)
    (root / ".dockerenv").touch()
    os.mknod(root / "dev/null", 0o20666, os.makedev(1, 3))
    venv = root / "opt/venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python3").symlink_to("/usr/bin/python3")
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    (venv / "lib/python3.11").mkdir(parents=True)
    (root / DIST_PACKAGES).rename(venv / "lib/python3.11/site-packages")
    tar = tmp_path / "export.tar"
    subprocess.run(["tar", "-C", str(root), "-cf", str(tar), *sorted(path.name for path in root.iterdir())], check=True)
    store = Build(tmp_path, "--from", str(tar)).succeed()
    assert store.get("default").manifest.python == "/opt/venv/bin/python3"
    with booted(tmp_path) as execute:
        assert execute("import sys; sys.prefix, sys.executable").value == "('/opt/venv', '/opt/venv/bin/python3')"


def test_the_same_from_a_directory_and_its_tar(small_root: Path, tmp_path: Path) -> None:
    """Built at once, under names of their own."""
    tar = tmp_path / "root.tar.gz"
    subprocess.run(["tar", "-C", str(small_root), "-I", "gzip -1", "-cf", str(tar), "."], check=True)
    builds = [
        Build(tmp_path, "--name", "a", "--from", str(small_root)),
        Build(tmp_path, "--name", "b", "--from", str(tar)),
    ]
    stores = [build.succeed() for build in builds]
    assert digests(stores[0], "a") == digests(stores[1], "b")


def test_two_builds_of_one_name_at_once(small_root: Path, tmp_path: Path) -> None:
    """One of them gives the image; the other says so, and leaves nothing."""
    builds = [Build(tmp_path, "--from", str(small_root)) for _ in range(2)]
    results = [build.finish() for build in builds]
    assert sorted(status for status, _ in results) == [0, 1]
    assert any("left as it is" in err for _, err in results)
    store = ImageStore(tmp_path / "images", tmp_path / "cache")
    store.verify(store.get("default"))
    assert builds[0].left() == ["default"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_ended_build_leaves_nothing(small_root: Path, tmp_path: Path, number: signal.Signals) -> None:
    """In the middle of mmdebstrap. After SIGKILL the processes end at once, and the next build sweeps the rest."""
    build = Build(tmp_path, "--from", str(small_root))
    assert build.stderr is not None
    while "mmdebstrap" not in build.stderr.readline():
        assert build.poll() is None
    end = time.monotonic() + DEADLINE_S
    while not list((tmp_path / "images").glob(".building-*/mmdebstrap.*/etc")):
        assert time.monotonic() < end
        time.sleep(0.01)
    build.send_signal(number)
    build.communicate()
    none_is_left(str(tmp_path))
    if number == signal.SIGKILL:
        assert [name.startswith(".building-") for name in build.left()] == [True]
        status, err = Build(tmp_path, "--from", str(tmp_path)).finish()
        assert (status, "ipykernel" in err) == (1, True)
    else:
        assert build.returncode == 128 + number
    assert build.left() == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--requirements", "{requirements}"), "No matching distribution found for no-such-package"),
        (("--package", "no-such-package"), "Unable to locate package no-such-package"),
        (("--from", "{requirements}"), "not look like a tar"),
    ],
)
def test_a_failed_build_is_one_line_and_leaves_nothing(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("no-such-package==1.2.3.4\n")
    build = Build(tmp_path, *(word.format(requirements=requirements) for word in words))
    status, err = build.finish()
    assert status == 1
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err
    assert build.left() == []


@pytest.mark.parametrize("size_mib", [4, 310])
def test_a_full_disk(small_root: Path, tmp_path: Path, size_mib: int) -> None:
    """While the file system is written, and while the kernel is unpacked."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(disk)], check=True)
    try:
        build = Build(disk, "--from", str(small_root))
        status, err = build.finish()
        assert status == 1
        assert "o space left" in err.splitlines()[-1]
        assert build.left() == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
