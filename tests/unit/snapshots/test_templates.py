"""The template store: one for each key, and which of them go."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from fc_kernel.base.verified import VerifiedFiles
from fc_kernel.errors import SnapshotExists, SnapshotInUse
from fc_kernel.settings.spec import VmSpec
from fc_kernel.snapshots import Base, Cpu, Host, ImageRef, KernelState, Snapshot, TemplateLimits, TemplateStore

from ...snapshots_made import MEM_MIB, MIB, fields, memory, page, save, store_in, write_sparse


def templates_in(path: Path, **limits: int) -> TemplateStore:
    return TemplateStore(
        path / "templates", TemplateLimits(**limits), owner="ann", records=VerifiedFiles(path / "cache")
    )


@pytest.fixture
def templates(tmp_path: Path) -> TemplateStore:
    return templates_in(tmp_path)


def make(templates: TemplateStore, key: str, *, bytes_: int = 8192, **more: object) -> Snapshot:
    with templates.begin(key, expected_bytes=bytes_) as draft:
        write_sparse(draft.files.mem, {number: page(number, key) for number in range(bytes_ // 4096)})
        draft.files.vmstate.write_bytes(b"v")
        return draft.publish(fields(template_key=key, **more), base=Base.full())


def unused_for(template: Snapshot, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(template.directory / "lock", (then, then))


def test_there_is_one_for_each_key(templates: TemplateStore) -> None:
    assert templates.find("a") is None
    with templates.begin("a", expected_bytes=0), pytest.raises(SnapshotExists):
        templates.begin("a", expected_bytes=0)
    made = make(templates, "a")
    assert templates.find("a") == made
    assert made.kind == "template"
    with pytest.raises(SnapshotExists):
        templates.begin("a", expected_bytes=0)
    assert templates.find("b") is None
    assert make(templates, "b ../x") == templates.find("b ../x")
    templates.check(made, Host(monitor="qemu", agent_protocol=2))
    templates.delete(made)
    assert templates.find("a") is None


def test_snapshots_share_a_templates_memory_and_outlive_it(tmp_path: Path, templates: TemplateStore) -> None:
    store = store_in(tmp_path)
    template = make(templates, "a", bytes_=20 * 4096)
    saved = save(store, on=template, pages={0: page(0)})
    assert saved.mem.stat().st_ino == template.mem.stat().st_ino
    assert store.disk_bytes(saved) < 10 * 4096
    before = memory(saved)
    templates.delete(template)
    store.check(saved)
    assert memory(saved) == before


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("monitor_version", {"monitor_version": "10.0"}),
        ("monitor", {"monitor": "firecracker"}),
        ("cpu.model", {"cpu": Cpu.of("Other CPU", ["sse", "fpu"])}),
        ("cpu.flags", {"cpu": Cpu.of("Some CPU", ["fpu"])}),
        ("agent_protocol", {"agent_protocol": 3}),
        ("image.kernel", {"image": ImageRef(name="default", kernel_sha256="c" * 64, rootfs_sha256="b" * 64)}),
        ("image.rootfs", {"image": ImageRef(name="default", kernel_sha256="a" * 64, rootfs_sha256="c" * 64)}),
        ("boot_args", {"boot_args": "quiet"}),
        ("spec", {"spec": VmSpec(vcpu_count=1, mem_size_mib=MEM_MIB, track_dirty_pages=False)}),
        ("kernel.language", {"kernel": KernelState(language="R")}),
        ("template_key", {}),
    ],
)
def test_why_another_does_not_fit(templates: TemplateStore, field: str, change: dict[str, object]) -> None:
    made = make(templates, "a")
    make(templates, "other shape", spec=VmSpec(vcpu_count=2, mem_size_mib=MEM_MIB))
    make(templates, "other image", image=ImageRef(name="geo", kernel_sha256="a" * 64, rootfs_sha256="b" * 64))
    # As it was saved: without paths of the host.
    like = {"template_key": "b", "spec": made.spec, **change}
    (stale,) = templates.others(fields(**like))
    assert (stale.template, stale.field) == (made, field)
    assert stale.have != stale.want
    assert templates.others(fields(**{**like, "template_key": "a"})) == []


def test_unused_ones_go(templates: TemplateStore) -> None:
    old, held, fresh = make(templates, "old"), make(templates, "held"), make(templates, "fresh")
    with templates.hold(held) as hold:
        for template in (old, held):
            unused_for(template, 31 * 24 * 3600)
        with pytest.raises(SnapshotInUse):
            templates.delete(held)
        assert templates.sweep() == [old.id]
        hold.close()
    assert templates.sweep() == [held.id]
    assert templates.list() == [fresh]
    unused_for(fresh, 31 * 24 * 3600)
    templates.hold(fresh).close()
    assert templates.sweep() == []


def test_the_longest_unused_go_for_a_new_one(tmp_path: Path) -> None:
    templates = templates_in(tmp_path, max_bytes=3 * MIB)
    made = [make(templates, key, bytes_=MIB // 4 * 3) for key in "abc"]
    for template, seconds in zip(made, (10, 30, 20), strict=True):
        unused_for(template, seconds)
    make(templates, "d", bytes_=MIB)
    assert [template.id for template in templates.list()][:2] == [made[0].id, made[2].id]
    assert templates.disk_bytes() <= 3 * MIB


def test_a_broken_one_goes(templates: TemplateStore) -> None:
    made = make(templates, "a")
    (made.directory / "manifest.json").unlink()
    assert templates.find("a") is None
    assert templates.sweep() == [made.id]
    assert make(templates, "a") == templates.find("a")
