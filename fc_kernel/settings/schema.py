"""The JSON Schema of a notebook's ``metadata.fc_kernel`` as it is on this server: with the administrator's limits in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from .config import FcKernelConfig
from .environment import environment_source
from .kernel_settings import json_schema
from .monitors import OPEN_TO_ALL
from .resolve import HOST_FIELDS, NO_NETWORK, Limits, Resolved, Source, resolve
from .tier import Tier

#: The schema is for a form that writes a notebook's metadata.
SOURCE_NAME = "notebook"


def limited_schema(config: FcKernelConfig) -> dict[str, Any]:
    """What a notebook may say on this server, and what it gets when it says nothing (``default``)."""
    limits = config.limits()
    schema = json_schema()
    fields: dict[str, Any] = schema["properties"]
    if SOURCE_NAME not in limits.host_paths_from:
        for name in HOST_FIELDS:
            fields.pop(name, None)
        _without_overrides(schema)
    _at_most(fields, vcpu_count=limits.max_vcpu_count, mem_size_mib=limits.max_mem_size_mib)
    _at_most(fields, start_timeout_s=limits.max_start_timeout_s)
    _choices(fields, "monitor", lambda name: name in OPEN_TO_ALL)
    _choices(fields, "minimum_tier", lambda name: Tier(name).rank >= limits.minimum_tier.rank)
    for name, values in _names(limits):
        for option in _options(fields[name]):
            if option.get("type") == "string":
                option["enum"] = values
    defaults = {**config.as_source().values, **_environment().values}
    for name, value in defaults.items():
        if name in fields:
            fields[name]["default"] = value
    return schema


def check_settings(config: FcKernelConfig, value: dict[str, Any]) -> None:
    """Check settings as a start would; raises the :class:`~fc_kernel.errors.SpecError` that the start would raise."""
    resolve([config.as_source(), _environment(), Source(SOURCE_NAME, value)], config.limits())


def defaults_of(config: FcKernelConfig) -> Resolved:
    """What a kernel gets when its notebook says nothing."""
    return resolve([config.as_source(), _environment()], config.limits())


def _environment() -> Source:
    """The settings in the server's own environment, which the administrator controls."""
    return environment_source(os.environ, trusted=True)


def _at_most(fields: dict[str, Any], **values: float) -> None:
    """Lower the maxima of numeric fields to the administrator's limits."""
    for name, value in values.items():
        for option in _options(fields[name]):
            if option.get("type") in ("integer", "number"):
                option["maximum"] = min(value, option.get("maximum", value))


def _names(limits: Limits) -> Iterator[tuple[str, list[str]]]:
    yield "network", [NO_NETWORK, *sorted(limits.networks)]
    if limits.allowed_images is not None:
        yield "image", sorted(limits.allowed_images)


def _choices(fields: dict[str, Any], name: str, keep: Callable[[str], bool]) -> None:
    for option in _options(fields[name]):
        if "enum" in option:
            option["enum"] = [value for value in option["enum"] if keep(value)]


def _options(field: dict[str, Any]) -> list[dict[str, Any]]:
    """A field's alternatives: for most fields, a type and null."""
    options: list[dict[str, Any]] = field.get("anyOf", [field])
    return options


def _without_overrides(schema: dict[str, Any]) -> None:
    """Remove ``network_overrides``, which only devices of the host could fill, and definitions that nothing uses any more."""
    definitions: dict[str, Any] = schema.get("$defs", {})
    definitions.get("SnapshotRef", {}).get("properties", {}).pop("network_overrides", None)
    needed: set[str] = set()
    look = [schema["properties"]]
    while look:
        for reference in _references(look.pop()):
            if reference not in needed:
                needed.add(reference)
                look.append(definitions[reference])
    schema["$defs"] = {name: value for name, value in definitions.items() if name in needed}


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, each in value.items():
            if name == "$ref":
                yield str(each).rpartition("/")[2]
            else:
                yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)
