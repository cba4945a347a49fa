"""No field of a payload reaches a reader who may not see it: every route, event, stream and webhook.

Every value of the payloads is a marker. The markers in the bytes that a reader gets are exactly those that
the tables of tests/support/field_world.py have for it. A route or an event without a place here fails.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from msgspec import UNSET, structs

from app.contracts.positions import NOTHING_HELD
from app.contracts.wire.encoding import encode
from app.flow.tokens.state_token import encode_token, read_token
from app.http.application import all_endpoints
from app.http.endpoint import Endpoint
from app.http.routes.service_feed import feed_item
from app.http.routes.streams import FlowStream
from tests.support.doors import Doors, Request
from tests.support.field_world import (
    ALL,
    CALLERS,
    EVENTS_OF,
    FLOWS,
    SEEN,
    NamedCallers,
    fields_flow,
    make_world,
    markers,
    named,
    state_of,
)
from tests.support.gateway import Gateway
from tests.support.long_form import form
from tests.support.rig import Rig

ENDPOINTS = {endpoint.name: endpoint for endpoint in all_endpoints({})}

READING = {
    *("getFlowState", "startFlow", "executeTransition", "undoTransition", "pauseFlow", "resumeFlow"),
    *("recoverFlow", "setParticipants", "claimTask", "releaseTask", "withdrawVote", "getFlowHistory"),
    *("explainFlowState", "getStateToken", "compareStateToken", "changeFlowStates", "exportPersonalData"),
}
"""Requests whose answer has one state, or its records; a batch has a state for each operation."""
FOLLOWING = {"getFlowEvents"}
LISTING = {"listFlowStates", "searchFlowStates", "getUserFlows", "findFlowStates", "listPendingStates"}
STREAMS = {"streamFlowState", "streamServiceEvents"}
"""Their answers do not end: they have tests of their own below."""
OF_EVENTS = {"listServiceEvents", "listDeadLetters", "getDelivery", "listFailingDeliveries"}
"""Answers with events to services: ``listServiceEvents`` has a test of its own below."""
WITHOUT_PAYLOAD = {
    *("resetFlow", "setFlowState", "clearFlowState", "verifyFlowHistory", "drawFlow", "exportFlow"),
    *("importFlow", "listFlows", "createFlow", "validateFlow", "getFlow", "updateFlow", "deleteFlow"),
    *("listFlowVersions", "getFlowVersion", "diffFlowVersions", "migrateFlowStates", "erasePersonalData"),
    *("purgeExpiredFlows", "getFlowStatistics", "listAuditEntries", "redeliverDeadLetters"),
    *("dropDeadLetters", "editDeadLetter", "redeliverDeadLetter", "dropDeadLetter", "replayDeliveries"),
    *("listServices", "getService", "registerService", "removeService", "rotateServiceSecret"),
    *("enableService", "disableService", "reportServiceHeartbeat", "pingService", "testService"),
    *("createServiceKey", "listServiceKeys", "revokeServiceKey", "livez", "readyz"),
}
PURPOSES = {
    **dict.fromkeys(READING, "read"),
    **dict.fromkeys(FOLLOWING, "follow"),
    **dict.fromkeys(LISTING, "list"),
}

ALIASES = ("desk", "shop")
FLOWS_OF_READERS = form("fields by readers: flows", short=FLOWS[:1], long=FLOWS)
CASES = [
    (name, flow)
    for name in sorted({*ENDPOINTS} - STREAMS - {"listServiceEvents"})
    for flow in (FLOWS if name in PURPOSES and ENDPOINTS[name].method == "GET" else FLOWS_OF_READERS)
]

EVENTS: dict[str, dict[str, Any]] = {
    "flow-state": {},
    "flow-start": {},
    "flow-transition": {"transition": "file"},
    "flow-reset": {},
    "flow-participants": {"participants": [{"role": "clerk", "userId": "cleo"}]},
    "flow-claim": {"role": "clerk"},
    "flow-release": {},
    "flow-withdraw": {},
    "flow-subscribe": {},
    "flow-list": {},
    "flow-presence": {},
    "flow-unsubscribe": {},
    "flow-watch": {},
    "flow-unwatch": {},
    "*": {},
}
FOLLOWING_EVENTS = {"flow-subscribe"}
CONNECTION_EVENTS = {"connect", "disconnect"}


@pytest.fixture(autouse=True)
def no_other_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers queries of presence, so none is waited for."""
    monkeypatch.setattr("app.services.live.presence.MAX_ANSWER_SECONDS", 0.0)


async def doors(*flows: str) -> Doors:
    return Doors(await make_world(*flows), NamedCallers(CALLERS))


