"""Access to a state, over every route and every event.

For each caller who has no business with a state, each request is answered exactly as in a world without that
state. ``test_authorisation_matrix.py`` has the scopes and the credentials of every kind.
"""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.auth.policy import Permission
from app.contracts.state import StateId
from app.contracts.wire.encoding import encode
from app.http.application import all_endpoints
from app.http.endpoint import Endpoint
from tests.support.case_world import INSIDERS, OUTSIDERS, SECRET, TARGETS, NamedCallers, make_world
from tests.support.doors import Doors, Request
from tests.support.long_form import form
from tests.support.rig import Rig
from tests.support.route_samples import sample_request

TRIED = form("outsiders of a state", short=tuple(OUTSIDERS)[::3], long=tuple(OUTSIDERS))
PEOPLE = [{"role": "reviewer", "userId": "mallory"}, {"role": "reviewer", "userId": "fay"}]
ENDPOINTS = {endpoint.name: endpoint for endpoint in all_endpoints({})}

PERMISSIONS = {name: endpoint.access.permission for name, endpoint in ENDPOINTS.items()}

OF_AN_OWNER = {"listFlowStates", "getUserFlows"}
"""Lists of one user's states: for that user, services and administrators."""

OF_A_STATE = {
    name for name, each in PERMISSIONS.items() if each in {Permission.READ_STATES, Permission.USE}
} - OF_AN_OWNER
"""Requests about one state: for its owner, participants, services and administrators."""

OF_FLOWS = {name for name, each in PERMISSIONS.items() if each is Permission.READ_FLOWS}
"""Requests for every user; none is about states."""

BODIES: dict[str, Any] = {
    "startFlow": {"participants": PEOPLE},
    "setParticipants": {"participants": PEOPLE},
}

ENDLESS = {"streamFlowState", "streamServiceEvents"}
"""Answers that do not end for those who may read them: tests/e2e has tests of the streams."""

EVENTS: dict[str, dict[str, Any]] = {
    "flow-state": {},
    "flow-start": {"participants": PEOPLE},
    "flow-transition": {"transition": "check"},
    "flow-reset": {},
    "flow-participants": {"participants": PEOPLE},
    "flow-claim": {"role": "reviewer"},
    "flow-release": {},
    "flow-withdraw": {},
    "flow-subscribe": {},
    "flow-list": {},
    "flow-presence": {},
}
"""Bodies of the events about states."""

OWN_EVENTS = {
    "flow-unsubscribe": "ends what the client itself follows",
    "flow-unwatch": "ends what the client itself watches",
    "flow-watch": "for administrators",
    "*": "an unknown event",
}
CONNECTION_EVENTS = {"connect", "disconnect"}
"""They are about the client's own connection."""

pytestmark = pytest.mark.usefixtures("no_other_workers")

REFUSED = "Acting for another user needs a token with the scope"


@pytest.fixture
def no_other_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers queries of presence, so none is waited for."""
    monkeypatch.setattr("app.services.live.presence.MAX_ANSWER_SECONDS", 0.0)


def requests_of(endpoint: Endpoint, target: StateId, token: str) -> Iterator[Request]:
    """Yield the requests that try to reach a state by a route."""
    takes = endpoint.query.__struct_fields__
    sample = sample_request(endpoint, user_id="olga", token=token, flow_id=target.flow_id)
    path, query = sample.path, sample.query
    body: Any = BODIES.get(endpoint.name, sample.body)
    entities = [{}] if target.instance_id is None else [{"entityId": target.instance_id}, {}]
    for entity in entities:
        named, sent = query, body
        if endpoint.name == "startFlow":
            sent = {**body, **entity}
        elif "entity_id" in takes:
            named = {**query, **entity}
        yield Request(endpoint.method, path, named, sent, {})
        if endpoint.request_headers and endpoint.name not in ENDLESS:
            for headers in ({"If-Match": '"1"'}, {"Idempotency-Key": "key-of-the-owner"}):
                yield Request(endpoint.method, path, named, sent, headers)
    if "role" in takes:
        for role in ("reviewer", "auditor"):
            yield Request(endpoint.method, path, {"as": role}, body, {})
            yield Request(endpoint.method, path, {"as": role, "userId": "olga"}, body, {})


async def stored(world: Doors) -> list[Any]:
    return [await world.rig.states.load(target) for target in TARGETS.values()]


async def world(*, with_targets: bool) -> Doors:
    return Doors(await make_world(TARGETS.values() if with_targets else ()), NamedCallers())


async def token_of(world: Doors, target: StateId) -> str:
    return (
        await world.rig.service.tokens.encode(
            "olga", target.flow_id, entity_id=target.instance_id, caller=INSIDERS["owner"]
        )
    ).token


def same(answer: httpx.Response) -> tuple[int, bytes, dict[str, str]]:
    headers = {name: value for name, value in answer.headers.items() if name != "x-request-id"}
    return answer.status_code, without_epochs(answer.content), headers


def without_epochs(answer: bytes) -> bytes:
    """An answer without what differs in every world: the epochs of the caller's own tasks."""
    return re.sub(rb'"epoch":"[^"]*"', b"", answer)


def body_of(event: str, target: StateId, *, named: bool = True) -> dict[str, Any]:
    """The body of an event about a state of another user."""
    entity = {"entityId": target.instance_id} if named and target.instance_id else {}
    takes_entity = event not in ("flow-list", "flow-watch", "*")
    return {
        "flowId": target.flow_id,
        "userId": "olga",
        **(entity if takes_entity else {}),
        **EVENTS.get(event, {}),
    }


