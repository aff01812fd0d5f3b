"""The server's configuration: defaults for kernels, and the administrator's limits."""

from __future__ import annotations

import os
import re
from typing import Any

from jupyter_core.paths import jupyter_config_path
from traitlets import Bool, Dict, Enum, Float, Integer, List, Unicode, default
from traitlets.config import Config, Configurable
from traitlets.config.loader import ConfigFileNotFound, JSONFileConfigLoader, PyFileConfigLoader

from ..errors import ConfigError, SpecError
from .monitors import AUTO, CHOICES
from .resolve import NO_NETWORK, Limits, Source
from .spec import NAME_PATTERN, parse_spec
from .tier import Tier

CONFIG_NAME = "jupyter_fc_kernel_config"
#: The part of the host's memory that one kernel may have by default.
HOST_SHARE = 0.75


class FcKernelConfig(Configurable):
    """Defaults and limits of microVM kernels. Only the administrator's configuration files set them, never a kernelspec."""

    image = Unicode("default", help="Guest image of kernels that name none.").tag(config=True)
    monitor = Enum(CHOICES, AUTO, help="Monitor of kernels that name none.").tag(config=True)
    vcpu_count = Integer(1, help="vCPUs of kernels that set no number.").tag(config=True)
    mem_size_mib = Integer(1024, help="Memory in MiB of kernels that set none.").tag(config=True)
    start_timeout_s = Float(120.0, help="Seconds within which a kernel must be ready.").tag(config=True)
    minimum_tier = Enum(
        ["auto", "jailed", "kvm", "emulated", "none"],
        "auto",
        help="Refuse to start with less isolation than this. auto means jailed under JupyterHub, else emulated.",
    ).tag(config=True)

    max_vcpu_count = Integer(help="Most vCPUs that a kernel may have.").tag(config=True)
    max_mem_size_mib = Integer(help="Most memory in MiB that a kernel may have.").tag(config=True)
    max_start_timeout_s = Float(600.0, help="Longest start_timeout_s that a kernel may set.").tag(config=True)
    allowed_images = List(Unicode(), None, allow_none=True, help="Images that kernels may use; None allows all.").tag(
        config=True
    )
    networks = Dict(
        help="Network profiles by name, each a list of network_interfaces as in VmSpec. Without one a kernel has no network."
    ).tag(config=True)
    allow_host_paths_from = List(
        Unicode(),
        help="Sources (kernelspec, notebook, call, environment) that may name host paths, devices and boot arguments.",
    ).tag(config=True)

    firecracker_path = Unicode(
        "", help="Path of Firecracker's program; if empty, the one on the PATH, or the newest that fc-kernel installed."
    ).tag(config=True)
    qemu_path = Unicode("", help="Path of QEMU's program; if empty, the one on the PATH.").tag(config=True)
    restart_linger_s = Float(
        30.0, help="Seconds for which a VM outlives its dead kernel process, so that a restart finds it."
    ).tag(config=True)
    keep_vm_on_restart = Bool(True, help="Restart the kernel process in the same VM when it is healthy.").tag(
        config=True
    )

    templates = Bool(True, help="Start kernels from a snapshot of a freshly started one, made at the first start.").tag(
        config=True
    )
    template_imports = List(
        Unicode(),
        ["numpy", "pandas", "matplotlib.pyplot"],
        help="Modules that a template's Python has imported; one that the image lacks is left out.",
    ).tag(config=True)
    pool_size = Integer(
        0, min=0, help="How many restored VMs are kept ready for each image and shape that was used."
    ).tag(config=True)
    pool_mem_size_mib = Integer(help="Most memory in MiB that all VMs of the pool may have together.").tag(config=True)
    max_snapshots = Integer(200, min=0, help="Most snapshots that a user may keep.").tag(config=True)
    max_snapshot_bytes = Integer(64 << 30, min=0, help="Most bytes on disk that a user's snapshots may take.").tag(
        config=True
    )
    min_free_bytes = Integer(1 << 30, min=0, help="Bytes that a snapshot must leave free on the disk.").tag(config=True)
    max_forks = Integer(
        16,
        min=1,
        help="The most kernels that one fork may start. A request through the REST API may ask for at most 8 in any case.",
    ).tag(config=True)

    @default("max_vcpu_count")
    def _max_vcpu_count(self) -> int:
        # Firecracker's limit is 32; more vCPUs than the host has only compete with each other.
        return min(32, os.cpu_count() or 1)

    @default("max_mem_size_mib")
    def _max_mem_size_mib(self) -> int:
        return int(HOST_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) >> 20

    @default("pool_mem_size_mib")
    def _pool_mem_size_mib(self) -> int:
        return self.max_mem_size_mib // 4

    @property
    def effective_minimum_tier(self) -> Tier:
        """``minimum_tier`` with ``auto`` decided."""
        if self.minimum_tier != "auto":
            return Tier(self.minimum_tier)
        if os.environ.get("JUPYTERHUB_API_TOKEN"):
            return Tier.JAILED
        return Tier.EMULATED

    def limits(self) -> Limits:
        """The limits; raises :class:`~fc_kernel.errors.ConfigError` for a malformed network profile."""
        networks = {}
        for name, interfaces in self.networks.items():
            if not isinstance(name, str) or name == NO_NETWORK or not re.fullmatch(NAME_PATTERN, name):
                raise ConfigError(f"FcKernelConfig.networks: {name!r} cannot be the name of a network")
            try:
                networks[name] = parse_spec({"network_interfaces": interfaces}).network_interfaces
            except SpecError as error:
                raise ConfigError(f"FcKernelConfig.networks[{name!r}]: {error}") from error
        return Limits(
            max_vcpu_count=self.max_vcpu_count,
            max_mem_size_mib=self.max_mem_size_mib,
            max_start_timeout_s=self.max_start_timeout_s,
            allowed_images=None if self.allowed_images is None else frozenset(self.allowed_images),
            networks=networks,
            host_paths_from=frozenset(self.allow_host_paths_from),
            minimum_tier=self.effective_minimum_tier,
        )

    def as_source(self) -> Source:
        """The defaults as the first source."""
        values: dict[str, Any] = {
            "image": self.image,
            "monitor": self.monitor,
            "vcpu_count": self.vcpu_count,
            "mem_size_mib": self.mem_size_mib,
            "start_timeout_s": self.start_timeout_s,
        }
        return Source("configuration", values, trusted=True)


