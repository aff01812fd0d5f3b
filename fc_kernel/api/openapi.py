"""The OpenAPI 3.1 description of the API. It is made from the routes and their models, so it cannot differ from them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .. import __version__
from .events import PUBLIC_EVENTS, public_event_schema
from .models import Failure

Model = type[BaseModel]
#: Errors of every route: not logged in or not allowed; the host or the VM failed; the kernels are on a gateway.
ALWAYS = (HTTPStatus.FORBIDDEN, HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.NOT_IMPLEMENTED)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of a route. ``answer`` is a model, a list with one model (for an array), a media type, or ``None``."""

    summary: str
    answer: Model | list[Model] | str | None
    status: HTTPStatus = HTTPStatus.OK
    request: Model | str | None = None
    query: Model | None = None
    errors: tuple[HTTPStatus, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Route:
    """A path below ``fc-kernel/api/``, its handler and its methods."""

    path: str
    handler: type[Any]
    operations: Mapping[str, Operation] = field(default_factory=dict)

    @property
    def pattern(self) -> str:
        """The path as a regular expression for tornado."""
        return "/fc-kernel/api/" + re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", self.path)


def description(routes: Sequence[Route], *, base_url: str = "/") -> dict[str, Any]:
    """The whole description as a JSON object."""
    models: dict[Model, None] = {Failure: None, **dict.fromkeys(PUBLIC_EVENTS)}
    requests: dict[Model, None] = {}
    for route in routes:
        for operation in route.operations.values():
            answer = operation.answer[0] if isinstance(operation.answer, list) else operation.answer
            if answer is not None and not isinstance(answer, str):
                models[answer] = None
            if operation.request is not None and not isinstance(operation.request, str):
                requests[operation.request] = None
    _, schemas = models_json_schema(
        [*((model, "serialization") for model in models), *((model, "validation") for model in requests)],
        ref_template="#/components/schemas/{model}",
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fc-kernel",
            "version": __version__,
            "description": "Kernels in microVMs on a Jupyter server: their state, snapshots, restores and forks.",
            "license": {"name": "BSD-3-Clause", "identifier": "BSD-3-Clause"},
        },
        "servers": [{"url": f"{base_url.rstrip('/')}/fc-kernel/api"}],
        "security": [{"token": []}, {"cookie": [], "xsrf": []}],
        "paths": {f"/{route.path}": _path(route) for route in routes},
        "components": {
            # PublicEvent belongs to no route: subscribers of the server's events read it.
            "schemas": {**schemas["$defs"], "PublicEvent": public_event_schema()},
            "securitySchemes": {
                "token": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "The server's token: `token …`",
                },
                "cookie": {"type": "apiKey", "in": "cookie", "name": "username-…", "description": "Set at login."},
                "xsrf": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-XSRFToken",
                    "description": "The value of the _xsrf cookie.",
                },
            },
        },
    }


def _path(route: Route) -> dict[str, Any]:
    names = re.findall(r"{(\w+)}", route.path)
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    operations = {method: _operation(route, method, operation) for method, operation in route.operations.items()}
    return {**({"parameters": parameters} if parameters else {}), **operations}


def _operation(route: Route, method: str, operation: Operation) -> dict[str, Any]:
    words = re.sub(r"[{}]", "", route.path).replace(".json", "").split("/")
    described: dict[str, Any] = {
        "operationId": "_".join([method, *words]),
        "summary": operation.summary,
        "responses": {
            str(operation.status.value): {"description": operation.status.phrase, **_content(operation.answer)},
            **{
                str(status.value): {"description": status.phrase, **_content(Failure)}
                for status in sorted({*ALWAYS, *operation.errors})
            },
        },
    }
    if operation.request is not None:
        described["requestBody"] = {"required": isinstance(operation.request, str), **_content(operation.request)}
    if operation.query is not None:
        schema = operation.query.model_json_schema()
        described["parameters"] = [
            {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": value}
            for name, value in schema["properties"].items()
        ]
    return described


def _content(body: Model | list[Model] | str | None) -> dict[str, Any]:
    if body is None:
        return {}
    if isinstance(body, str):
        schema: dict[str, Any] = {"type": "object"} if body == "application/json" else {}
        return {"content": {body: {"schema": schema}}}
    if isinstance(body, list):
        schema = {"type": "array", "items": {"$ref": f"#/components/schemas/{body[0].__name__}"}}
    else:
        schema = {"$ref": f"#/components/schemas/{body.__name__}"}
    return {"content": {"application/json": {"schema": schema}}}
