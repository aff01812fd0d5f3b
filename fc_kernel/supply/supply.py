"""Where a kernel's machine comes from: a snapshot that was asked for, the pool, a template, or a cold boot."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence

from ..base.paths import data_dir
from ..errors import ImageNotFound, LaunchError, SnapshotIncompatible, SnapshotNotFound, UnsupportedByMonitor
from ..host.engine import Engine
from ..images.store import Image, ImageStore
from ..machine.identity import host_for
from ..machine.load import load, spec_for_load
from ..machine.machine import Machine
from ..settings.config import FcKernelConfig
from ..settings.resolve import Resolved
from ..settings.spec import NetworkInterface, SnapshotRef, VmSpec
from ..snapshots.snapshot import Snapshot
from ..snapshots.store import SnapshotStore
from ..vmm.monitors import Choice, best_monitor, choose_monitor
from .pool import Pool
from .stores import snapshot_store
from .templates import Templates, Wanted, wanted, why_not

log = logging.getLogger(__name__)


class Supply:
    """Makes machines for the sessions of one configuration."""

    def __init__(self, config: FcKernelConfig) -> None:
        self.config = config
        self.snapshots: SnapshotStore = snapshot_store(config)
        self.templates = Templates(config)
        self.pool = Pool(config, self.templates)

    async def fresh(self, resolved: Resolved, *, python: bool, labels: dict[str, str]) -> Machine:
        """A machine as settings have it. It may have a kernel that waits for :func:`~fc_kernel.machine.load.wake`.

        Raises :class:`~fc_kernel.errors.ConfigError` or :class:`~fc_kernel.errors.LaunchError`; then nothing is left.
        """
        loop = asyncio.get_running_loop()
        choice = await loop.run_in_executor(None, choose_monitor, resolved, self.config)
        why = why_not(resolved, self.config)
        if why is None and choice.snapshots:
            want = await loop.run_in_executor(None, self._wanted, choice, resolved, python)
            if (machine := await self._from_template(want, labels)) is not None:
                return machine
        return await Machine.boot(resolved, self.config, labels=labels, choice=choice)

    def _wanted(self, choice: Choice, resolved: Resolved, python: bool) -> Wanted:
        image = None if not choice.needs_image else _image(resolved.image)
        return wanted(image, choice, resolved, self.config, python=python)

    async def prepare(self, resolved: Resolved) -> bool:
        """Make the template for Python kernels with these settings, if there is none; whether there is one now.

        Raises :class:`~fc_kernel.errors.FcKernelError` when the host can run no kernel at all.
        """
        loop = asyncio.get_running_loop()
        choice = await loop.run_in_executor(None, choose_monitor, resolved, self.config)
        if why_not(resolved, self.config) is not None or not choice.snapshots:
            return False
        want = await loop.run_in_executor(None, self._wanted, choice, resolved, True)
        held = await self.templates.hold(want)
        if held is not None:
            held[1].close()
        return held is not None

    async def _from_template(self, want: Wanted, labels: dict[str, str]) -> Machine | None:
        machine = await self.pool.take(want, labels)
        if machine is not None:
            return machine
        held = await self.templates.hold(want)
        if held is None:
            return None
        try:
            machine = await load(
                *held,
                want.choice,
                want.resolved,
                self.config,
                spec=spec_for_load(held[0], want.image),
                started="template",
                labels=labels,
            )
        except LaunchError as error:
            # A template is no more than a faster way; whatever is wrong with it, the kernel can boot.
            log.warning("the template of image %s could not be restored, the kernel boots: %s", want.image_name, error)
            return None
        self.pool.refill(want)
        return machine

    async def from_ref(self, ref: SnapshotRef, resolved: Resolved, *, scope: str, labels: dict[str, str]) -> Machine:
        """A machine from the snapshot that settings name, by its id or by a name in ``scope``; as :meth:`from_snapshot`."""

        def find() -> Snapshot:
            try:
                return self.snapshots.get(ref.snapshot_id, scope=scope)
            except SnapshotNotFound:
                # Of another notebook, perhaps: then by its id, or by a name that is the only one.
                return self.snapshots.get(ref.snapshot_id)

        snapshot = await asyncio.get_running_loop().run_in_executor(None, find)
        if ref.vm_id != snapshot.manifest.vm_id:
            raise SnapshotNotFound(
                f"the VM {ref.vm_id!r} has no snapshot {ref.snapshot_id!r}; that one is of the VM {snapshot.manifest.vm_id!r}"
            )
        return await self.from_snapshot(snapshot, resolved, labels=labels, overrides=ref.network_overrides or ())

    async def from_snapshot(
        self,
        snapshot: Snapshot,
        resolved: Resolved,
        *,
        labels: dict[str, str],
        overrides: Sequence[NetworkInterface] = (),
    ) -> Machine:
        """A machine that stands where a user's snapshot was taken, its kernel frozen.

        Raises :class:`~fc_kernel.errors.SnapshotError` before anything is started when it does not fit or is corrupt,
        :class:`~fc_kernel.errors.LaunchError` afterwards.
        """
        loop = asyncio.get_running_loop()
        hold = self.snapshots.hold(snapshot)
        try:
            choice, spec = await loop.run_in_executor(None, self._place, snapshot, resolved)
        except BaseException:
            hold.close()
            raise
        return await load(
            snapshot,
            hold,
            choice,
            resolved,
            self.config,
            spec=spec,
            started="snapshot",
            labels=labels,
            overrides=overrides,
        )

    def _place(self, snapshot: Snapshot, resolved: Resolved) -> tuple[Choice, VmSpec]:
        """The monitor and the files for a snapshot, which decides about both, once it is checked."""
        manifest = snapshot.manifest
        choice = best_monitor(manifest.monitor, self.config)
        if choice.tier.rank < resolved.minimum_tier.rank:
            choice = choose_monitor(resolved, self.config)
        if not choice.snapshots:
            raise UnsupportedByMonitor("a restore", needs="a monitor that loads snapshots", found=choice.monitor)
        if manifest.image is None:
            self.snapshots.check(snapshot, host_for(choice, None))
            return choice, spec_for_load(snapshot, None, resolved.spec)
        try:
            image = _image(manifest.image.name)
        except ImageNotFound:
            raise SnapshotIncompatible("image", have=manifest.image.name, want="no image of that name") from None
        self.snapshots.check(snapshot, host_for(choice, image))
        return choice, spec_for_load(snapshot, image)

    async def aclose(self) -> None:
        """End the pool's machines."""
        await self.pool.aclose()


def _image(name: str) -> Image:
    """An image whose files are what its manifest says."""
    store = ImageStore()
    image = store.get(name)
    store.verify(image, unless_unchanged=True)
    return image


def shared_supply(engine: Engine, config: FcKernelConfig) -> Supply:
    """The supply of all sessions on an engine that have the same configuration; the engine closes it."""
    values = {name: getattr(config, name) for name in sorted(config.class_trait_names(config=True))}
    values["data_dir"] = data_dir()
    key = json.dumps(values, sort_keys=True, default=str)
    supply = engine.shared_things.get(key)
    if supply is None:
        supply = engine.shared_things[key] = Supply(config)
        engine.adopt(supply)
    return supply
