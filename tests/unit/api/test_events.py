"""The events: their schema is the models', and what the server's subscribers may see is in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from jupyter_events import EventLogger

from fc_kernel.api.events import EVENT, PUBLIC_EVENTS, SCHEMA_ID, ForkWanted, StateChanged, event_schema
from fc_kernel.api.models import ForkTicket
from fc_kernel.api.openapi import description
from fc_kernel.server.routes import ROUTES

ROOT = Path(__file__).parents[3]
DEAD = StateChanged(kernel_id="k", state="dead", message="it ended", returncode=-9, console=["panic"])
WANTED = ForkWanted(
    kernel_id="k",
    request="r",
    tickets=[ForkTicket(ticket="t", kernel_id="k", snapshot_id="0" * 16, vm_id="v", name="s1", scope="n.ipynb")],
)


def refused(data: dict[str, Any]) -> bool:
    return not jsonschema.Draft7Validator(event_schema()).is_valid(data)


def test_why_a_kernel_is_dead_reaches_the_browser() -> None:
    logger = EventLogger()
    logger.register_event_schema(event_schema())
    data = DEAD.model_dump(mode="json")
    logger.emit(schema_id=SCHEMA_ID, data=data)
    assert not refused(data)
    assert (data["message"], data["returncode"], data["console"]) == ("it ended", -9, ["panic"])


def test_who_wants_a_fork_does_not_reach_the_browser() -> None:
    assert refused(WANTED.model_dump(mode="json"))
    assert ForkWanted not in PUBLIC_EVENTS


@pytest.mark.parametrize(
    "change", [{"state": "sleeping"}, {"more": 1}, {"action": "other"}, {"console": "x"}, {"snapshot": {}}]
)
def test_what_is_not_in_the_models_is_refused(change: dict[str, Any]) -> None:
    assert refused({**DEAD.model_dump(mode="json"), **change})


@pytest.mark.parametrize("event", [DEAD, WANTED])
def test_an_event_comes_back_from_json(event: StateChanged | ForkWanted) -> None:
    assert EVENT.validate_json(event.model_dump_json()) == event


def test_the_description_can_be_had_without_a_server() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/openapi.py"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    printed = json.loads(done.stdout)
    assert printed == description(ROUTES)
    union = printed["components"]["schemas"]["PublicEvent"]
    assert {each["$ref"].rpartition("/")[2] for each in union["oneOf"]} == {each.__name__ for each in PUBLIC_EVENTS}
    assert {each.__name__ for each in PUBLIC_EVENTS} <= set(printed["components"]["schemas"])
