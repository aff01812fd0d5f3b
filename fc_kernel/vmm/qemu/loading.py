"""A snapshot that is being loaded: its files opened and checked before QEMU is started."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import replace
from pathlib import Path

from ...errors import LaunchError, SnapshotCorrupt
from ...memory.pages import PageFile
from ..base import BootPlan, SnapshotLoad
from .capture import Reference
from .memory import GuestMemory
from .vmstate import read_vmstate


class Loading:
    """The open files of one load. Its methods may block; close it when the VM has been loaded."""

    def __init__(self, snapshot: SnapshotLoad, plan: BootPlan, *, accelerated: bool) -> None:
        """Open and check; raises :class:`~fc_kernel.errors.LaunchError` for files that are missing, damaged or do not fit."""
        self.machine, state = read_vmstate(snapshot.files.vmstate)
        spec = self.machine.spec(plan.spec, snapshot.network_overrides, accelerated=accelerated)
        #: The plan, with the spec of the saved machine.
        self.plan = replace(plan, spec=spec)
        mem_bytes = self.machine.mem_size_mib << 20
        with contextlib.ExitStack() as stack:
            #: Descriptors that QEMU inherits, or reads through ours.
            self.mem = _opened_mem(stack, snapshot, mem_bytes)
            self.devices = os.memfd_create("devices", os.MFD_CLOEXEC)
            stack.callback(os.close, self.devices)
            with os.fdopen(self.devices, "wb", closefd=False) as file:
                file.write(state)
            # QEMU reads on from our position.
            os.lseek(self.devices, 0, os.SEEK_SET)
            self._layers = [stack.enter_context(_opened_layer(path, mem_bytes)) for path in snapshot.layers]
            self.reference = Reference(mem_bytes, self.mem)
            self._undo = stack.pop_all()

    def keep_base(self) -> int:
        """Another descriptor of ``mem``, for as long as the VM lives; the caller closes it."""
        self.reference.base = os.dup(self.mem)
        return self.reference.base

    def learn(self) -> None:
        """Add the layers to :attr:`reference`; that takes a while, and is needed only before the next snapshot."""
        for layer in self._layers:
            self.reference.learn(layer)

    def write_layers(self, memory: GuestMemory) -> None:
        """Write the layers into the process's memory, oldest first."""
        for layer in self._layers:
            for regions, data in layer.blocks():
                with memoryview(bytearray(data)) as view:
                    memory.write(regions, view)

    def close(self) -> None:
        """Close the descriptors; may be called twice."""
        self._undo.close()


def _opened_mem(stack: contextlib.ExitStack, snapshot: SnapshotLoad, mem_bytes: int) -> int:
    path = snapshot.files.mem
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        stack.callback(os.close, descriptor)
        found = os.fstat(descriptor)
    except OSError as error:
        raise LaunchError(f"the snapshot's mem cannot be read: {path}: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode) or found.st_size != mem_bytes:
        raise LaunchError(
            f"the snapshot's mem is damaged: {path} has {found.st_size} bytes; its machine has {mem_bytes}"
        )
    return descriptor


def _opened_layer(path: Path, mem_bytes: int) -> PageFile:
    try:
        return PageFile.open(path, mem_bytes)
    except SnapshotCorrupt as error:
        raise LaunchError(f"{error} ({path})") from error
    except OSError as error:
        raise LaunchError(f"a layer of the snapshot cannot be read: {path}: {error.strerror}") from error
