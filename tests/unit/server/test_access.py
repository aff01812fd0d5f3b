"""Who may do what: every route and method, for nobody, for a stranger, for who may only look, and for the owner."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jupyter_server.gateway.managers import GatewayMappingKernelManager

from fc_kernel.api.openapi import Route
from fc_kernel.server.routes import ROUTES

from ..server_site import LOCAL, MICROVM, TOKEN, OnlyOurs, OnlyReads, Site, publish, serving

CALLS = [(method, route) for route in ROUTES for method in route.operations]
IDS = [f"{method} {route.path}" for method, route in CALLS]
#: A POST that changes nothing.
LOOKS = {("post", "schema")}


@pytest.fixture
async def site(tmp_path: Path, settings_of_nobody: None) -> AsyncIterator[Site]:
    async with serving(tmp_path) as site:
        yield site


async def call(site: Site, method: str, route: Route, *, kernel_id: str = MICROVM, **options: Any) -> httpx.Response:
    """A sound request of the route."""
    taken = publish(site.store, scope="n.ipynb", notebook=b"{}")
    path = route.path.format(kernel_id=kernel_id, snapshot_id=taken.id)
    bodies: dict[str, Any] = {
        "kernels/{kernel_id}/restore": {"snapshot": taken.id},
        "kernels/{kernel_id}/fork": {"snapshot": taken.id},
        "snapshots/{snapshot_id}": {"description": "d"},
        "schema": {},
    }
    if route.path == "snapshots/import":
        options |= {"params": {"scope": "x.ipynb"}, "content": b'{"exported": "another"}'}
    elif method in ("post", "patch"):
        options["json"] = bodies.get(route.path, {})
    return await site.client.request(method, path, **options)


def untouched(site: Site) -> bool:
    [taken] = site.store.list()
    return taken.description == "" and not site.starts.calls and not site.sessions[MICROVM].asked


@pytest.mark.parametrize(("method", "route"), CALLS, ids=IDS)
async def test_the_owner(site: Site, method: str, route: Route) -> None:
    response = await call(site, method, route)
    assert response.status_code == route.operations[method].status, response.text


@pytest.mark.parametrize("token", ["", "token wrong", f"token {TOKEN}x"])
@pytest.mark.parametrize(("method", "route"), CALLS, ids=IDS)
async def test_nobody_and_a_stranger(site: Site, method: str, route: Route, token: str) -> None:
    site.client.headers["Authorization"] = token
    answers = []
    for kernel_id in (MICROVM, LOCAL, "none"):
        response = await call(site, method, route, kernel_id=kernel_id)
        assert response.status_code == 403, response.text
        answers.append(response.json())
        site.store.delete(site.store.list()[-1])
    # Nobody learns which kernels there are.
    assert answers[0] == answers[1] == answers[2]
    assert site.store.list() == []


@pytest.mark.parametrize(("method", "route"), CALLS, ids=IDS)
async def test_who_may_only_look(site: Site, method: str, route: Route) -> None:
    site.app.web_app.settings["authorizer"] = OnlyReads(parent=site.app)
    response = await call(site, method, route)
    if method == "get" or (method, route.path) in LOOKS:
        assert response.status_code == route.operations[method].status
    else:
        assert response.status_code == 403
        assert response.json()["reason"] == "Forbidden"
    assert untouched(site)


async def test_a_fork_is_no_way_around_the_authorizer(site: Site) -> None:
    """Who may use this API, but start no kernels and copy no notebooks, does not through it."""
    site.app.web_app.settings["authorizer"] = OnlyOurs(parent=site.app)
    response = await site.call("POST", f"kernels/{MICROVM}/fork", json={"path": "n.ipynb"})
    assert response.status_code == 403
    assert "kernels" in response.json()["message"]
    assert site.starts.calls == []


@pytest.mark.parametrize(
    ("method", "route"), [each for each in CALLS if each[0] != "get"], ids=[name for name in IDS if name[:3] != "get"]
)
async def test_another_site_cannot_use_the_browsers_cookie(site: Site, method: str, route: Route) -> None:
    """A request with the login's cookie, as another page's form would send it: without the XSRF token."""
    login = await site.client.get("status")
    assert login.status_code == 200
    del site.client.headers["Authorization"]
    assert site.client.cookies
    response = await call(site, method, route)
    assert response.status_code == 403, response.text
    assert untouched(site)
    there = await call(site, method, route, headers={"Origin": "http://evil.example"})
    assert there.status_code in (403, 404)


@pytest.mark.parametrize("what", ["export", "notebook"])
async def test_downloads_want_to_be_asked_for_from_here(site: Site, what: str) -> None:
    taken = publish(site.store, scope="n.ipynb", notebook=b"{}")
    await site.client.get("status")
    del site.client.headers["Authorization"]
    path = f"snapshots/{taken.id}/{what}"
    assert (await site.client.get(path, headers={"Referer": "http://evil.example/"})).status_code == 403
    here = f"http://{site.client.base_url.netloc.decode()}/lab"
    assert (await site.client.get(path, headers={"Referer": here})).status_code == 200


@pytest.mark.parametrize(("method", "route"), CALLS, ids=IDS)
async def test_with_a_gateway(site: Site, method: str, route: Route, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site.extension, "gateway", True)
    response = await call(site, method, route)
    if route.path in ("status", "openapi.json"):
        assert response.status_code == 200
    else:
        assert (response.status_code, response.json()["reason"]) == (501, "GatewayUnsupported")
    if route.path == "status":
        assert response.json()["gateway"] is True
    assert untouched(site)


async def test_a_gateway_is_recognised(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from fc_kernel.server.extension import Extension

    assert not Extension(site.app).gateway
    monkeypatch.setattr(site.app, "kernel_manager", GatewayMappingKernelManager.__new__(GatewayMappingKernelManager))
    assert Extension(site.app).gateway
