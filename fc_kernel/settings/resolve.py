"""Merging the settings of all sources into one spec: later sources win, then the limits apply. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import LimitError, SpecError
from .kernel_settings import KernelSettings, Monitor, parse_settings
from .monitors import FOR_TESTS, OPEN_TO_ALL, in_words
from .spec import NetworkInterface, VmSpec
from .tier import Tier

NO_NETWORK = "none"


@dataclass(frozen=True)
class Source:
    """Where settings come from. A trusted source is the administrator's own; others are checked against the limits."""

    name: str
    values: Mapping[str, Any]
    trusted: bool = False


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the administrator allows."""

    max_vcpu_count: int
    max_mem_size_mib: int
    #: ``None`` allows every image of the store.
    allowed_images: frozenset[str] | None = None
    #: The network profiles that kernels may use, by name; ``none`` is always allowed.
    networks: Mapping[str, Sequence[NetworkInterface]] = field(default_factory=dict)
    #: Names of the sources that may name paths of the host, boot arguments and devices.
    host_paths_from: frozenset[str] = frozenset()
    minimum_tier: Tier = Tier.EMULATED
    max_start_timeout_s: float = 600.0


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """What a kernel will get; ``spec`` lacks only what the image fills in (kernel, root file system, boot arguments)."""

    spec: VmSpec
    image: str
    monitor: Monitor
    minimum_tier: Tier
    network: str
    start_timeout_s: float
    #: The kernel's command in the guest; ``None`` is the guest's own ipykernel.
    argv: tuple[str, ...] | None = None


#: Fields that reach for the host; an untrusted source may not set them.
HOST_FIELDS = (
    "kernel", "rootfs", "rootfs_read_only", "boot_args", "network_interfaces", "extra_drives", "vsock",
)  # fmt: skip
NOT_HERE = "nothing; the administrator has not allowed this source to reach for the host (allow_host_paths_from)"


def resolve(sources: Sequence[Source], limits: Limits) -> Resolved:
    """Merge the sources in their order, then apply the limits.

    The first source must be the defaults: it gives ``image``, ``monitor``, ``vcpu_count``, ``mem_size_mib`` and
    ``start_timeout_s``. Raises :class:`~fc_kernel.errors.SpecError` that names the field, the value, what is allowed and
    the source; :class:`~fc_kernel.errors.LimitError` where a limit of the administrator refuses it.
    """
    merged: dict[str, Any] = {}
    said_by: dict[str, str] = {}
    least = limits.minimum_tier
    for source in sources:
        settings = parse_settings(source.values, source=source.name)
        if not source.trusted:
            _check_source(settings, source, limits, least)
        for name in settings.model_fields_set:
            value = getattr(settings, name)
            # A null leaves the field to earlier sources. Asked of the raw value: parsing makes a null list an empty one.
            if source.values[name] is not None:
                merged[name] = value
                said_by[name] = source.name
        least = max((least, settings.least_tier() or least), key=lambda tier: tier.rank)
    settings = KernelSettings(**merged)
    _check_limits(settings, said_by, limits)
    if settings.monitor in FOR_TESTS and least is Tier.EMULATED and "minimum_tier" not in said_by:
        # Only a trusted source can have chosen it, and that choice says that no isolation is wanted.
        least = Tier.NONE
    network = settings.network or NO_NETWORK
    spec = settings.spec()
    if network != NO_NETWORK:
        if spec.network_interfaces:
            raise SpecError(
                "network", network, "either a network profile or network_interfaces", source=said_by["network"]
            )
        spec = spec.model_copy(update={"network_interfaces": tuple(limits.networks[network])})
    return Resolved(
        spec=spec,
        image=settings.image or "default",
        monitor=settings.monitor or "auto",
        minimum_tier=least,
        network=network,
        start_timeout_s=settings.start_timeout_s or limits.max_start_timeout_s,
        argv=settings.argv,
    )


def _check_source(settings: KernelSettings, source: Source, limits: Limits, least: Tier) -> None:
    if source.name not in limits.host_paths_from:
        for name in HOST_FIELDS:
            value = getattr(settings, name)
            if value is not None and value != ():
                raise LimitError(name, source.values[name], NOT_HERE, source=source.name)
        if settings.restore_from is not None and settings.restore_from.network_overrides:
            overrides = settings.model_dump(mode="json")["restore_from"]["network_overrides"]
            raise LimitError("restore_from.network_overrides", overrides, NOT_HERE, source=source.name)
    if (monitor := settings.monitor) in FOR_TESTS:
        allowed = f"{in_words(OPEN_TO_ALL)}; the {monitor} isolates nothing"
        raise LimitError("monitor", monitor, allowed, source=source.name)
    asked = settings.least_tier()
    if asked is not None and asked.rank < least.rank:
        raise LimitError("minimum_tier", str(asked), f"{least} or stronger", source=source.name)


def _check_limits(settings: KernelSettings, said_by: Mapping[str, str], limits: Limits) -> None:
    for name, most in (
        ("vcpu_count", limits.max_vcpu_count),
        ("mem_size_mib", limits.max_mem_size_mib),
        ("start_timeout_s", limits.max_start_timeout_s),
    ):
        value = getattr(settings, name)
        if value is not None and value > most:
            raise LimitError(name, value, f"at most {most} (the administrator's limit)", source=said_by[name])
    image = settings.image
    if limits.allowed_images is not None and image is not None and image not in limits.allowed_images:
        allowed = f"one of: {', '.join(sorted(limits.allowed_images)) or 'none'}"
        raise LimitError("image", image, allowed, source=said_by["image"])
    network = settings.network
    if network is not None and network != NO_NETWORK and network not in limits.networks:
        allowed = f"one of: {', '.join([NO_NETWORK, *sorted(limits.networks)])}"
        raise LimitError("network", network, allowed, source=said_by["network"])
