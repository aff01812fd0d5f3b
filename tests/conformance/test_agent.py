"""The agent in a real VM: freeze, thaw and renewal, the kernel's cgroup, and what a machine is known by."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from fc_kernel.base.paths import RunDir, cache_dir, data_dir, new_vm_id, runtime_dir
from fc_kernel.host.engine import Engine
from fc_kernel.images.initramfs import boot_initrd
from fc_kernel.images.store import ImageStore
from fc_kernel.settings.spec import VmSpec
from fc_kernel.vmm.base import BootPlan
from fc_kernel.vmm.qemu.driver import QemuVmm
from fc_kernel.vmm.qemu.program import find_qemu
from fc_kernel.wire.ports import PROTOCOL_VERSION

from ..unit.guest_kernel import Guest
from ..waiting import eventually

pytestmark = pytest.mark.vm


@pytest.fixture
def guest() -> Iterator[Guest]:
    """A real VM with a kernel."""
    image = ImageStore(data_dir() / "images", cache_dir()).get("default")
    spec = VmSpec(
        kernel=image.kernel,
        rootfs=image.rootfs,
        rootfs_read_only=True,
        vcpu_count=1,
        mem_size_mib=512,
        boot_args=image.boot_args,
        track_dirty_pages=True,
    )
    engine, run_dir = Engine(), RunDir.create(runtime_dir(), vm_id := new_vm_id())

    async def make() -> QemuVmm:
        plan = BootPlan(vm_id=vm_id, spec=spec, run_dir=run_dir.path, initrd=boot_initrd(image, cache_dir()))
        vmm = QemuVmm(plan, find_qemu())
        await vmm.start()
        return vmm

    def dialled() -> Guest | None:
        try:
            return Guest(vmm.uds_path)
        except (OSError, AssertionError):
            return None

    vmm = engine.run_blocking(make())
    try:
        guest = eventually(dialled, "the agent answers")
        try:
            guest.call("hello", protocol=PROTOCOL_VERSION, time=time.time(), entropy_b64="A" * 44)
            guest.start()
            guest.attach()
            yield guest
        finally:
            guest.close()
    finally:
        engine.run_blocking(vmm.aclose())
        run_dir.remove()
        engine.close()


OUTSIDE = """
import subprocess, sys, time
code = '''
import time
last, gap = time.monotonic(), 0
while True:
    time.sleep(0.01)
    now = time.monotonic()
    gap, last = max(gap, now - last), now
    open("/tmp/gap", "w").write(str(gap))
'''
child = subprocess.Popen([sys.executable, '-c', code], start_new_session=True)
while not __import__('os').path.exists('/tmp/gap'): time.sleep(0.01)
"""


def test_all_that_the_kernel_started_stands_still(guest: Guest) -> None:
    guest.run(OUTSIDE)
    held_s = 5.0
    frozen = guest.freeze()
    assert (frozen["quiet"], frozen["language"]) == (True, "python")
    end = time.monotonic() + held_s
    while time.monotonic() < end:
        guest.call("ping")
    guest.call("thaw")
    # A process in a session of its own stood still for at least that long, by its own clock.
    guest.run("time.sleep(0.2)")
    assert float(guest.run("print(open('/tmp/gap').read())")) >= held_s * 0.9
    assert guest.run("print(open('/sys/fs/cgroup/kernel/cgroup.events').read().split())") == (
        "['populated', '1', 'frozen', '0']\n"
    )
    guest.freeze()
    guest.call("kernel.kill")
    assert guest.notified("kernel.exited")["returncode"] == -9
    guest.start(instance=2)
    guest.attach(2)
    alive = guest.run("import subprocess; print(subprocess.run(['pgrep', '-fc', 'gap'], capture_output=True).stdout)")
    assert "1" not in alive, "what the old kernel had started is gone with it"


def test_a_restored_machine_has_another_name_and_time(guest: Guest) -> None:
    read = "print(socket.gethostname(), open('/etc/machine-id').read().strip(), time.time() > 2e9)"
    guest.run("import socket, time")
    for generation, (name, machine_id, now) in enumerate(
        [("first", "1" * 32, 2.1e9), ("second", "2" * 32, time.time())], start=2
    ):
        guest.freeze()
        guest.restored(hostname=name, machine_id=machine_id, time=now, generation=generation)
        guest.attach(generation)
        assert guest.run(read) == f"{name} {machine_id} {now > 2e9}\n"
