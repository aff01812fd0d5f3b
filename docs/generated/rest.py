"""The REST API, from its OpenAPI description, and the events, from their models."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fc_kernel.api.events import EVENT
from fc_kernel.api.openapi import ALWAYS, description
from fc_kernel.server.routes import ROUTES

from .markdown import code, prose, table
from .settings import type_of


def rest_api() -> str:
    """Every operation, then every model."""
    document = description(ROUTES)
    always = {str(status.value) for status in ALWAYS}
    parts = []
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method == "parameters":
                continue
            parts.append(f"## {method.upper()} {path}\n")
            parts.append(f"{operation['summary']}.\n")
            rows = [
                [f"query {code(each['name'])}", type_of(each["schema"]), each["schema"].get("description", "")]
                for each in operation.get("parameters", ())
            ]
            if body := operation.get("requestBody"):
                rows.append(["body", _content(body), ""])
            for status, answer in operation["responses"].items():
                if status not in always:
                    rows.append([code(status), _content(answer), HTTPStatus(int(status)).phrase])
            parts.append(table(["", "what", "meaning"], rows))
    parts.append("## Models\n")
    for name, schema in document["components"]["schemas"].items():
        parts += _model(name, schema, heading="###")
    return "\n".join(parts)


def _content(body: dict[str, Any]) -> str:
    found = []
    for media_type, content in body.get("content", {}).items():
        schema = content["schema"]
        shown = type_of(schema) if "$ref" in schema or schema.get("type") == "array" else ""
        found.append(shown or code(media_type))
    return ", ".join(found) or "nothing"


def _model(name: str, schema: dict[str, Any], *, heading: str) -> list[str]:
    rows = [
        [code(field), type_of(value), prose(value.get("description", ""))]
        for field, value in schema.get("properties", {}).items()
    ]
    parts = [f"{heading} {name}\n", prose(schema.get("description", "")) + "\n"]
    return [*parts, table(["name", "value", "meaning"], rows)] if rows else parts


def event_stream() -> str:
    """Every event that the server tells of."""
    schema = EVENT.json_schema(mode="serialization", ref_template="#/$defs/{model}")
    names = [option["$ref"].rpartition("/")[2] for option in schema["oneOf"]]
    definitions = schema["$defs"]
    parts = [part for name in names for part in _model(name, definitions[name], heading="##")]
    parts.append("## What is in them\n")
    parts += [
        part for name in definitions if name not in names for part in _model(name, definitions[name], heading="###")
    ]
    return "\n".join(parts)
