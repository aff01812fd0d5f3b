"""The API's description: it is of what there is, and what there is answers as it says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from tornado.web import RequestHandler

from fc_kernel.api.openapi import description
from fc_kernel.server.routes import ROUTES

from ..server_site import MICROVM, Site, publish, serving

DESCRIPTION = description(ROUTES, base_url="/a%40b/")
METHODS = ("get", "post", "put", "patch", "delete")


@pytest.fixture
async def site(tmp_path: Path, settings_of_nobody: None) -> AsyncIterator[Site]:
    async with serving(tmp_path) as site:
        yield site


def implemented(handler: type[RequestHandler]) -> set[str]:
    return {method for method in METHODS if getattr(handler, method) is not RequestHandler._unimplemented_method}


def test_every_method_of_every_route_is_described_and_the_reverse() -> None:
    there_are = {f"/{route.path}": implemented(route.handler) for route in ROUTES}
    described = {path: {each for each in METHODS if each in item} for path, item in DESCRIPTION["paths"].items()}
    assert described == there_are


async def test_the_application_has_these_routes_and_no_others(site: Site) -> None:
    rules = [
        rule.matcher.regex.pattern
        for router in site.app.web_app.default_router.rules
        for rule in getattr(router.target, "rules", ())
        if hasattr(rule.matcher, "regex") and "fc-kernel" in rule.matcher.regex.pattern
    ]
    assert sorted(rules) == sorted(f"/a%40b{route.pattern}$" for route in ROUTES)


def test_it_is_sound() -> None:
    assert json.loads(json.dumps(DESCRIPTION)) == DESCRIPTION
    for schema in DESCRIPTION["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    names = [
        each["operationId"] for item in DESCRIPTION["paths"].values() for key, each in item.items() if key in METHODS
    ]
    assert len(set(names)) == len(names)

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            here = [value["$ref"]] if "$ref" in value else []
            return here + [each for child in value.values() for each in references(child)]
        return [each for child in value for each in references(child)] if isinstance(value, list) else []

    known = DESCRIPTION["components"]["schemas"]
    assert {each.rpartition("/")[2] for each in references(DESCRIPTION)} <= set(known)


def check(response: httpx.Response, method: str, path: str) -> None:
    """Fails unless the answer is one that is described."""
    responses = DESCRIPTION["paths"][path][method]["responses"]
    assert str(response.status_code) in responses, f"{method} {path}: {response.status_code} {response.text}"
    content = responses[str(response.status_code)].get("content")
    if content is None:
        assert response.content == b""
        return
    [media_type] = content
    assert response.headers["Content-Type"].partition(";")[0] == media_type
    if media_type == "application/json":
        registry = Registry().with_resource("d", Resource.from_contents(DESCRIPTION, DRAFT202012))
        schema = {"$ref": f"d#{_pointer(path, method, response.status_code)}"}
        jsonschema.Draft202012Validator(schema, registry=registry).validate(response.json())


def _pointer(path: str, method: str, status: int) -> str:
    escaped = path.replace("~", "~0").replace("/", "~1").replace("{", "%7B").replace("}", "%7D")
    return f"/paths/{escaped}/{method}/responses/{status}/content/application~1json/schema"


async def test_every_answer_is_as_described(site: Site) -> None:
    taken = publish(site.store, scope="n.ipynb", name="a", notebook=b"{}")
    publish(site.store, scope="n.ipynb", name="b")
    bodies: list[dict[str, Any]] = [
        {},
        {"json": {}},
        {"json": {"name": "c"}},
        {"json": {"name": "b"}},
        {"json": {"name": "../"}},
        {"json": {"snapshot": taken.id}},
        {"json": {"snapshot": "0" * 16}},
        {"json": {"snapshot": taken.id, "count": 2, "path": "n.ipynb"}},
        {"json": {"vcpu_count": 200}},
        {"content": b"{"},
        {"content": b"x" * (1 << 17)},
        {"content": b'{"exported": "d"}', "params": {"scope": "y.ipynb"}},
        {"headers": {"Authorization": "token no"}},
    ]
    seen: set[tuple[str, str, int]] = set()
    # What removes comes last.
    for method in ("get", "post", "patch", "delete"):
        for route in ROUTES:
            if method not in route.operations:
                continue
            for kernel_id, snapshot_id in ((MICROVM, taken.id), ("none", "none")):
                path = route.path.format(kernel_id=kernel_id, snapshot_id=snapshot_id)
                for options in bodies if method in ("post", "patch") else bodies[:1] + bodies[-1:]:
                    # A login's cookie would let in who has no token.
                    site.client.cookies.clear()
                    response = await site.client.request(method, path, **options)
                    check(response, method, f"/{route.path}")
                    seen.add((method, route.path, response.status_code))
    for route in ROUTES:
        for method, operation in route.operations.items():
            assert (method, route.path, operation.status) in seen
            assert (method, route.path, 403) in seen


async def test_it_is_served(site: Site) -> None:
    response = await site.call("GET", "openapi.json")
    assert response.json() == DESCRIPTION
