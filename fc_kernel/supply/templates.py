"""Templates: snapshots of freshly started kernels, made at the first start of an image and shape, restored at later ones."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import logging
import secrets
import time
from dataclasses import dataclass

from ..base.tasks import off_loop
from ..errors import FcKernelError, SnapshotError, SnapshotExists
from ..images.initramfs import agent_digest
from ..images.store import Image
from ..machine import capture
from ..machine.agent_client import Frozen
from ..machine.boot import boot
from ..machine.identity import host_for
from ..machine.machine import Machine
from ..settings.config import FcKernelConfig
from ..settings.resolve import Resolved
from ..settings.spec import VmSpec
from ..settings.tenant import Tenant
from ..snapshots.disk import Hold
from ..snapshots.draft import Draft
from ..snapshots.manifest import Cpu, ManifestDraft
from ..snapshots.snapshot import Snapshot
from ..vmm.base import Capability
from ..vmm.monitors import Choice
from ..wire.operations import TEMPLATE_IMPORTS_VARIABLE
from ..wire.ports import PROTOCOL_VERSION
from .stores import template_store

log = logging.getLogger(__name__)

#: The number of the kernel process in a template; a session counts on from there.
INSTANCE = 1
#: Counted up when the content of templates changes for a reason that is not in their keys.
RECIPE_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class TemplateRecipe:
    """What the template for a start is made of."""

    key: str
    #: ``None`` where the monitor needs no image (the fake one).
    image: Image | None
    choice: Choice
    resolved: Resolved
    #: Whether Python's kernel runs in it; for other languages only the agent does.
    python: bool
    imports: tuple[str, ...]

    @property
    def image_name(self) -> str:
        """The image's name, for messages."""
        return "-" if self.image is None else self.image.name


def reason_to_boot(resolved: Resolved, config: FcKernelConfig) -> str | None:
    """Why a kernel must boot and cannot start from a template; ``None`` when it can."""
    spec = resolved.spec
    if not config.templates:
        return "templates are switched off (FcKernelConfig.templates)"
    for what, given in (
        ("drives", spec.extra_drives),
        ("network interfaces", spec.network_interfaces),
        ("a vsock address", spec.vsock),
        ("a rate limit", spec.rootfs_rate_limit),
        ("a kernel of its own", spec.kernel),
        ("a root file system of its own", spec.rootfs),
        ("boot arguments of its own", spec.boot_args),
        ("a root file system that it writes to", spec.rootfs_read_only is False),
    ):
        if given:
            return f"it has {what}"
    return None


def recipe_for(
    image: Image | None, choice: Choice, resolved: Resolved, config: FcKernelConfig, *, python: bool
) -> TemplateRecipe:
    """The recipe of the template for these settings. Two recipes have the same key only if they make the same template."""
    imports = tuple(config.template_imports) if python else ()
    made_of = {
        "recipe": RECIPE_VERSION,
        "host": host_for(choice, image).model_dump(mode="json"),
        "agent": "" if image is None else agent_digest(image),
        "boot_args": "" if image is None else image.boot_args,
        "vcpu_count": resolved.spec.vcpu_count,
        "mem_size_mib": resolved.spec.mem_size_mib,
        "track_dirty_pages": resolved.spec.track_dirty_pages,
        "python": python,
        "imports": imports,
    }
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    return TemplateRecipe(key=key, image=image, choice=choice, resolved=resolved, python=python, imports=imports)