def body_of(endpoint: Endpoint, flow: str) -> Any:
    state = {"userId": "olga", "flowId": flow, **query_of(flow)}
    bodies: dict[str, Any] = {
        "setParticipants": {"participants": [{"role": "clerk", "userId": "cleo"}]},
        "claimTask": {"role": "clerk"},
        "changeFlowStates": {"operations": [{**state, "op": "pause", "body": {"reason": "a while"}}]},
        "createFlow": fields_flow("other"),
        "importFlow": fields_flow("other"),
        "validateFlow": {"flow": fields_flow("other")},
        "updateFlow": {"title": "Another"},
        "pauseFlow": {"reason": "a while"},
    }
    return bodies.get(endpoint.name, {} if endpoint.body else None)


def query_of(flow: str) -> dict[str, str]:
    entity = state_of(flow).instance_id
    return {} if entity is None else {"entityId": entity}


def requests_of(endpoint: Endpoint, flow: str, token: str) -> list[Request]:
    takes = endpoint.query.__struct_fields__
    values = {
        "user_id": {"userId": "olga"},
        "entity_id": query_of(flow),
        "token": {"token": token},
        "match": {"match": "/open=MK-open-"},
        "flow_id": {"flowId": flow},
    }
    query = {name: value for member in takes for name, value in values.get(member, {}).items()}
    queries = {
        "getUserFlows": [query, {"as": "clerk"}, {"as": "auditor"}],
        "getFlowEvents": [query, {**query, "fromStart": "true"}],
        "explainFlowState": [query, {**query, "transition": "check"}],
    }
    transitions = ("file", "check") if "{transition}" in endpoint.path else ("",)
    paths = [
        endpoint.path.format(
            flow_id=flow,
            transition=transition,
            earlier="1",
            later="1",
            version="1",
            alias=alias,
            key_id="0" * 16,
            event_id="evt_0",
        )
        for transition in transitions
        for alias in (ALIASES if "{alias}" in endpoint.path else ("",))
    ]
    found = [
        Request(endpoint.method, path, each, body_of(endpoint, flow), {})
        for path in paths
        for each in queries.get(endpoint.name, [query])
    ]
    if "Idempotency-Key" in endpoint.request_headers:
        found.append(found[0]._replace(headers={"If-Match": '"77"'}))
        found += 2 * [found[0]._replace(headers={"Idempotency-Key": "again"})]
    return found


def allowed_in(name: str, caller: str, flow: str) -> set[str]:
    """The markers that an answer of a route has for a caller, if it has payloads."""
    if name == "exportPersonalData":
        return ALL
    return SEEN[caller][flow][PURPOSES.get(name, "read")]


async def token_of(there: Doors, flow: str) -> str:
    """A token without values, of the position of a state."""
    state = await there.rig.states.load(state_of(flow))
    assert state is not None
    definition = await there.rig.service.definitions.current(flow, CALLERS["administrator"])
    return encode_token(definition.flow, structs.replace(state.state, payload=UNSET))


def test_every_route_has_a_place() -> None:
    groups = [READING, FOLLOWING, LISTING, STREAMS, OF_EVENTS, WITHOUT_PAYLOAD]
    assert sorted(name for group in groups for name in group) == sorted(ENDPOINTS), "each in exactly one"


async def test_every_event_has_a_place() -> None:
    handled = set((await doors()).sockets.server.handlers["/"])
    assert handled == {*EVENTS, *CONNECTION_EVENTS}


@pytest.mark.parametrize(("name", "flow"), CASES)
async def test_an_answer_has_the_fields_that_its_reader_sees(name: str, flow: str) -> None:
    endpoint, there = ENDPOINTS[name], await doors(flow)
    token, shown = await token_of(there, flow), 0
    for caller in CALLERS:
        allowed = allowed_in(name, caller, flow)
        for request in requests_of(endpoint, flow, token):
            answer = await there.send(caller, request)
            found = markers(answer.content)
            if answer.status_code >= 400:
                assert found <= allowed, (caller, request, answer.text)
            elif name in PURPOSES and b'"payload":' in answer.content:
                assert found == allowed, (caller, request, answer.text)
                shown += 1
            else:
                assert found == set(), (caller, request, answer.text)
            if name == "getStateToken" and answer.status_code == 200:
                shown += 1
                carried = read_token(answer.json()["token"]).values or ""
                assert markers(carried.encode()) == allowed & {"open", "iban"}, (caller, answer.text)
            if endpoint.method != "GET" and answer.status_code < 300:
                there = await doors(flow)
    has_entities = name != "listFlowStates" or flow == "plain"
    assert (shown > 0) is (name in PURPOSES and has_entities)


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("event", EVENTS)
async def test_an_event_is_answered_with_the_fields_that_its_reader_sees(event: str, flow: str) -> None:
    takes_entity = event not in ("flow-list", "flow-watch", "flow-unwatch", "*")
    body = {"flowId": flow, "userId": "olga", **(query_of(flow) if takes_entity else {}), **EVENTS[event]}
    there = await doors(flow)
    for caller in CALLERS:
        answer = encode(await there.call(caller, (event, body)))
        purpose = {"flow-subscribe": "follow", "flow-list": "list"}.get(event, "read")
        allowed = SEEN[caller][flow][purpose] if b'"payload":' in answer else set()
        assert markers(answer) == allowed, (caller, answer)
        if event in ("flow-transition", "flow-reset") and b'"ok":true' in answer:
            there = await doors(flow)


