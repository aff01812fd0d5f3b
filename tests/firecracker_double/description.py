"""Firecracker's own API description, as a check of requests. Unknown fields are refused, as Firecracker does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import yaml

DATA = Path(__file__).parents[1] / "data/firecracker"
VERSIONS = ("1.12.1", "1.16.1")


def described(version: str) -> str:
    """The version whose description holds for another: what came with 1.16 stays."""
    return VERSIONS[tuple(map(int, version.split("."))) >= (1, 16, 0)]


class BadRequest(Exception):
    """What Firecracker would answer with 400; the message is the fault."""


class ApiDescription:
    """The description of one version."""

    def __init__(self, version: str) -> None:
        self.path = DATA / f"firecracker-{version}.yaml"
        self._document = yaml.load(self.path.read_text(), yaml.CSafeLoader)
        if self._document["info"]["version"] != version:
            raise ValueError(f"{self.path} describes {self._document['info']['version']}")
        for definition in self._document["definitions"].values():
            if "properties" in definition:
                definition.setdefault("additionalProperties", False)

    def check(self, method: str, path: str, body: object) -> str:
        """The path's template; raises :class:`BadRequest`."""
        for template, operations in self._document["paths"].items():
            match = re.fullmatch(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", template), path)
            if match is not None:
                operation = operations.get(method.lower())
                if operation is None:
                    raise BadRequest(f"Invalid request method {method} for {path}")
                self._check_body(operation, body)
                for name, value in match.groupdict().items():
                    if isinstance(body, dict) and body.get(name, value) != value:
                        raise BadRequest(f"The id from the path [{value}] does not match the id from the body")
                return str(template)
        raise BadRequest(f"Invalid request path: {path}")

    def _check_body(self, operation: dict[str, Any], body: object) -> None:
        schemas = [each["schema"] for each in operation.get("parameters", ()) if each["in"] == "body"]
        if not schemas:
            if body is not None:
                raise BadRequest("a body where none is described")
            return
        # A reference hides what stands beside it (draft 4), so it is wrapped.
        whole = {"allOf": schemas, "definitions": self._document["definitions"]}
        try:
            jsonschema.Draft4Validator(whole).validate(body)
        except jsonschema.ValidationError as error:
            where = "/".join(map(str, error.absolute_path))
            raise BadRequest(f"An error occurred when deserializing the json body: {where}: {error.message}") from error
