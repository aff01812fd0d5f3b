"""The extension's routes: what they answer, on sessions in memory and a real store."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
import pytest

from fc_kernel.errors import LaunchError, QuotaExceeded, SnapshotIncompatible, StateError

from ..server_site import LOCAL, MICROVM, Site, publish, serving

KERNEL = f"kernels/{MICROVM}"


@pytest.fixture
async def site(tmp_path: Path, settings_of_nobody: None) -> AsyncIterator[Site]:
    async with serving(tmp_path) as site:
        yield site


async def ok(site: Site, method: str, path: str, status: int = 200, **options: Any) -> Any:
    response = await site.call(method, path, **options)
    assert response.status_code == status, response.text
    return response.json() if response.content else None


async def refused(site: Site, method: str, path: str, status: int, reason: str, **options: Any) -> dict[str, Any]:
    failure = await ok(site, method, path, status, **options)
    assert failure["reason"] == reason, failure
    assert "\n" not in failure["message"]
    assert failure["message"]
    return failure


async def test_status(site: Site) -> None:
    status = await ok(site, "GET", "status")
    assert status["gateway"] is False
    assert status["tier"] == "none"
    assert status["limits"]["max_vcpu_count"] == 2


async def test_kernels(site: Site) -> None:
    [kernel] = await ok(site, "GET", "kernels")
    assert kernel == await ok(site, "GET", KERNEL)
    assert (kernel["kernel_id"], kernel["state"], kernel["mem_size_mib"]) == (MICROVM, "running", 512)
    assert kernel["lineage"] == []
    assert await ok(site, "GET", f"{KERNEL}/console") == {"lines": ["Linux version 6.1", "booted"]}


@pytest.mark.parametrize("rest", ["", "/snapshots", "/console"])
async def test_kernels_that_have_no_microvm(site: Site, rest: str) -> None:
    failure = await refused(site, "GET", f"kernels/{LOCAL}{rest}", 404, "NotInMicroVM")
    assert "python3" in failure["message"]
    await refused(site, "GET", f"kernels/no-such{rest}", 404, "KernelNotFound")
    await refused(site, "GET", f"kernels/%2e%2e%2f{rest}", 404, "KernelNotFound")


async def test_a_snapshot_from_its_making_to_its_end(site: Site) -> None:
    notebook = nbformat.v4.new_notebook()
    notebook.cells.append(nbformat.v4.new_code_cell("x = 1"))
    body = {"name": "one", "description": "<b>first</b>", "notebook": notebook}
    made = await ok(site, "POST", f"{KERNEL}/snapshots", 201, json=body)
    assert (made["name"], made["description"], made["scope"]) == ("one", "<b>first</b>", "n.ipynb")
    assert (made["current"], made["has_notebook"], made["parent"], made["in_use"]) == (True, True, None, False)
    assert made["size_bytes"] > 0
    second = await ok(site, "POST", f"{KERNEL}/snapshots", 201)
    assert (second["name"], second["parent"]) == ("s1", made["id"])
    listed = await ok(site, "GET", f"{KERNEL}/snapshots")
    assert [(each["name"], each["current"]) for each in listed] == [("one", False), ("s1", True)]
    assert await ok(site, "GET", "snapshots") == listed
    assert await ok(site, "GET", "snapshots", params={"scope": "other.ipynb"}) == []
    assert await ok(site, "GET", f"snapshots/{made['id']}") == listed[0]
    document = await ok(site, "GET", f"snapshots/{made['id']}/notebook")
    assert document["cells"][0]["source"] == "x = 1"
    await refused(site, "GET", f"snapshots/{second['id']}/notebook", 404, "NoNotebook")
    changed = await ok(site, "PATCH", f"snapshots/{made['id']}", json={"name": "uno", "description": "new"})
    assert (changed["name"], changed["description"]) == ("uno", "new")
    assert await ok(site, "PATCH", f"snapshots/{made['id']}", json={}) == changed
    await refused(site, "PATCH", f"snapshots/{made['id']}", 409, "SnapshotExists", json={"name": "s1"})
    with site.store.hold(site.store.get(made["id"])):
        assert (await ok(site, "GET", f"snapshots/{made['id']}"))["in_use"]
        await refused(site, "DELETE", f"snapshots/{made['id']}", 409, "SnapshotInUse")
    await ok(site, "DELETE", f"snapshots/{made['id']}", 204)
    await refused(site, "GET", f"snapshots/{made['id']}", 404, "SnapshotNotFound")
    await refused(site, "DELETE", f"snapshots/{made['id']}", 404, "SnapshotNotFound")


async def test_restore(site: Site) -> None:
    taken = publish(site.store, scope="n.ipynb", name="a")
    kernel = await ok(site, "POST", f"{KERNEL}/restore", json={"snapshot": taken.id, "same_seed": True})
    assert (kernel["current"], kernel["generation"]) == (taken.id, 2)
    assert kernel["lineage"] == [{"id": taken.id, "name": "a"}]
    assert site.sessions[MICROVM].asked == [("restore", taken.id, True)]
    await refused(site, "POST", f"{KERNEL}/restore", 404, "SnapshotNotFound", json={"snapshot": "0" * 16})


BAD_BODIES = [
    ("snapshots", {"name": "../x"}, "name"),
    ("snapshots", {"name": "a..b"}, "name"),
    ("snapshots", {"name": "0123456789abcdef"}, "name"),
    ("snapshots", {"name": "a\n"}, "name"),
    ("snapshots", {"name": "ä"}, "name"),
    ("snapshots", {"name": 1}, "name"),
    ("snapshots", {"name": "a" * 65}, "name"),
    ("snapshots", {"description": "d" * 5000}, "description"),
    ("snapshots", {"description": None}, "description"),
    ("snapshots", {"names": "a"}, "names"),
    ("snapshots", {"notebook": []}, "notebook"),
    ("snapshots", {"notebook": {}}, "notebook.nbformat"),
    ("snapshots", {"notebook": {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{}]}}, "notebook"),
    ("restore", {}, "snapshot"),
    ("restore", {"snapshot": "one"}, "snapshot"),
    ("restore", {"snapshot": "0" * 16, "same_seed": 1}, "same_seed"),
    ("fork", {"count": 0}, "count"),
    ("fork", {"count": 9}, "count"),
    ("fork", {"count": True}, "count"),
    ("fork", {"path": ""}, "path"),
    ("fork", {"path": "a\0.ipynb"}, "path"),
    ("fork", {"snapshot": "../../etc"}, "snapshot"),
]


@pytest.mark.parametrize(("route", "body", "field"), BAD_BODIES)
async def test_a_bad_body_is_named(site: Site, route: str, body: dict[str, Any], field: str) -> None:
    failure = await refused(site, "POST", f"{KERNEL}/{route}", 400, "SpecError", json=body)
    assert failure["field"] == field
    assert "allowed" in failure["message"]
    assert site.sessions[MICROVM].asked == []


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000, b'{"name": "\\ud800"}'])
async def test_a_body_that_is_no_object(site: Site, body: bytes) -> None:
    status = 413 if len(body) > 1 << 16 else 400
    for route in (f"{KERNEL}/restore", f"{KERNEL}/fork"):
        assert (await site.call("POST", route, content=body)).status_code == status
    assert (await site.call("POST", f"{KERNEL}/snapshots", content=body)).status_code == 400
    assert (await site.call("POST", "schema", content=body)).status_code == status


ERRORS = [
    (QuotaExceeded("full: /home/me/.local/share/fc-kernel"), 507, []),
    (StateError("it is being restored"), 409, []),
    (SnapshotIncompatible("cpu", have="a", want="b"), 422, []),
    (LaunchError("it did not\nstart", console=["Kernel panic", "at /home/me/x/y"]), 500, ["Kernel panic", "at …/y"]),
    (RuntimeError("a secret"), 500, []),
]


@pytest.mark.parametrize(("error", "status", "details"), ERRORS)
async def test_errors_of_the_host(site: Site, error: Exception, status: int, details: list[str]) -> None:
    site.sessions[MICROVM].fails = error
    taken = publish(site.store, scope="n.ipynb")
    for route, body in (("snapshots", {}), ("restore", {"snapshot": taken.id}), ("fork", {})):
        response = await site.call("POST", f"{KERNEL}/{route}", json=body)
        assert response.status_code == status
        failure = response.json()
        assert failure["details"] == details
        assert failure["reason"] == ("InternalError" if type(error) is RuntimeError else type(error).__name__)
        assert not any(word in response.text for word in ("Traceback", "/home", "secret"))


async def test_export_and_import(site: Site) -> None:
    taken = publish(site.store, scope="n.ipynb", name="mine")
    response = await site.call("GET", f"snapshots/{taken.id}/export")
    assert response.status_code == 200
    assert "mine.fcsnapshot.tar" in response.headers["Content-Disposition"]
    assert int(response.headers["Content-Length"]) == len(response.content)
    assert json.loads(response.content) == {"exported": "mine"}
    made = await ok(site, "POST", "snapshots/import", 201, params={"scope": "x.ipynb"}, content=response.content)
    assert (made["name"], made["scope"]) == ("mine", "x.ipynb")
    await refused(site, "POST", "snapshots/import", 400, "SpecError", content=response.content)
    again = {"params": {"scope": "x.ipynb"}, "content": response.content}
    await refused(site, "POST", "snapshots/import", 409, "SnapshotExists", **again)
    assert {path.name for path in site.store.root.iterdir() if path.is_file()} == {"lock"}


async def test_an_import_for_which_there_is_no_room(site: Site) -> None:
    site.host.room = 3 << 20

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"x" * (1 << 16)

    scope = {"params": {"scope": "x.ipynb"}}
    await refused(site, "POST", "snapshots/import", 507, "QuotaExceeded", content=b"x" * (4 << 20), **scope)
    await refused(site, "POST", "snapshots/import", 507, "QuotaExceeded", content=endless(), **scope)
    assert site.store.list() == []


async def test_the_schema_has_the_limits(site: Site) -> None:
    schema = await ok(site, "GET", "schema")
    fields = schema["properties"]
    assert fields["vcpu_count"]["anyOf"][0]["maximum"] == 2
    assert fields["vcpu_count"]["default"] == 1
    assert fields["network"]["anyOf"][0]["enum"] == ["none"]
    assert "fake" not in fields["monitor"]["anyOf"][0]["enum"]
    assert not {"kernel", "rootfs", "boot_args", "extra_drives", "vsock"} & set(fields)
    assert "DriveSpec" not in schema["$defs"]


async def test_settings_are_checked_as_a_start_would(site: Site) -> None:
    await ok(site, "POST", "schema", 204, json={"vcpu_count": 2})
    over = await refused(site, "POST", "schema", 422, "LimitError", json={"vcpu_count": 3})
    assert over["field"] == "vcpu_count"
    assert (await refused(site, "POST", "schema", 400, "SpecError", json={"vcpus": 3}))["field"] == "vcpus"
    await refused(site, "POST", "schema", 422, "LimitError", json={"kernel": "/etc/passwd"})


async def test_a_method_that_there_is_not(site: Site) -> None:
    await refused(site, "DELETE", "status", 405, "MethodNotAllowed")


#: Names and ids of people who try: paths, controls, encodings, look-alikes, lengths.
NASTY = [
    "", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "%2e%2e%2fx", "a\0b", "a\nb", "\u202eab", "\uff41", "\u0430", "é",
    "x" * 65, "x" * 20_000, "-a", "_a", ".a", "a b", "<img src=x>", "a;b", "$(a)", "CON:", "0" * 16, "f" * 16, "a..b",
]  # fmt: skip


@pytest.mark.parametrize("name", NASTY, ids=lambda name: repr(name[:20]))
async def test_nasty_names(site: Site, name: str) -> None:
    taken = publish(site.store, scope="n.ipynb", name="good")
    before = {path for path in site.store.root.parent.rglob("*") if "root" not in path.parts[-2:]}
    await refused(site, "POST", f"{KERNEL}/snapshots", 400, "SpecError", json={"name": name})
    await refused(site, "PATCH", f"snapshots/{taken.id}", 400, "SpecError", json={"name": name})
    await refused(site, "POST", f"{KERNEL}/restore", 400, "SpecError", json={"snapshot": name + "!"})
    if name not in ("", ".", "..") and "\0" not in name and len(name) < 100:
        path = quote(name, safe="")
        for method, rest in (("GET", ""), ("GET", "/notebook"), ("GET", "/export"), ("DELETE", "")):
            await refused(site, method, f"snapshots/{path}{rest}", 404, "SnapshotNotFound")
    assert {path for path in site.store.root.parent.rglob("*") if "root" not in path.parts[-2:]} == before
    assert [each.name for each in site.store.list()] == ["good"]


@pytest.mark.parametrize("scope", ["", "a\nb", "\u202e.ipynb", "\u2028", "x" * 5000])
async def test_nasty_scopes(site: Site, scope: str) -> None:
    await refused(site, "POST", "snapshots/import", 400, "SpecError", params={"scope": scope}, content=b"x")
    assert (await site.call("GET", "snapshots", params={"scope": scope})).status_code == 400


async def test_a_configuration_that_is_wrong(tmp_path: Path, settings_of_nobody: None) -> None:
    async with serving(tmp_path, FcKernelConfig={"max_vcpus": 1}) as site:
        failure = await refused(site, "GET", "status", 500, "ConfigError")
        assert "max_vcpus" in failure["message"]
        assert [each["kernel_id"] for each in await ok(site, "GET", "kernels")] == [MICROVM]


async def test_a_notebook_that_was_replaced_in_the_store(site: Site, tmp_path: Path) -> None:
    taken = publish(site.store, scope="n.ipynb", notebook=b"{}")
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    assert taken.notebook is not None
    taken.notebook.parent.chmod(0o700)
    taken.notebook.unlink()
    taken.notebook.symlink_to(secret)
    response = await site.call("GET", f"snapshots/{taken.id}/notebook")
    assert response.status_code in (404, 422), response.text
    assert "hunter2" not in response.text
