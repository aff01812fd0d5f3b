"""Forks through the server: kernels of its manager, copies of notebooks, sessions; all or none. And what is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tornado.web import HTTPError

from fc_kernel.api.events import SCHEMA_ID, StateChanged, event_schema

from ...waiting import until
from ..server_site import LOCAL, MICROVM, Site, publish, serving
from .test_api import KERNEL, ok, refused


@pytest.fixture
async def site(tmp_path: Path, settings_of_nobody: None) -> AsyncIterator[Site]:
    async with serving(tmp_path) as site:
        yield site


@pytest.fixture
def hidden(site: Site) -> None:
    Path(site.app.root_dir, ".hidden.ipynb").write_text("{}")


def notebooks(site: Site) -> list[str]:
    return sorted(path.name for path in Path(site.app.root_dir).glob("*.ipynb"))


async def test_forks_of_a_snapshot(site: Site) -> None:
    taken = publish(site.store, scope="n.ipynb")
    forks = await ok(site, "POST", f"{KERNEL}/fork", 201, json={"snapshot": taken.id, "count": 3})
    assert len({fork["kernel_id"] for fork in forks}) == 3
    assert {fork["name"] for fork in forks} == {taken.name}
    assert all((fork["path"], fork["session_id"]) == (None, None) for fork in forks)
    for call in site.starts.calls:
        assert call["kernel_name"] == "fc-python3"
        assert site.host.tickets[call["fc_kernel_ticket"]].snapshot_id == taken.id
    assert notebooks(site) == ["n.ipynb"]


async def test_forks_of_this_instant(site: Site) -> None:
    [fork] = await ok(site, "POST", f"{KERNEL}/fork", 201)
    [snapshot] = site.store.list()
    assert site.host.tickets[site.starts.calls[0]["fc_kernel_ticket"]].snapshot_id == snapshot.id
    assert fork["kernel_id"] in site.app.kernel_manager


async def test_forks_with_notebooks(site: Site) -> None:
    session = await site.app.session_manager.create_session(
        path="n.ipynb", name="n.ipynb", type="notebook", kernel_id=MICROVM
    )
    root = Path(site.app.root_dir)
    (root / "n-fork-1.ipynb").write_text("somebody's")
    taken = publish(site.store, scope="n.ipynb")
    body = {"snapshot": taken.id, "count": 2, "path": "/n.ipynb"}
    forks = await ok(site, "POST", f"{KERNEL}/fork", 201, json=body)
    assert [fork["path"] for fork in forks] == ["n-fork-2.ipynb", "n-fork-3.ipynb"]
    assert (root / "n-fork-1.ipynb").read_text() == "somebody's"
    assert (root / "n-fork-2.ipynb").exists()
    assert site.starts.calls[0]["env"]["JPY_SESSION_NAME"] == str(root / "n.ipynb")
    sessions = {each["id"]: each for each in await site.app.session_manager.list_sessions()}
    assert set(sessions) == {session["id"], *(fork["session_id"] for fork in forks)}
    for fork in forks:
        made = sessions[fork["session_id"]]
        assert (made["path"], made["kernel"]["id"]) == (fork["path"], fork["kernel_id"])


@pytest.mark.parametrize("path", ["../n.ipynb", "none.ipynb", "n.txt", "sub", ".hidden.ipynb", "/etc/passwd"])
async def test_a_notebook_that_may_not_be_copied(site: Site, hidden: None, path: str) -> None:
    response = await site.call("POST", f"{KERNEL}/fork", json={"path": path})
    assert response.status_code in (400, 403, 404), response.text
    assert site.starts.calls == []
    assert site.app.root_dir not in response.text


async def test_a_fork_that_fails_leaves_nothing(site: Site) -> None:
    taken = publish(site.store, scope="n.ipynb")
    site.starts.fails_at = 2
    body = {"snapshot": taken.id, "count": 4, "path": "n.ipynb"}
    failure = await refused(site, "POST", f"{KERNEL}/fork", 500, "LaunchError", json=body)
    assert failure["message"] == "no more machines, see …/place"
    assert len(site.starts.ended) == 2
    assert notebooks(site) == ["n.ipynb"]
    assert await site.app.session_manager.list_sessions() == []


async def test_a_copy_that_fails_leaves_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions: Any = site.app.session_manager
    create = sessions.create_session
    made: list[Any] = []

    async def second_fails(**kwargs: Any) -> Any:
        if made:
            raise RuntimeError("no database")
        made.append(await create(**kwargs))
        return made[0]

    monkeypatch.setattr(sessions, "create_session", second_fails)
    await refused(site, "POST", f"{KERNEL}/fork", 500, "InternalError", json={"count": 2, "path": "n.ipynb"})
    assert notebooks(site) == ["n.ipynb"]
    assert len(site.starts.ended) == 2
    assert await sessions.list_sessions() == []


async def test_more_forks_than_the_administrator_allows(site: Site) -> None:
    site.host.max_forks = 2
    taken = publish(site.store, scope="n.ipynb")
    body = {"snapshot": taken.id, "count": 3}
    assert (await refused(site, "POST", f"{KERNEL}/fork", 422, "LimitError", json=body))["field"] == "count"
    assert site.starts.calls == []


@pytest.mark.parametrize("error", [RuntimeError("no\nmore"), HTTPError(403, "too many kernels")])
async def test_a_cell_that_forks_is_answered_whatever_the_server_raises(
    site: Site, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the forker raises becomes the cell's error, and only the package's own errors do."""

    async def fails(**kwargs: Any) -> str:
        raise error

    monkeypatch.setattr(site.app.kernel_manager, "start_kernel", fails)
    await ok(site, "GET", KERNEL)
    fork = await site.host.fork_in_a_cell(MICROVM)
    assert fork.error.startswith("the fork did not start: ")
    assert "\n" not in fork.error
    site.app.kernel_manager._kernels.pop(MICROVM)
    fork = await site.host.fork_in_a_cell(MICROVM)
    assert "does not belong to this server" in fork.error