async def move(rig: Rig, flow: str) -> None:
    """Run the transition of the present step, and deliver the change."""
    state = await rig.flows.require_flow_state("olga", flow, **named(flow))
    await rig.flows.execute_transition(
        "olga", flow, "file" if state.step == "open" else "open", **named(flow)
    )
    await rig.service.background.relay.drain(5)


@pytest.mark.parametrize("flow", FLOWS)
async def test_pushed_events_have_the_fields_that_each_reader_sees(
    flow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = await make_world(flow)
    verifier: Any = NamedCallers(CALLERS)
    gateway = Gateway(rig, monkeypatch, verifier)
    body = {"flowId": flow, "userId": "olga", **query_of(flow)}
    handlers = gateway.sockets.server.handlers["/"]
    async with rig.service:
        run = asyncio.create_task(gateway.sockets._rooms.run())
        for caller in CALLERS:
            for kind in ("follow", "watch"):
                await gateway.connect(f"{caller}:{kind}", caller)
            followed = await handlers["flow-subscribe"](f"{caller}:follow", body)
            assert followed["ok"], (caller, followed)
            watched = await handlers["flow-watch"](f"{caller}:watch", {"flowId": flow})
            assert watched["ok"] is ("watch" in SEEN[caller][flow]), (caller, watched)
        await move(rig, flow)
        for _ in range(200):
            await asyncio.sleep(0)
        for caller in CALLERS:
            for kind in SEEN[caller][flow].keys() & {"follow", "watch"}:
                sid = f"{caller}:{kind}"
                rooms = {room for room, sids in gateway.members.items() if sid in sids} | {sid}
                received = [
                    encode(sent)
                    for event, sent, to in gateway.emitted
                    if event in ("flow-state-updated", "flow-updated")
                    and not rooms.isdisjoint(to if isinstance(to, list) else [to])
                ]
                assert received, sid
                for each in received:
                    assert markers(each) == SEEN[caller][flow][kind], (sid, each)
        await gateway.disconnect_all()
        run.cancel()


@pytest.mark.parametrize("flow", FLOWS)
async def test_a_stream_has_the_fields_that_its_reader_sees(flow: str) -> None:
    rig = await make_world(flow)
    verifier: Any = NamedCallers(CALLERS)
    async with rig.service:
        for name in CALLERS:
            stream = FlowStream(rig.service, verifier, await verifier.verify(name), state_of(flow))
            await stream.open(NOTHING_HELD)
            events: Any = stream.events()
            for _ in range(2):  # the present state, and a change
                data = str((await anext(events)).data).encode()
                assert markers(data) == SEEN[name][flow]["follow"], (name, data)
                await move(rig, flow)
            await events.aclose()
            stream.close()


def of_flow(bodies: Iterable[bytes], flow: str) -> list[bytes]:
    """The events about a flow."""
    return [body for body in bodies if f'"flowId":"{flow}"'.encode() in body]


@pytest.mark.parametrize("alias", ALIASES)
async def test_events_to_services_have_the_fields_that_their_registrations_list(alias: str) -> None:
    rig, root = await make_world(*FLOWS, delivering=True), CALLERS["administrator"]
    page = await rig.service.integrations.feed.read(alias, root)
    sinks = {
        "webhook": [each.body for each in rig.webhooks.to(alias)],
        "stream": [body for _, body in rig.streams.streams[alias]],
        "feed": [encode(feed_item(item)) for item in page.items],
    }
    for flow in FLOWS:
        for name, bodies in sinks.items():
            found = of_flow(bodies, flow)
            assert len(found) == 3
            for body in found:
                assert markers(body) == EVENTS_OF[alias][flow], (name, body)
    there, every = Doors(rig, NamedCallers(CALLERS)), set().union(*EVENTS_OF[alias].values())
    for reader in ("administrator", "key" if alias == "desk" else "key with fields"):
        answer = await there.send(reader, Request("GET", f"/api/services/{alias}/events", {}, None, {}))
        assert markers(answer.content) == every, (reader, answer.text)