def test_every_event_has_a_place_in_the_tables() -> None:
    handled = set(Doors(Rig(), NamedCallers()).sockets.server.handlers["/"])
    assert handled == {*EVENTS, *OWN_EVENTS, *CONNECTION_EVENTS}


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("name", ENDPOINTS)
async def test_a_route_answers_an_outsider_as_if_there_were_no_state(name: str, kind: str) -> None:
    target, endpoint = TARGETS[kind], ENDPOINTS[name]
    full, empty = await world(with_targets=True), await world(with_targets=False)
    token, before = await token_of(full, target), await stored(full)
    for request in requests_of(endpoint, target, token):
        for caller in TRIED:
            answer, other = await full.send(caller, request), await empty.send(caller, request)
            assert same(answer) == same(other), (caller, request)
            assert SECRET not in answer.text or "as" in request.query, (caller, request)
            if name in OF_A_STATE:
                assert (answer.status_code, answer.json()["detail"][: len(REFUSED)]) == (403, REFUSED)
            elif name not in OF_FLOWS and PERMISSIONS[name] is not Permission.PUBLIC:
                assert answer.status_code == 403 or "as" in request.query, (caller, request)
    assert await stored(full) == before, "nothing was moved"
    assert await stored(empty) == [None, None], "nothing was started"


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("event", [*EVENTS, *OWN_EVENTS])
async def test_an_event_is_answered_to_an_outsider_as_if_there_were_no_state(event: str, kind: str) -> None:
    target = TARGETS[kind]
    full, empty = await world(with_targets=True), await world(with_targets=False)
    before = await stored(full)
    bodies = [body_of(event, target), body_of(event, target, named=False)]
    if event in EVENTS and event not in ("flow-list", "flow-state", "flow-subscribe", "flow-presence"):
        bodies += [{**bodies[0], "requestId": "key-of-the-owner"}, {**bodies[0], "expectedRevision": 1}]
    if event == "flow-list":
        bodies += [{**bodies[0], "as": "auditor"}, {"as": "reviewer"}]
    for caller in TRIED:
        for body in bodies:
            subscribe = ("flow-subscribe", body_of("flow-subscribe", target))
            calls = [subscribe, (event, body)] if event == "flow-presence" else [(event, body)]
            answer, other = await full.call(caller, *calls), await empty.call(caller, *calls)
            assert without_epochs(encode(answer)) == without_epochs(encode(other)), (caller, body)
            if "as" not in body:
                assert SECRET not in repr(answer), (caller, body)
                assert answer["ok"] is (event in ("flow-unsubscribe", "flow-unwatch")), (caller, body)
    assert await stored(full) == before, "nothing was moved"
    assert await stored(empty) == [None, None], "nothing was started"
    assert full.rig.service.presence.known_on(target) == []


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("caller", INSIDERS)
async def test_those_who_may_see_a_state_reach_it_by_every_route(caller: str, kind: str) -> None:
    """The opposite of the test above: its refusals are not of everybody."""
    target = TARGETS[kind]
    participates = "participant" in caller
    for name, endpoint in ENDPOINTS.items():
        if name in ENDLESS or name not in {*OF_A_STATE, *OF_AN_OWNER}:
            continue
        there = await world(with_targets=True)
        request = next(requests_of(endpoint, target, await token_of(there, target)))
        answer = await there.send(caller, request)
        if name in OF_AN_OWNER:
            assert (answer.status_code == 403) is participates, (name, answer.text)
        else:
            assert REFUSED not in answer.text, (name, answer.text)
        without = {"drawFlow", "verifyFlowHistory", "getStateToken"}
        if target.instance_id is None:
            without.add("listFlowStates")  # which lists states with an entity
        if endpoint.method == "GET" and name not in without:
            assert (SECRET in answer.text) is not (participates and name in OF_AN_OWNER), (name, answer.text)


@pytest.mark.parametrize("kind", TARGETS)
async def test_a_participant_runs_what_the_role_may_and_nothing_else(kind: str) -> None:
    target = TARGETS[kind]
    for caller, roles in {"participant": ["reviewer"], "participant by group": ["auditor"]}.items():
        there = await world(with_targets=True)
        for role in ("reviewer", "auditor"):
            waiting = await there.send(caller, Request("GET", "/api/states", {"as": role}, None, {}))
            assert len(waiting.json()["items"]) == (2 if role in roles else 0), "of one flow and the other"
        edit = {**body_of("flow-transition", target), "transition": "edit"}
        refused = await there.call(caller, ("flow-transition", edit))
        assert refused["error"].code == "INSUFFICIENT_PERMISSIONS"
        moved = await there.call(caller, ("flow-transition", body_of("flow-transition", target)))
        assert moved["state"].step == "checked"


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("caller", INSIDERS)
async def test_those_who_may_see_a_state_reach_it_by_every_event(caller: str, kind: str) -> None:
    target = TARGETS[kind]
    for event in EVENTS:
        there = await world(with_targets=True)
        calls = [(event, body_of(event, target))]
        if event == "flow-presence":
            calls.insert(0, ("flow-subscribe", body_of("flow-subscribe", target)))
        answer = await there.call(caller, *calls)
        refused = REFUSED in repr(answer)
        assert refused is ("participant" in caller and event == "flow-list"), (event, answer)
