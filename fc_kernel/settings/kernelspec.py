"""The kernelspec on disk: where its files are, and how a profile of it is made and installed."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from traitlets import TraitError

from ..errors import ConfigError, SpecError
from .kernel_settings import CONNECTION_FILE, parse_settings

DEFAULT_NAME = "fc-python3"
PROVISIONER = "fc-provisioner"

#: What ``jupyter_client`` accepts as a kernel name; checked here so that the error is ours and clear.
NAME_PATTERN = re.compile(r"[a-z0-9._-]{1,64}\Z", re.ASCII)
#: In characters: menus and notebooks show the language.
MAX_LANGUAGE = 64
#: What only the Python kernel has: features in the metadata, and logos.
PYTHONS_OWN = ("debugger", "supported_features")
LOGOS = "logo-*"

#: In a wheel the files are beside the code; in a checkout they are at the top.
_CANDIDATES = (Path(__file__).parents[1] / "kernelspec_data", Path(__file__).parents[2] / "kernelspec")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A kernelspec to install: its name, what the menu shows, and the settings that it carries."""

    name: str = DEFAULT_NAME
    display_name: str | None = None
    #: As in ``metadata.fc_kernel``: ``vcpu_count``, ``mem_size_mib``, ``image`` …
    config: Mapping[str, Any] = field(default_factory=dict)
    #: Environment of the kernel in the guest.
    env: Mapping[str, str] = field(default_factory=dict)
    #: Language of the kernel that ``config["argv"]`` starts; ``None`` without such a command.
    language: str | None = None
    #: How that kernel is interrupted: by SIGINT, or by a message on its control channel.
    interrupt_mode: str = "signal"


def source_dir() -> Path:
    """Directory with ``kernel.json`` and the logos; raises :class:`~fc_kernel.errors.ConfigError` if it is missing."""
    for candidate in _CANDIDATES:
        if (candidate / "kernel.json").is_file():
            return candidate
    raise ConfigError("the kernelspec's files are missing from this installation; install fc-kernel again")


def kernel_json(profile: Profile) -> dict[str, Any]:
    """The profile's ``kernel.json``; raises :class:`~fc_kernel.errors.SpecError` for a bad name, language or setting."""
    if not NAME_PATTERN.match(profile.name):
        raise SpecError("name", profile.name, "1 to 64 of a-z 0-9 . _ -")
    config = {name: value for name, value in profile.config.items() if value is not None}
    parse_settings(config, source="the profile")
    _check_language(profile, config)
    spec: dict[str, Any] = json.loads((source_dir() / "kernel.json").read_text())
    # An absolute interpreter, because launchers that are not Jupyter's do not replace a bare "python".
    spec["argv"][0] = sys.executable
    if profile.display_name:
        spec["display_name"] = profile.display_name
    elif _foreign(config):
        spec["display_name"] = f"{profile.language} (microVM)"
    elif profile.name != DEFAULT_NAME:
        spec["display_name"] = f"{spec['display_name']} · {profile.name}"
    if _foreign(config):
        spec["language"] = profile.language
        spec["interrupt_mode"] = profile.interrupt_mode
        del spec["kernel_protocol_version"]
        for feature in PYTHONS_OWN:
            del spec["metadata"][feature]
    spec["metadata"]["kernel_provisioner"]["config"] = config
    if config:
        # For clients that ignore provisioners. Escaped, because they would put the host's connection file there.
        escaped = json.dumps(config).replace(CONNECTION_FILE, CONNECTION_FILE.replace("{", "\\u007b"))
        spec["argv"] += ["--settings", escaped]
    if profile.env:
        spec["env"] = dict(profile.env)
    return spec


def _foreign(config: Mapping[str, Any]) -> bool:
    """Whether the settings name a kernel of another language."""
    return config.get("argv") is not None


def _check_language(profile: Profile, config: Mapping[str, Any]) -> None:
    language = profile.language
    if _foreign(config) != (language is not None):
        raise SpecError("language", language, "the name of the kernel's language with argv, none without")
    if language is not None and not (0 < len(language) <= MAX_LANGUAGE and language.isprintable()):
        raise SpecError("language", language, f"1 to {MAX_LANGUAGE} printable characters")


def install(profile: Profile, *, user: bool = False, prefix: str | None = None) -> Path:
    """Install the profile, for the user, below ``prefix``, or system-wide; returns the directory.

    An installed kernelspec of that name is replaced. Raises :class:`~fc_kernel.errors.ConfigError` where the target
    cannot be written.
    """
    spec = kernel_json(profile)
    try:
        with tempfile.TemporaryDirectory() as staging:
            staged = Path(staging) / profile.name
            # The logos are Python's.
            ignored = shutil.ignore_patterns(LOGOS) if _foreign(profile.config) else None
            shutil.copytree(source_dir(), staged, ignore=ignored)
            (staged / "kernel.json").write_text(json.dumps(spec, indent=1) + "\n")
            return Path(KernelSpecManager().install_kernel_spec(str(staged), profile.name, user=user, prefix=prefix))
    except OSError as error:
        raise ConfigError(f"cannot install the kernelspec: {error}; try --user or --sys-prefix") from error


def uninstall(name: str) -> Path:
    """Remove a kernelspec of ours and return its directory; raises :class:`~fc_kernel.errors.ConfigError` for any other."""
    specs = KernelSpecManager()
    found = specs.find_kernel_specs().get(name)
    if found is None:
        raise ConfigError(f"no kernelspec is called {name!r}")
    try:
        ours = provisioner_of(specs.get_kernel_spec(name)) == PROVISIONER
    except (NoSuchKernel, ValueError, TypeError, TraitError, OSError) as error:
        raise ConfigError(f"the kernelspec in {found} is damaged and is left alone: {error}") from error
    if not ours:
        raise ConfigError(f"the kernelspec {name!r} was not installed by fc-kernel; it is left alone")
    try:
        return Path(specs.remove_kernel_spec(name))
    except OSError as error:
        raise ConfigError(f"cannot remove the kernelspec: {error}") from error


def provisioner_of(spec: KernelSpec) -> str:
    """Name of a kernelspec's provisioner, ``""`` for Jupyter's own."""
    provisioner = spec.metadata.get("kernel_provisioner", {})
    return str(provisioner.get("provisioner_name", "")) if isinstance(provisioner, Mapping) else ""
