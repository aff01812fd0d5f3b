"""The JSON Schema of the settings: valid itself, and of one opinion with the parser."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fc_kernel.cli import FcKernelApp
from fc_kernel.errors import SpecError
from fc_kernel.settings.kernel_settings import KernelSettings, json_schema, parse_settings
from fc_kernel.settings.spec import VmSpec

from .test_spec import WHOLE

GOOD: dict[str, Any] = {
    **WHOLE,
    "image": "default",
    "argv": ["R", "--slave", "-e", "IRkernel::main()", "--args", "{connection_file}"],
    "monitor": "qemu",
    "minimum_tier": "kvm",
    "network": "none",
    "start_timeout_s": 60,
    "network_interfaces": [
        {**WHOLE["network_interfaces"][0], "rx_rate_limiter": {"ops": {"size": 1, "refill_time_ms": 1}}}
    ],
    "restore_from": {
        **WHOLE["restore_from"],
        "network_overrides": [{"iface_id": "eth0", "host_dev_name": "tap1"}],
    },
}
#: One of each kind, put in the place of every value of the document above.
STRANGERS: list[Any] = [
    None, True, False, 0, 1, -1, 2, 300, 2**32, 2**64, 0.5, "", "1", "a", "rootfs", "..", "/a/../b", "a\nb", "a\0b", "é",
    "x" * 5000, "01:00:00:00:00:00", "06-00-ac-10-00-02", [], [1], [{}], {}, {"x": 1}, {"size": 1, "refill_time_ms": 0},
]  # fmt: skip


def in_javascript(validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[jsonschema.ValidationError]:
    """``pattern`` as JSON Schema has it: ``$`` is the very end, not before a last newline as in Python."""
    if validator.is_type(instance, "string") and not re.search(re.sub(r"\$(?=$|\))", r"\\Z", pattern), instance):
        yield jsonschema.ValidationError(f"{instance!r} does not match {pattern!r}")


Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": in_javascript})
VALIDATOR = Validator(json_schema())


def parser_takes(document: object) -> bool:
    try:
        parse_settings(json.loads(json.dumps(document)))
    except SpecError:
        return False
    return True


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in items:
        yield (*path, name)
        yield from places(child, (*path, name))


def replaced(path: tuple[str | int, ...], stranger: object) -> dict[str, Any]:
    document = copy.deepcopy(GOOD)
    here: Any = document
    for part in path[:-1]:
        here = here[part]
    here[path[-1]] = stranger
    return document


def test_the_schema_is_one() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(KernelSettings.model_fields) == set(GOOD)
    assert set(VmSpec.model_fields) < set(schema["properties"])
    assert "required" not in schema


def test_everything_is_described() -> None:
    schema = json_schema()
    for definition in (schema, *schema["$defs"].values()):
        assert definition["description"]
        for name, field in definition["properties"].items():
            assert field.get("description"), name


@pytest.mark.parametrize(
    "document", [{}, GOOD, *({name: None} for name in GOOD), *({name: GOOD[name]} for name in GOOD)]
)
def test_good_documents(document: dict[str, Any]) -> None:
    VALIDATOR.validate(document)
    assert parser_takes(document)


@pytest.mark.parametrize("path", list(places(GOOD)), ids=lambda path: ".".join(map(str, path)))
def test_schema_and_parser_agree_on_strangers_in_every_place(path: tuple[str | int, ...]) -> None:
    refused = 0
    for stranger in STRANGERS:
        document = replaced(path, stranger)
        assert VALIDATOR.is_valid(document) == parser_takes(document), (path, stranger)
        refused += not parser_takes(document)
    assert refused > len(STRANGERS) // 3


@pytest.mark.parametrize(
    "path", [path for path in places(GOOD) if isinstance(path[-1], str)], ids=lambda path: ".".join(map(str, path))
)
def test_schema_and_parser_agree_on_what_is_missing(path: tuple[str | int, ...]) -> None:
    document = copy.deepcopy(GOOD)
    here: Any = document
    for part in path[:-1]:
        here = here[part]
    del here[path[-1]]
    assert VALIDATOR.is_valid(document) == parser_takes(document)


values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.sampled_from(STRANGERS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(GOOD)) | st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(list(GOOD)), values, min_size=1, max_size=3))
def test_schema_and_parser_agree_on_anything(document: dict[str, Any]) -> None:
    assert VALIDATOR.is_valid(document) == parser_takes(document)


@pytest.mark.parametrize(
    "document",
    [
        {"extra_drives": [GOOD["extra_drives"][0]] * 2},
        {"network_interfaces": [GOOD["network_interfaces"][0]] * 2},
        {"image": "\ud800"},
        {"vcpu_count": 2.0},
    ],
)
def test_what_a_schema_cannot_say_is_the_parsers_alone(document: dict[str, Any]) -> None:
    assert not parser_takes(document)


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    app = FcKernelApp()
    app.initialize(["schema"])
    with pytest.raises(SystemExit) as caught:
        app.start()
    assert caught.value.code == 0
    assert json.loads(capsys.readouterr().out) == json_schema()
