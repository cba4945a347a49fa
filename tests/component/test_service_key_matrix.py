"""The credentials of a service, over every route and every event.

What is not in the tables here is refused with 403: a new route or event that accepts these credentials fails
the test until it has a place.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.auth.policy import Permission
from app.auth.tokens import TokenVerifier, issue_token
from app.contracts.callers import ADMIN, SERVICE, Caller
from app.contracts.commands import Origin, StartCommand
from app.contracts.integration import Integration
from app.contracts.integration_commands import ApiKeyCommand
from app.contracts.state import StateId
from app.http.application import all_endpoints
from app.http.endpoint import Endpoint
from tests.support.doors import Doors, Request
from tests.support.rig import Rig
from tests.support.route_samples import sample_request

SECRET = "plum"
KEY = "k" * 32
LIMIT = "This credential is limited to the service payment:"
ROOT = Caller("root", scopes=frozenset({ADMIN}))
ENDPOINTS = {endpoint.name: endpoint for endpoint in all_endpoints({})}

STATES = {
    "own step": StateId("shop", "olga"),
    "step of another service": StateId("shop", "pat"),
    "other flow": StateId("side", "olga"),
}
READING = {
    "getFlowState",
    "getFlowHistory",
    "verifyFlowHistory",
    "getFlowEvents",
    "getStateToken",
    "compareStateToken",
    "drawFlow",
}
"""Requests that read a state: of every user in a flow of the service."""
OF_A_FLOW = {
    "getFlow",
    "listFlowVersions",
    "getFlowVersion",
    "diffFlowVersions",
    "exportFlow",
    "listFlowStates",
    "searchFlowStates",
}
"""Requests that read a flow of the service, or its states."""
LISTS = {"listFlows", "getUserFlows"}
"""Lists that have what the service may read, and nothing else."""
RUNNING = {"executeTransition"}
ENDLESS = {"streamFlowState"}
"""It reads a state, too; its answer does not end."""
OF_ITS_LETTERS = {"listDeadLetters", "redeliverDeadLetters", "dropDeadLetters"}
"""Requests about its own dead letters, unless they name another service."""
OF_A_SERVICE = {
    name for name, each in ENDPOINTS.items() if "{alias}" in each.path and each.access.for_services
}
"""Requests about a service by itself."""

QUERIES = {"searchFlowStates": {"match": "/secret=plum"}, "listDeadLetters": {"service": "user"}}
BODIES: dict[str, Any] = {
    "redeliverDeadLetters": {"filter": {"service": "user"}},
    "dropDeadLetters": {"filter": {"service": "user"}},
}

READING_EVENTS = {"flow-state", "flow-subscribe"}
RUNNING_EVENTS = {"flow-transition"}
OWN_EVENTS = {"flow-unsubscribe"}
LIST_EVENTS = {"flow-list"}
UNKNOWN_EVENT = "*"
CONNECTION_EVENTS = {"connect", "disconnect"}

pytestmark = pytest.mark.usefixtures("no_other_workers")


def flow(slug: str, first: str, second: str) -> dict[str, Any]:
    def step(index: int, name: str, owner: str, to: str) -> dict[str, Any]:
        go = {"transition": "go", "step": to, "reversible": True}
        return {"index": index, "step": name, "service": owner, "transitions": {"go": go}}

    return {
        "flow": slug,
        "initialStep": "a",
        "searchable": ["/secret"],
        "participants": {"clerk": {"assignable": True, "claim": "PT1H"}},
        "steps": {"a": step(0, "a", first, "b"), "b": step(1, "b", second, "a")},
    }


class ServiceWorld(Doors):
    """A service with two flows: one of them has a step of ``payment``."""

    credentials: dict[str, str]

    @classmethod
    async def build(cls) -> "ServiceWorld":
        rig = Rig()
        rig.clock.time = datetime.now(UTC)
        keys = rig.service.integrations.keys
        made = cls(rig, TokenVerifier(key=KEY, algorithms=["HS256"], service_keys=keys))
        for alias in ("payment", "user"):
            now = rig.clock.now()
            registration = Integration(alias=alias, registered_at=now, updated_at=now)
            rig.registrations.integrations[alias] = registration
        for definition in (flow("shop", "payment", "user"), flow("side", "user", "user")):
            await rig.service.create_flow(definition)
        for state in STATES.values():
            command = StartCommand(payload={"secret": SECRET})
            origin = Origin(Caller(state.user_id))
            await rig.service.start_flow(state.user_id, state.flow_id, command, origin=origin)
        await rig.flows.execute_transition("pat", "shop", "go")
        made.credentials = {
            "key": (await keys.create("payment", ApiKeyCommand(), ROOT)).text,
            "token": token(SERVICE),
            "token of an administrator": token(f"{SERVICE} {ADMIN}"),
        }
        return made

    async def stored(self) -> list[Any]:
        return [await self.rig.states.load(state) for state in STATES.values()]

    async def token_of(self, state: StateId) -> str:
        caller = Caller(state.user_id)
        made = await self.rig.service.tokens.encode(state.user_id, state.flow_id, caller=caller)
        return made.token


@pytest.fixture
def no_other_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers queries of presence, so none is waited for."""
    monkeypatch.setattr("app.services.live.presence.MAX_ANSWER_SECONDS", 0.0)


