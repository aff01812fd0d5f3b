"""What a notebook, a kernelspec profile, the environment or a caller may say about a kernel's microVM.

One model validates them all, documents them (``fc-kernel schema``) and can drive a form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, Strict, WithJsonSchema

from ..errors import SpecError
from .monitors import CHOICES
from .spec import Name, VmSpec, parse
from .tier import Tier

#: A notebook's settings are a dozen short values; more is a mistake or an attack.
MAX_SETTINGS_BYTES = 64 << 10
MAX_DEPTH = 12
#: An hour is more than any boot takes, and keeps a forgotten start from waiting for ever.
MAX_START_TIMEOUT_S = 3600.0
#: A program and its options, among which may be a little code for an interpreter.
MAX_ARGV_WORDS, MAX_ARGV_WORD = 64, 4096
#: The placeholder of the connection file in a kernel's command, as in kernelspecs.
CONNECTION_FILE = "{connection_file}"

if TYPE_CHECKING:
    Monitor = str
else:
    Monitor = Literal[CHOICES]
SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"


def _word(word: str) -> str:
    if not (0 < len(word) <= MAX_ARGV_WORD and word.isascii() and word.isprintable()):
        raise ValueError(f"words of 1 to {MAX_ARGV_WORD} printable ASCII characters")
    return word


def _command(words: tuple[str, ...]) -> tuple[str, ...]:
    if len(words) > MAX_ARGV_WORDS or sum(word.count(CONNECTION_FILE) for word in words) != 1:
        raise ValueError(f"at most {MAX_ARGV_WORDS} words, with {CONNECTION_FILE} in them once")
    return words


_PLACE = CONNECTION_FILE.replace("{", r"\{").replace("}", r"\}")
Argv = Annotated[
    tuple[Annotated[str, Strict(), AfterValidator(_word)], ...],
    Field(strict=False),
    AfterValidator(_command),
    WithJsonSchema(
        {
            "type": "array",
            "maxItems": MAX_ARGV_WORDS,
            "items": {
                "type": "string",
                "minLength": 1,
                "maxLength": MAX_ARGV_WORD,
                "pattern": "^[ -~]*$",
                "not": {"pattern": f"{_PLACE}.*{_PLACE}"},
            },
            "contains": {"type": "string", "pattern": _PLACE},
            "minContains": 1,
            "maxContains": 1,
        }
    ),
]


class KernelSettings(VmSpec):
    """``metadata.fc_kernel`` of a notebook, ``metadata.kernel_provisioner.config`` of a kernelspec, ``FC_KERNEL_*``.

    All fields are optional; ``null`` means the default. Fields with a path of the host, ``boot_args`` and ``vsock``
    are refused where the administrator has not allowed them.
    """

    image: Name | None = Field(None, description="name of the guest image")
    argv: Argv | None = Field(
        None, description="the kernel's command in the guest, with {connection_file} in it; null is the image's Python"
    )
    monitor: Monitor | None = Field(None, description="the program that runs the VM; auto takes the best one here")
    minimum_tier: Literal["jailed", "kvm", "emulated", "none"] | None = Field(
        None, description="refuse to start with less isolation than this"
    )
    network: Name | None = Field(None, description="'none', or a network profile that the administrator named")
    start_timeout_s: Annotated[float, Strict(), Field(gt=0, le=MAX_START_TIMEOUT_S, allow_inf_nan=False)] | None = (
        Field(None, description="seconds within which the kernel must be ready")
    )

    def spec(self) -> VmSpec:
        """The part that is a ``VmSpec``."""
        return VmSpec(**{name: getattr(self, name) for name in VmSpec.model_fields})

    def least_tier(self) -> Tier | None:
        """``minimum_tier`` as a tier."""
        return None if self.minimum_tier is None else Tier(self.minimum_tier)


def parse_settings(value: object, *, source: str | None = None) -> KernelSettings:
    """Validate settings from an untrusted source; raises one :class:`~fc_kernel.errors.SpecError`."""
    if not isinstance(value, Mapping):
        raise SpecError("fc_kernel", value, "an object of names and values", source=source)
    size = _weigh(value, source)
    if size > MAX_SETTINGS_BYTES:
        raise SpecError("fc_kernel", f"about {size} bytes", f"at most {MAX_SETTINGS_BYTES} bytes", source=source)
    return parse(KernelSettings, value, source=source)


def _weigh(value: object, source: str | None, depth: int = 0) -> int:
    """About how many bytes the value has as JSON; stops early, so that hostile input costs little."""
    if depth > MAX_DEPTH:
        raise SpecError("fc_kernel", "nested deeply", f"at most {MAX_DEPTH} levels", source=source)
    if isinstance(value, str | bytes):
        return len(value) + 2
    total = 8
    children = [*value.keys(), *value.values()] if isinstance(value, Mapping) else value
    if isinstance(value, Mapping) and (odd := [name for name in value if not isinstance(name, str)]):
        raise SpecError("fc_kernel", odd[0], "names that are strings", source=source)
    if isinstance(children, list | tuple):
        for child in children:
            total += _weigh(child, source, depth + 1)
            if total > MAX_SETTINGS_BYTES:
                break
    return total


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of :class:`KernelSettings`."""
    return {"$schema": SCHEMA_ID, **KernelSettings.model_json_schema(), "title": "fc_kernel settings"}
