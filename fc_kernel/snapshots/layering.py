"""From what a driver wrote to the files of a snapshot, which is complete by itself and shares what it can."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from ..errors import SnapshotError
from ..memory.pages import CHUNK_BYTES, PAGE_BYTES, PageFile, PageStack, Run, changed_pages, differing, write_pages
from . import disk
from .manifest import LAYER_PREFIX, MAX_LAYERS, MEM, Part
from .root import Root
from .snapshot import Snapshot

#: Where a driver writes the memory, or what of it has changed.
WRITTEN = "written"
_STAGED = "pages.new"


def lay_on(base: Snapshot, draft: Path, here: int, root: Root, *, mem_size_bytes: int) -> dict[str, Part]:
    """Turn the driver's diff in a draft into a layer over the base's files; returns the parts whose digests are the base's."""
    if base.manifest.mem_size_bytes != mem_size_bytes:
        raise SnapshotError(
            f"a memory of {mem_size_bytes} bytes cannot be a diff on snapshot {base.name!r} of "
            f"{base.manifest.mem_size_bytes} bytes"
        )
    layers = base.manifest.layers
    flat = len(layers) >= MAX_LAYERS
    names = [MEM, *([] if flat else layers)]
    linked = _link(base, names, here, root)
    root.step("layer")
    written = draft / WRITTEN
    if flat:
        old = list(base.layers)
        write_pages(draft / _STAGED, changed_pages(written, draft / MEM, old))
        root.step("rebase")
        write_pages(draft / f"{LAYER_PREFIX}0", _flattened(draft / MEM, [*old, draft / _STAGED]))
        os.unlink(_STAGED, dir_fd=here)
    else:
        name = f"{LAYER_PREFIX}{len(layers)}"
        count = write_pages(draft / name, changed_pages(written, draft / MEM, [draft / layer for layer in layers]))
        if not count:
            os.unlink(name, dir_fd=here)
    os.unlink(WRITTEN, dir_fd=here)
    return linked


def _link(base: Snapshot, names: list[str], here: int, root: Root) -> dict[str, Part]:
    linked = {}
    with ExitStack() as stack:
        there = stack.enter_context(disk.directory(base.directory))
        files = [stack.enter_context(disk.part(there, name)) for name in names]
        with root.records.kept(files):
            for name in names:
                root.step("link")
                disk.link_or_copy(there, name, here, name)
                linked[name] = base.manifest.part(name)
    return linked


def _flattened(mem: Path, layers: list[Path]) -> Iterator[Run]:
    """What all the layers together change in ``mem``."""
    with PageStack(mem, layers) as whole, PageStack(mem, []) as below:
        numbers = array("I", sorted({number for layer in whole.layers for number in layer.numbers}))
        yield from differing(_runs(numbers, whole), below)


def _runs(numbers: array[int], whole: PageStack) -> Iterator[Run]:
    most = CHUNK_BYTES // PAGE_BYTES
    at = 0
    while at < len(numbers):
        end = at + 1
        while end < len(numbers) and end - at < most and numbers[end] == numbers[end - 1] + 1:
            end += 1
        yield numbers[at], whole.read(numbers[at], end - at)
        at = end


def check_layer(path: Path, mem_size_bytes: int) -> None:
    """Check a page file for a memory of that size; raises :class:`~fc_kernel.errors.SnapshotCorrupt` and :class:`OSError`."""
    PageFile.open(path, mem_size_bytes).close()
