"""Where a kernel's VM comes from: a snapshot that was asked for, the pool, a template, or a cold boot."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Sequence
from pathlib import Path

from ..base.tasks import off_loop
from ..errors import (
    FcKernelError,
    ImageNotFound,
    LaunchError,
    SnapshotIncompatible,
    SnapshotNotFound,
    UnsupportedByMonitor,
)
from ..images.store import Image, ImageStore
from ..machine.boot import boot
from ..machine.identity import host_for
from ..machine.load import load, spec_for_load
from ..machine.machine import Machine
from ..settings.loaded import check_loaded
from ..settings.resolve import Resolved
from ..settings.spec import NetworkInterface, SnapshotRef, VmSpec
from ..settings.tenant import Tenant
from ..snapshots.disk import Hold
from ..snapshots.snapshot import Snapshot
from ..snapshots.store import SnapshotStore
from ..vmm.monitors import Choice, best_monitor, choose_monitor
from ..vmm.reaper import reap
from .pool import Pool
from .stores import snapshot_store
from .templates import TemplateRecipe, Templates, reason_to_boot, recipe_for

log = logging.getLogger(__name__)


class Supply:
    """Makes VMs for one tenant's sessions."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.config = tenant.config
        self.snapshots: SnapshotStore = snapshot_store(tenant)
        self.templates = Templates(tenant)
        self.pool = Pool(tenant, self.templates)
        self._reaping: asyncio.Task[None] | None = None

    async def reap(self) -> None:
        """End the VMs that dead processes left in the tenant's run directory, once; every start of a VM waits for it."""
        if self._reaping is None:
            self._reaping = asyncio.get_running_loop().create_task(_reap(self.tenant.run_dir), name="reap")
        await asyncio.shield(self._reaping)

    async def fresh(self, resolved: Resolved, *, python: bool, labels: dict[str, str]) -> Machine:
        """A VM with the given settings. It may hold a kernel that waits for :func:`~fc_kernel.machine.wake.wake`.

        Raises :class:`~fc_kernel.errors.ConfigError` or :class:`~fc_kernel.errors.LaunchError`; then nothing is left.
        """
        await self.reap()
        choice = await off_loop(functools.partial(choose_monitor, resolved, self.config, self.tenant.data_dir))
        if reason_to_boot(resolved, self.config) is None and choice.snapshots:
            recipe = await off_loop(functools.partial(self._recipe, choice, resolved, python=python))
            if (machine := await self._from_template(recipe, labels)) is not None:
                return machine
        return await boot(resolved, self.tenant, labels=labels, choice=choice)

    def _recipe(self, choice: Choice, resolved: Resolved, *, python: bool) -> TemplateRecipe:
        image = self._image(resolved.image) if choice.needs_image else None
        return recipe_for(image, choice, resolved, self.config, python=python)

    async def prepare(self, resolved: Resolved) -> bool:
        """Make the template for Python kernels with these settings if there is none; returns whether there is one now.

        Raises :class:`~fc_kernel.errors.FcKernelError` when the host can run no kernel at all.
        """
        choice = await off_loop(functools.partial(choose_monitor, resolved, self.config, self.tenant.data_dir))
        if reason_to_boot(resolved, self.config) is not None or not choice.snapshots:
            return False
        recipe = await off_loop(functools.partial(self._recipe, choice, resolved, python=True))
        held = await self.templates.hold(recipe)
        if held is not None:
            held[1].close()
        return held is not None

    async def _from_template(self, recipe: TemplateRecipe, labels: dict[str, str]) -> Machine | None:
        machine = await self.pool.take(recipe, labels)
        if machine is not None:
            return machine
        held = await self.templates.hold(recipe)
        if held is None:
            return None
        try:
            machine = await load(
                *held,
                recipe.choice,
                recipe.resolved,
                self.tenant,
                spec=spec_for_load(held[0], recipe.image),
                started="template",
                labels=labels,
            )
        except LaunchError as error:
            # A template only saves time: whatever is wrong with it, the kernel can boot.
            log.warning(
                "the template of image %s could not be restored, the kernel boots: %s", recipe.image_name, error
            )
            return None
        self.pool.refill(recipe)
        return machine

    async def from_ref(self, ref: SnapshotRef, resolved: Resolved, *, scope: str, labels: dict[str, str]) -> Machine:
        """A VM from the snapshot that settings name, by its id or by a name in ``scope``; as :meth:`from_snapshot`."""

        def find() -> Snapshot:
            try:
                return self.snapshots.get(ref.snapshot_id, scope=scope)
            except SnapshotNotFound:
                # It may be another notebook's: then its id, or a name that is unique, finds it.
                return self.snapshots.get(ref.snapshot_id)

        snapshot = await off_loop(find)
        if ref.vm_id != snapshot.manifest.vm_id:
            raise SnapshotNotFound(
                f"the VM {ref.vm_id!r} has no snapshot {ref.snapshot_id!r}; it belongs to the VM {snapshot.manifest.vm_id!r}"
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
        """A VM in the state that a user's snapshot saved; its kernel is frozen.

        Before anything is started it raises :class:`~fc_kernel.errors.LimitError` for a VM that the limits forbid, and
        :class:`~fc_kernel.errors.SnapshotError` when the snapshot does not fit or is corrupt; afterwards
        :class:`~fc_kernel.errors.LaunchError`.
        """
        await self.reap()
        choose = functools.partial(self._hold, snapshot, resolved)
        hold, choice, spec = await off_loop(choose, undo=lambda held: held[0].close())
        return await load(
            snapshot,
            hold,
            choice,
            resolved,
            self.tenant,
            spec=spec,
            started="snapshot",
            labels=labels,
            overrides=overrides,
        )

    def _hold(self, snapshot: Snapshot, resolved: Resolved) -> tuple[Hold, Choice, VmSpec]:
        """Hold the snapshot, then choose a monitor for it and check it."""
        hold = self.snapshots.hold(snapshot)
        try:
            return hold, *self._place(snapshot, resolved)
        except BaseException:
            hold.close()
            raise

    def _place(self, snapshot: Snapshot, resolved: Resolved) -> tuple[Choice, VmSpec]:
        """Choose the monitor and the files that a snapshot needs, and check the snapshot against them."""
        manifest = snapshot.manifest
        # Before anything of it is read: what is only claimed must cost nothing.
        check_loaded(
            snapshot.spec,
            None if manifest.image is None else manifest.image.name,
            self.config.limits(),
            granted=resolved.spec.network_interfaces,
        )
        choice = best_monitor(manifest.monitor, self.config, self.tenant.data_dir)
        if choice.tier.rank < resolved.minimum_tier.rank:
            choice = choose_monitor(resolved, self.config, self.tenant.data_dir)
        if not choice.snapshots:
            raise UnsupportedByMonitor("a restore", needs="a monitor that loads snapshots", found=choice.monitor)
        if manifest.image is None:
            self.snapshots.check(snapshot, host_for(choice, None))
            return choice, spec_for_load(snapshot, None, resolved.spec)
        try:
            image = self._image(manifest.image.name)
        except ImageNotFound:
            raise SnapshotIncompatible("image", have=manifest.image.name, want="no image of that name") from None
        self.snapshots.check(snapshot, host_for(choice, image))
        return choice, spec_for_load(snapshot, image)

    def _image(self, name: str) -> Image:
        """The image of this name, its files checked against its manifest."""
        store = ImageStore.of(self.tenant)
        image = store.get(name)
        store.verify(image, unless_unchanged=True)
        return image

    async def aclose(self) -> None:
        """End the pool's VMs."""
        await self.pool.aclose()


async def _reap(run_dir: Path) -> None:
    # A killed server's VMs are ended before a new one is started; a failure must not keep a kernel from starting.
    try:
        for vm in await off_loop(functools.partial(reap, run_dir)):
            log.warning("VM %s of a dead server: %s", vm.vm_id, vm.outcome)
    except (FcKernelError, OSError) as error:
        log.warning("the VMs of dead servers could not be ended: %s", error)