def token(scopes: str) -> str:
    hour = timedelta(hours=1)
    return issue_token(KEY, "some-client", ttl=hour, scopes=scopes.split(), service="payment")


async def requests_of(there: ServiceWorld, endpoint: Endpoint, state: StateId) -> list[Request]:
    """Return the requests by which a service tries to reach a state, its flow, or another service."""
    aliases = ("user", "nobody") if "{alias}" in endpoint.path else ("-",)
    samples = [
        sample_request(
            endpoint,
            user_id=state.user_id,
            token=await there.token_of(state),
            flow_id=state.flow_id,
            transition="go",
            alias=alias,
        )
        for alias in aliases
    ]
    body = BODIES.get(endpoint.name)
    return [
        each._replace(query={**each.query, **QUERIES.get(endpoint.name, {})}, body=body or each.body)
        for each in samples
    ]


def is_allowed(name: str, where: str) -> bool:
    if name in READING | OF_A_FLOW:
        return where != "other flow"
    return name in LISTS or (name in RUNNING and where == "own step")


def test_every_route_and_event_for_services_has_a_place_in_the_tables() -> None:
    open_to_services = {name for name, each in ENDPOINTS.items() if each.access.for_services}
    placed = [READING, OF_A_FLOW, LISTS, RUNNING, ENDLESS, OF_ITS_LETTERS, OF_A_SERVICE]
    assert sorted(name for group in placed for name in group) == sorted(open_to_services)
    assert not [name for name in open_to_services if ENDPOINTS[name].access.permission is Permission.ADMIN]
    assert {"createServiceKey", "listServiceKeys", "revokeServiceKey"} <= OF_A_SERVICE


@pytest.mark.parametrize("where", STATES)
@pytest.mark.parametrize("name", sorted({*ENDPOINTS} - {"livez", "readyz"}))
async def test_a_route_outside_the_limits_of_a_service_is_refused(name: str, where: str) -> None:
    there = await ServiceWorld.build()
    before = await there.stored()
    for kind, credential in there.credentials.items():
        for request in await requests_of(there, ENDPOINTS[name], STATES[where]):
            if name in ENDLESS and where != "other flow":
                continue
            answer = await there.send(credential, request)
            if is_allowed(name, where):
                assert answer.status_code == 200, (kind, request, answer.text)
                there = await ServiceWorld.build()
                break
            assert answer.status_code == 403, (kind, request, answer.text)
            problem = answer.json()
            assert problem["code"] == "INSUFFICIENT_PERMISSIONS"
            assert problem["detail"].startswith(LIMIT)
            assert problem["details"]["service"] == "payment"
            assert SECRET not in answer.text
            assert [*map(_position, await there.stored())] == [*map(_position, before)], "nothing was moved"


def _position(stored: Any) -> Any:
    return stored.state.position


@pytest.mark.parametrize("where", STATES)
async def test_an_event_outside_the_limits_of_a_service_is_refused(where: str) -> None:
    there = await ServiceWorld.build()
    state = STATES[where]
    handled = {*there.sockets.server.handlers["/"]} - CONNECTION_EVENTS - {UNKNOWN_EVENT}
    assert handled > READING_EVENTS | RUNNING_EVENTS | OWN_EVENTS | LIST_EVENTS
    for event in sorted(handled):
        for kind in there.credentials:
            there = await ServiceWorld.build()
            before = await there.stored()
            body = {"flowId": state.flow_id, "userId": state.user_id}
            if event == "flow-transition":
                body["transition"] = "go"
            answer = await there.call(there.credentials[kind], (event, body))
            allowed = (
                (event in READING_EVENTS | LIST_EVENTS and where != "other flow")
                or (event in RUNNING_EVENTS and where == "own step")
                or event in OWN_EVENTS
            )
            assert answer["ok"] is allowed, (event, kind, answer)
            if not allowed:
                assert answer["error"].code == "INSUFFICIENT_PERMISSIONS", (event, kind, answer)
                assert answer["error"].message.startswith(LIMIT), (event, kind, answer)
                assert [*map(_position, await there.stored())] == [*map(_position, before)]


