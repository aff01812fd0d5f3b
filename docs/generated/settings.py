"""The settings of a kernel, from their JSON Schema, and the administrator's, from their traits."""

from __future__ import annotations

from typing import Any

from fc_kernel.settings.config import FcKernelConfig
from fc_kernel.settings.kernel_settings import json_schema
from fc_kernel.settings.resolve import HOST_FIELDS

from .markdown import code, prose, table, trait_type


def settings_tables() -> str:
    """All that ``metadata.fc_kernel`` may hold, and the objects in it."""
    schema = json_schema()
    parts = [_fields(schema, mark_host_fields=True)]
    for name, definition in schema["$defs"].items():
        parts += [f"## {name}\n", prose(definition.get("description", "")) + "\n", _fields(definition)]
    return "\n".join(parts)


def _fields(schema: dict[str, Any], *, mark_host_fields: bool = False) -> str:
    required = schema.get("required", ())
    rows = []
    for name, field in schema["properties"].items():
        notes = prose(field.get("description", ""))
        if name in required:
            notes += "; required"
        if mark_host_fields and name in HOST_FIELDS:
            notes += "; *reaches for the host*"
        rows.append([code(name), type_of(field), notes])
    return table(["name", "value", "meaning"], rows)


#: Bounds of a number in a JSON Schema.
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most"}
#: A bound that only says how the number is stored is of no interest.
MANY = 1 << 31


def type_of(field: dict[str, Any]) -> str:
    """What a value may be, in words."""
    options = [option for option in field.get("anyOf", [field]) if option.get("type") != "null"]
    return " or ".join(dict.fromkeys(_option(option) for option in options)) or "any"


def _option(option: dict[str, Any]) -> str:
    if "$ref" in option:
        name = option["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in option:
        return code(str(option["const"]))
    if "enum" in option:
        return ", ".join(code(str(value)) for value in option["enum"])
    kind = str(option.get("format") or option.get("type", "any"))
    if kind == "array":
        return f"list of {type_of(option.get('items', {}))}"
    return kind + "".join(
        f", {word} {option[bound]:,g}" for bound, word in BOUNDS.items() if option.get(bound, MANY) < MANY
    )


#: What a default that depends on the host is.
COMPUTED = {
    "max_vcpu_count": "the host's processors, at most 32",
    "max_mem_size_mib": "three quarters of the host's memory",
    "pool_mem_size_mib": "a quarter of `max_mem_size_mib`",
}


def configuration_table() -> str:
    """The administrator's options."""
    rows = []
    for name, trait in sorted(FcKernelConfig.class_traits(config=True).items()):
        default = COMPUTED.get(name) or code(repr(trait.default()))
        rows.append([code(name), trait_type(trait), default, prose(trait.help)])
    return table(["option", "value", "default", "meaning"], rows)