def load_config(config: Config) -> FcKernelConfig:
    """The configuration of a server or client.

    ``jupyter execute`` and papermill have no configuration of their own; then the section is read from
    ``jupyter_fc_kernel_config.py`` or ``.json`` on Jupyter's configuration path. Raises
    :class:`~fc_kernel.errors.ConfigError` when such a file cannot be read, for a bad value, and for an unknown name: a
    limit with a misspelt name would limit nothing.
    """
    if "FcKernelConfig" not in config:
        config = _files()
    known = FcKernelConfig.class_trait_names(config=True)
    section = config.get("FcKernelConfig", {})
    if not isinstance(section, dict):
        raise ConfigError(f"FcKernelConfig is {section!r:.40}; allowed: an object of names and values")
    unknown = [name for name in section if name not in known]
    if unknown:
        raise ConfigError(f"FcKernelConfig.{unknown[0]} is not a setting; there are: {', '.join(sorted(known))}")
    try:
        return FcKernelConfig(config=config)
    except Exception as error:
        raise ConfigError(f"FcKernelConfig: {error}") from error


def _files() -> Config:
    merged = Config()
    for directory in reversed(jupyter_config_path()):
        for loader in (
            JSONFileConfigLoader(f"{CONFIG_NAME}.json", path=directory),
            PyFileConfigLoader(f"{CONFIG_NAME}.py", path=directory),
        ):
            try:
                merged.merge(loader.load_config())
            except ConfigFileNotFound:
                continue
            except Exception as error:
                raise ConfigError(f"{loader.full_filename}: {error}") from error
    return merged