class Templates:
    """Finds templates and makes missing ones, for each key only one at a time among all processes."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self.store = template_store(tenant)
        self._making: dict[str, asyncio.Lock] = {}

    async def hold(self, recipe: TemplateRecipe) -> tuple[Snapshot, Hold] | None:
        """The template, checked and held; made first if there is none. ``None`` when that fails: the kernel must boot."""
        async with self._making.setdefault(recipe.key, asyncio.Lock()):
            found = await self._find(recipe)
            if found is None:
                try:
                    await self._make(recipe)
                except SnapshotExists:
                    log.info("another process makes the template; this kernel boots")
                    return None
                except (FcKernelError, OSError) as error:
                    log.warning("no template could be made, the kernel boots: %s", error)
                    return None
                found = await self._find(recipe)
            return found

    async def _find(self, recipe: TemplateRecipe) -> tuple[Snapshot, Hold] | None:
        return await off_loop(functools.partial(self._find_now, recipe), undo=_let_go)

    def _find_now(self, recipe: TemplateRecipe) -> tuple[Snapshot, Hold] | None:
        try:
            template = self.store.find(recipe.key)
            if template is None:
                return None
            hold = self.store.hold(template)
        except SnapshotError as error:
            log.debug("templates could not be looked up: %s", error)
            return None
        try:
            self.store.check(template, host_for(recipe.choice, recipe.image))
        except SnapshotError as error:
            hold.close()
            log.warning("the template of image %s is made anew: %s", recipe.image_name, error)
            self.store.delete(template, force=True)
            return None
        except BaseException:
            hold.close()
            raise
        return template, hold

    async def _make(self, recipe: TemplateRecipe) -> None:
        """Boot, start the kernel, save, end the VM."""
        since = time.monotonic()
        resolved, choice = recipe.resolved, recipe.choice
        spec = resolved.spec
        begin = functools.partial(self.store.begin, recipe.key, expected_bytes=(spec.mem_size_mib or 0) << 20)
        async with await off_loop(begin, undo=Draft.discard) as draft:
            machine = await boot(resolved, self._tenant, labels={"template": recipe.image_name}, choice=choice)
            try:
                if Capability.SNAPSHOT not in machine.vmm.capabilities:
                    raise SnapshotError(f"{machine.vmm.name} {machine.vmm.version} takes no snapshots")
                key = await self._start_kernel(machine, recipe) if recipe.python else b""

                def describe(frozen: Frozen) -> ManifestDraft:
                    state = capture.kernel_state(frozen, key)
                    return manifest_of(machine).model_copy(update={"kernel": state, "template_key": recipe.key})

                for stale in await off_loop(
                    functools.partial(
                        self.store.others,
                        describe(Frozen(instance=INSTANCE, language="python") if recipe.python else Frozen()),
                    )
                ):
                    log.info(
                        "image %s gets a new template: %s was %s, is %s",
                        recipe.image_name,
                        stale.field,
                        stale.have,
                        stale.want,
                    )
                await capture.take(machine, draft, describe, hooks=False)
            finally:
                await machine.aclose()
        await off_loop(self.store.sweep)
        log.info("the template of image %s was made in %.1f s", recipe.image_name, time.monotonic() - since)

    async def _start_kernel(self, machine: Machine, recipe: TemplateRecipe) -> bytes:
        key = secrets.token_hex(16).encode()
        await machine.agent.start_kernel(
            argv=None,
            env={TEMPLATE_IMPORTS_VARIABLE: ",".join(recipe.imports), **machine.environment()},
            key=key.decode(),
            instance=INSTANCE,
            timeout_s=recipe.resolved.start_timeout_s,
        )
        return key


def _let_go(held: tuple[Snapshot, Hold] | None) -> None:
    if held is not None:
        held[1].close()


def manifest_of(machine: Machine) -> ManifestDraft:
    """The part of a snapshot's manifest that describes the VM; the caller adds what it knows of the kernel."""
    vmm, host = machine.vmm, machine.host
    return ManifestDraft(
        monitor=vmm.name,
        monitor_version=vmm.version,
        cpu=host.cpu or Cpu(model="", flags_sha256=""),
        agent_protocol=host.agent_protocol or PROTOCOL_VERSION,
        image=host.image,
        boot_args=vmm.plan.spec.boot_args or "",
        spec=without_paths(vmm.plan.spec),
        vm_id=vmm.plan.vm_id,
    )


def without_paths(spec: VmSpec) -> VmSpec:
    """The shape of a VM, without the paths of its files on this host."""
    return spec.model_copy(update={"kernel": None, "rootfs": None, "vsock": None, "restore_from": None})