async def test_what_happens_is_told(site: Site) -> None:
    await ok(site, "GET", KERNEL)
    made = await ok(site, "POST", f"{KERNEL}/snapshots", 201, json={"name": "a"})
    await ok(site, "POST", f"{KERNEL}/restore", json={"snapshot": made["id"]})
    await ok(site, "PATCH", f"snapshots/{made['id']}", json={"name": "b"})
    await ok(site, "POST", f"{KERNEL}/fork", 201)
    told_dead = "it ended: see /var/log/x/y\nmore"
    site.host.tell(StateChanged(kernel_id=MICROVM, state="dead", message=told_dead, console=["at /var/log/x/y"]))
    await ok(site, "DELETE", f"snapshots/{made['id']}", 204)
    await until(lambda: len(site.events) >= 8)
    validator = jsonschema.Draft7Validator(event_schema())
    for event in site.events:
        validator.validate(event)
        assert event["kernel_id"] == MICROVM
    told = [event["action"] for event in site.events if event["action"] not in ("rename", "delete")]
    assert told == ["snapshot", "state", "restore", "state", "fork", "state"]
    actions = {event["action"]: event for event in site.events}
    assert set(actions) == {"state", "snapshot", "restore", "fork", "rename", "delete"}
    assert actions["snapshot"]["snapshot"]["id"] == made["id"]
    assert actions["restore"]["snapshot"]["id"] == made["id"]
    assert actions["rename"]["snapshot"]["name"] == "b"
    assert actions["delete"]["snapshot"]["id"] == made["id"]
    assert [set(fork) for fork in actions["fork"]["forks"]] == [{"kernel_id", "name", "path", "session_id"}]
    states = [(event["state"], event.get("message")) for event in site.events if event["action"] == "state"]
    assert [event["console"] for event in site.events if event["action"] == "state"][-1] == ["at …/y"]
    assert states == [("restoring", ""), ("running", ""), ("dead", "it ended: see …/y")]


async def test_the_host_is_followed_once_and_from_the_start_of_a_kernel(site: Site) -> None:
    data = {"kernel_id": LOCAL, "kernel_name": "python3", "action": "start", "status": "success", "msg": ""}
    schema_id = "https://events.jupyter.org/jupyter_server/kernel_actions/v1"
    logger = site.app.event_logger
    assert logger is not None
    logger.emit(schema_id=schema_id, data=data)
    logger.emit(schema_id=schema_id, data={**data, "kernel_id": "gone"})
    await asyncio.sleep(0.1)
    assert site.host.stream._subscribers == [], "no kernel in a microVM"
    logger.emit(schema_id=schema_id, data={**data, "kernel_id": MICROVM})
    await until(lambda: site.host.stream._subscribers)
    await ok(site, "GET", KERNEL)
    assert len(site.host.stream._subscribers) == 1
    assert SCHEMA_ID in logger.schemas