async def test_lists_have_what_the_service_may_read() -> None:
    there = await ServiceWorld.build()
    for credential in there.credentials.values():
        flows = await there.send(credential, Request("GET", "/api/flows", {}, None, {}))
        assert [each["flow"] for each in flows.json()["items"]] == ["shop"]
        states = await there.send(credential, Request("GET", "/api/states", {"userId": "olga"}, None, {}))
        assert [each["flow"] for each in states.json()["items"]] == ["shop"]
        own = await there.send(credential, Request("GET", "/api/states", {}, None, {}))
        assert own.json()["items"] == []


async def test_transitions_are_offered_at_own_steps_alone() -> None:
    there = await ServiceWorld.build()
    offered = {}
    for user in ("olga", "pat"):
        request = Request("GET", "/api/flow/shop/state", {"userId": user}, None, {})
        answer = (await there.send(there.credentials["key"], request)).json()
        offered[user] = [each["transition"] for each in answer["transitions"]]
    assert offered == {"olga": ["go"], "pat": []}


async def test_records_name_the_service() -> None:
    there = await ServiceWorld.build()
    run = Request("POST", "/api/flow/shop/transition/go", {"userId": "olga"}, {}, {})
    for credential in ("key", "token"):
        there = await ServiceWorld.build()
        assert (await there.send(there.credentials[credential], run)).status_code == 200
        refused = await there.send(there.credentials[credential], run)
        assert refused.status_code == 403, "the state is at a step of another service now"
        async with there.rig.service:
            await there.rig.service.background.relay.drain(5)
        history = await there.rig.flows.get_flow_history("olga", "shop")
        assert [(each.kind, each.actor) for each in history] == [
            ("started", "olga"),
            ("transitioned", "service:payment"),
            ("refused", "service:payment"),
        ]


async def test_a_service_manages_its_own_keys_over_http() -> None:
    there = await ServiceWorld.build()
    key = there.credentials["key"]
    path = "/api/admin/services/payment/keys"
    there.rig.clock.advance(seconds=1)
    made = await there.send(key, Request("POST", path, {}, {"name": "next", "expiresIn": 3600}, {}))
    assert made.status_code == 201, made.text
    assert made.headers["cache-control"] == "no-store"
    fresh = made.json()
    assert set(fresh) == {"id", "name", "createdAt", "createdBy", "expiresAt", "key"}
    listed = (await there.send(fresh["key"], Request("GET", path, {}, None, {}))).json()["items"]
    assert [each["name"] for each in listed] == ["", "next"]
    assert "key" not in listed[1]
    revoke = Request("DELETE", f"{path}/{listed[0]['id']}", {}, None, {})
    assert (await there.send(fresh["key"], revoke)).status_code == 204
    assert (await there.send(fresh["key"], revoke)).json()["code"] == "API_KEY_NOT_FOUND"
    gone = await there.send(key, Request("GET", path, {}, None, {}))
    assert (gone.status_code, gone.json()["detail"]) == (401, "The API key is not valid here")


@pytest.mark.parametrize(
    "header",
    [
        lambda key: f"bearer {key}",
        lambda key: f"BEARER  {key}",
        lambda key: f"Bearer {key} ",
    ],
)
async def test_the_scheme_is_read_in_any_case(header: Callable[[str], str]) -> None:
    there = await ServiceWorld.build()
    given = {"authorization": header(there.credentials["key"])}
    request = Request("GET", "/api/flow/shop/state", {"userId": "olga"}, None, given)
    answer = await there._http.get(request.path, params=request.query, headers=request.headers)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "given",
    [
        lambda key: {"params": {"token": key}},
        lambda key: {"params": {"access_token": key}},
        lambda key: {"headers": {"x-api-key": key}},
        lambda key: {"headers": {"authorization": key}},
        lambda key: {"headers": {"authorization": f"Basic {key}"}},
        lambda key: {"headers": {"authorization": f"Bearer {key.upper()}"}},
        lambda key: {"headers": {"authorization": f"Bearer x{key}"}},
        lambda key: {"headers": {"authorization": f"Bearer {key}{key}"}},
        lambda key: {"headers": {"authorization": b"Bearer " + key.encode() + b"\xff"}},
        lambda key: {"headers": {"authorization": "Bearer sfk_" + "A" * 60_000}},
    ],
)
async def test_a_key_counts_in_its_header_alone(given: Callable[[str], Any]) -> None:
    there = await ServiceWorld.build()
    answer = await there._http.get("/api/states", **given(there.credentials["key"]))
    assert answer.status_code == 401
