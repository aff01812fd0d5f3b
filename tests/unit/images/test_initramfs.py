"""The initramfs: modules in the order in which they can be loaded, and the agent behind the image's own part."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from fc_kernel.errors import ImageBuildError
from fc_kernel.guest.payload import guest_files
from fc_kernel.images.cpio import Entry, archive
from fc_kernel.images.initramfs import WANTED_MODULES, base_initramfs, boot_initrd, init_script, load_order
from fc_kernel.images.manifest import ImageManifest, Part
from fc_kernel.images.store import Image


def modules_dir(path: Path, dep: str, builtin: str = "") -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "modules.dep").write_text(dep)
    (path / "modules.builtin").write_text(builtin)
    return path


def names(order: list[Path]) -> list[str]:
    return [path.name for path in order]


def test_what_a_module_needs_is_loaded_before_it(tmp_path: Path) -> None:
    tree = modules_dir(
        tmp_path,
        "kernel/virtio_blk.ko: kernel/virtio_ring.ko kernel/virtio.ko\n"
        "kernel/virtio.ko:\nkernel/virtio_ring.ko: kernel/virtio.ko\n"
        "kernel/erofs.ko: kernel/crc32.ko\nkernel/crc32.ko:\n",
    )
    order = load_order(tree, ["virtio_blk", "erofs"])
    assert names(order) == ["virtio.ko", "virtio_ring.ko", "virtio_blk.ko", "crc32.ko", "erofs.ko"]
    assert order[0] == tree / "kernel/virtio.ko"


def test_what_two_modules_need_is_loaded_once(tmp_path: Path) -> None:
    tree = modules_dir(tmp_path, "a.ko: base.ko\nb.ko: base.ko\nbase.ko:\n")
    assert names(load_order(tree, ["a", "b", "base"])) == ["base.ko", "a.ko", "b.ko"]


def test_dash_and_underscore_are_one_and_compressed_modules_are_found(tmp_path: Path) -> None:
    tree = modules_dir(tmp_path, "virtio-rng.ko.xz:\n")
    assert names(load_order(tree, ["virtio_rng"])) == ["virtio-rng.ko.xz"]


def test_what_is_built_in_is_not_loaded(tmp_path: Path) -> None:
    tree = modules_dir(tmp_path, "overlay.ko:\n", "kernel/fs/erofs/erofs.ko\n")
    assert names(load_order(tree, ["erofs", "overlay"])) == ["overlay.ko"]


def test_a_module_that_the_kernel_lacks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageBuildError, match="overlay"):
        load_order(modules_dir(tmp_path, "erofs.ko:\n"), ["erofs", "overlay"])


@pytest.fixture
def base(tmp_path: Path) -> bytes:
    tree = modules_dir(tmp_path / "modules", "".join(f"{name}.ko:\n" for name in WANTED_MODULES))
    for name in WANTED_MODULES:
        (tree / f"{name}.ko").write_bytes(name.encode())
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"\x7fELF busybox")
    return base_initramfs(busybox, tree)


def unpack(data: bytes, where: Path) -> Path:
    """As the kernel does it: one archive after the other."""
    if shutil.which("busybox") is None:
        pytest.skip("busybox is not installed")
    where.mkdir()
    at = 0
    while at < len(data):
        end = data.index(b"TRAILER!!!", at)
        end = -(-end // 512) * 512
        subprocess.run(["busybox", "cpio", "-id"], input=data[at:end], cwd=where, capture_output=True, check=False)
        at = end
    return where


def test_the_base_has_what_init_uses(base: bytes, tmp_path: Path) -> None:
    root = unpack(base, tmp_path / "root")
    assert (root / "init").read_bytes() == init_script()
    assert (root / "init").stat().st_mode & 0o111
    order = (root / "modules/order").read_text().split()
    assert order == [f"{name}.ko" for name in WANTED_MODULES]
    assert (root / "modules/erofs.ko").read_bytes() == b"erofs"
    assert all((root / name).is_dir() for name in ("dev", "proc", "sys", "run", "ro", "rw", "newroot"))


def test_init_is_a_valid_script() -> None:
    subprocess.run(["sh", "-n"], input=init_script(), check=True)


def image_of(path: Path, initrd: bytes) -> Image:
    path.mkdir()
    (path / "initrd.img").write_bytes(initrd)
    part = Part.of("initrd", path / "initrd.img")
    manifest = ImageManifest(
        name="default", created="", recipe="", kernel_release="", python="", boot_args="", parts=(part,)
    )
    return Image("default", path, manifest)


def test_the_agent_follows_the_base(base: bytes, tmp_path: Path) -> None:
    path = boot_initrd(image_of(tmp_path / "image", base), tmp_path / "cache")
    data = path.read_bytes()
    assert data.startswith(base)
    root = unpack(data, tmp_path / "root")
    for name, content in guest_files().items():
        assert (root / "fc" / name).read_bytes() == content
    assert (root / "fc/main.py").is_file()


def test_the_cache_is_used_again_and_mended(tmp_path: Path) -> None:
    image = image_of(tmp_path / "image", archive({"init": Entry(b"x")}))
    first = boot_initrd(image, tmp_path / "cache")
    content, inode = first.read_bytes(), first.stat().st_ino
    assert boot_initrd(image, tmp_path / "cache").stat().st_ino == inode
    for damage in (content[:-1], b"\xff" + content[1:], b""):
        first.write_bytes(damage)
        assert boot_initrd(image, tmp_path / "cache").read_bytes() == content
    assert [path.name for path in (tmp_path / "cache/initrd").iterdir()] == [first.name]


def test_another_base_is_another_file(tmp_path: Path) -> None:
    one = boot_initrd(image_of(tmp_path / "1", archive({"init": Entry(b"1")})), tmp_path / "cache")
    two = boot_initrd(image_of(tmp_path / "2", archive({"init": Entry(b"2")})), tmp_path / "cache")
    assert one != two
