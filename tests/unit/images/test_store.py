"""The image store: hostile manifests and names, digests, publishing and removing."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from fc_kernel.errors import ImageBuildError, ImageCorrupt, ImageNotFound, SpecError
from fc_kernel.images.manifest import MAX_MANIFEST_BYTES, ImageManifest, Part
from fc_kernel.images.store import Image, ImageStore

ROLES = {"kernel": "vmlinux", "initrd": "initrd.img", "rootfs": "rootfs.erofs"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FC_KERNEL_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    (tmp_path / "images").mkdir()
    return ImageStore(tmp_path / "images", tmp_path / "cache")


def staged(directory: Path, content: str = "1") -> Path:
    """A finished image that has no name yet."""
    directory.mkdir()
    for role, name in ROLES.items():
        (directory / name).write_text(f"{role} {content}")
    parts = tuple(Part.of(role, directory / name) for role, name in ROLES.items())  # type: ignore[arg-type]
    manifest = ImageManifest(
        name="x",
        created="",
        recipe=content,
        kernel_release="6.1",
        python="/usr/bin/python3",
        boot_args="quiet",
        parts=parts,
    )
    (directory / "manifest.json").write_text(manifest.model_dump_json())
    return directory


def publish(store: ImageStore, name: str = "default", content: str = "1", *, replace: bool = False) -> Image:
    return store.publish(name, staged(store.root / f".building-{content}", content), replace=replace)


def test_a_published_image_is_found_and_sound(store: ImageStore) -> None:
    image = publish(store)
    store.verify(image)
    assert (image.kernel.name, image.initrd.name, image.rootfs.name) == tuple(ROLES.values())
    assert image.boot_args == "quiet"
    assert store.names() == ["default"]
    assert store.find_current("default", "1") is not None
    assert store.find_current("default", "another recipe") is None


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc", ".hidden", "a\n", "a\0", "x" * 65, "ä", "-x"])
def test_a_name_that_is_none_never_reaches_the_disk(store: ImageStore, name: str) -> None:
    for call in (store.get, store.remove, store.has):
        with pytest.raises(SpecError, match="image"):
            call(name)


def test_a_missing_image_says_how_to_build_it(store: ImageStore) -> None:
    with pytest.raises(ImageNotFound, match=r"fc-kernel image build$"):
        store.get("default")
    with pytest.raises(ImageNotFound, match="build --name geo"):
        store.get("geo")


def damaged(store: ImageStore, change: dict[str, Any]) -> None:
    manifest = publish(store).path / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **change}))


PART = {"role": "kernel", "file": "vmlinux", "sha256": "0" * 64, "size_bytes": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"format": "1"},
        {"unknown": 1},
        {"parts": []},
        {"parts": None},
        {"parts": [PART]},
        {"parts": [{**PART, "file": "../../etc/passwd"}]},
        {"parts": [{**PART, "file": "/etc/passwd"}]},
        {"parts": [{**PART, "file": "vmlinux\n"}]},
        {"parts": [{**PART, "file": "sub/vmlinux"}]},
        {"parts": [{**PART, "file": ".."}]},
        {"parts": [{**PART, "file": ""}]},
        {"parts": [{**PART, "sha256": "0" * 63}]},
        {"parts": [{**PART, "sha256": "Z" * 64}]},
        {"parts": [{**PART, "size_bytes": 0}]},
        {"parts": [{**PART, "role": "shell"}]},
        {"boot_args": None},
        {"packages": "all"},
    ],
)
def test_a_hostile_manifest_is_one_error(store: ImageStore, change: dict[str, Any]) -> None:
    damaged(store, change)
    with pytest.raises(ImageCorrupt, match=r"image 'default': .*manifest\.json is damaged") as caught:
        store.get("default")
    assert "\n" not in str(caught.value)
    assert [type(each) for each in store.images()] == [ImageCorrupt]


@pytest.mark.parametrize(
    "text", [b"", b"{", b"null", b"[]", b"\xff\xfe", b"{}" + b" " * MAX_MANIFEST_BYTES, b"[" * 100_000]
)
def test_what_is_no_manifest_is_one_error(store: ImageStore, text: bytes) -> None:
    (publish(store).path / "manifest.json").write_bytes(text)
    with pytest.raises(ImageCorrupt, match="damaged"):
        store.get("default")


def test_an_unreadable_manifest_is_one_error(store: ImageStore) -> None:
    path = publish(store).path / "manifest.json"
    path.unlink()
    path.mkdir()
    with pytest.raises(ImageCorrupt, match="cannot read"):
        store.get("default")


def test_nothing_outside_the_store_is_used(store: ImageStore, tmp_path: Path) -> None:
    elsewhere = staged(tmp_path / "elsewhere")
    (store.root / "linked").symlink_to(elsewhere)
    with pytest.raises(ImageCorrupt, match="link"):
        store.get("linked")
    store.remove("linked")
    assert (elsewhere / "vmlinux").exists()
    image = publish(store)
    image.kernel.unlink()
    image.kernel.symlink_to(elsewhere / "vmlinux")
    with pytest.raises(ImageCorrupt, match="missing"):
        store.verify(image)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("unless_unchanged", [False, True])
def test_a_changed_file_is_named_with_both_digests(store: ImageStore, role: str, unless_unchanged: bool) -> None:
    image = publish(store)
    path = image.path / ROLES[role]
    store.verify(image, unless_unchanged=unless_unchanged)
    path.write_text("flipped")
    with pytest.raises(ImageCorrupt, match=f"(?s){path.name}.*{image.manifest.part(role).sha256}.*--replace"):
        store.verify(image, unless_unchanged=unless_unchanged)
    path.unlink()
    with pytest.raises(ImageCorrupt, match="missing"):
        store.verify(image, unless_unchanged=unless_unchanged)


def test_publishing_takes_no_name_from_another(store: ImageStore) -> None:
    publish(store, content="1")
    with pytest.raises(ImageBuildError, match="left as it is"):
        publish(store, content="2")
    assert store.get("default").manifest.recipe == "1"


def test_replacing_leaves_open_files_readable_and_nothing_behind(store: ImageStore) -> None:
    with publish(store, content="1").rootfs.open() as in_use:
        image = publish(store, content="2", replace=True)
        assert in_use.read() == "rootfs 1"
    assert image.rootfs.read_text() == "rootfs 2"
    assert [path.name for path in store.root.iterdir()] == ["default"]


def test_a_failed_publication_leaves_the_old_image(store: ImageStore) -> None:
    publish(store, content="1")
    with pytest.raises(FileNotFoundError):
        store.publish("default", store.root / ".building-not-there", replace=True)
    assert store.get("default").manifest.recipe == "1"
    assert [path.name for path in store.root.iterdir()] == ["default"]


def test_many_publish_one_name_at_once(store: ImageStore) -> None:
    """Each replaces the one before; none fails, and at no time is there half an image."""
    ready = [staged(store.root / f".building-{number}", str(number)) for number in range(16)]
    failures: list[BaseException] = []

    def replace(path: Path) -> None:
        try:
            store.publish("default", path, replace=True)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=replace, args=(path,), name=f"publisher-{path.name}") for path in ready]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    store.verify(store.get("default"))
    assert [path.name for path in store.root.iterdir()] == ["default"]


def test_removing(store: ImageStore) -> None:
    publish(store)
    store.remove("default")
    assert list(store.root.iterdir()) == []
    with pytest.raises(ImageNotFound):
        store.remove("default")


def test_removing_from_no_store_at_all(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "none", tmp_path / "cache")
    with pytest.raises(ImageNotFound):
        store.remove("default")
    assert list(store.images()) == []
    assert not (tmp_path / "none").exists()
