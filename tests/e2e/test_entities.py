"""Many states of one user in a flow, over HTTP and sockets, on two workers."""

import asyncio
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from config.settings import Settings
from tests.support.samples import flow_dict
from tests.support.serving import Follower, Serving, close_all, external
from tests.support.streams import Stream

FLOW = "tickets"
ROUTE = f"/api/flow/{FLOW}"
REPEATS = 20
ODD = [
    ";",
    ":",
    "%",
    "/",
    "..",
    "a;b",
    "a:b",
    "%3B",
    "%25",
    "%253B",
    "a/b?c=d&e#f+g",
    " both ends ",
    "two  spaces",
    "null",
    "0",
    "\\",
    "\"quoted\" and 'quoted'",
    "$ne",
    "<b>&amp;</b>",
    "größe ∑ 中文",
    "🧾",
    "e\u0301",
    "\u00e9",
    "\u202eright to left",
    "x" * 256,
    "🧾" * 256,
]
Hosts = tuple[Serving, Serving]
Json = dict[str, Any]


async def publish(host: Serving) -> None:
    async with host.http("root", "flow:admin") as http:
        answer = await http.post("/api/flows", json=flow_dict(FLOW, instances="many"))
        assert answer.status_code in (201, 409)  # or another test has published it


@pytest.fixture
async def hosts(shared_hosts: Hosts) -> Hosts:
    await publish(shared_hosts[0])
    return shared_hosts


def accepted(answer: httpx.Response) -> Any:
    assert answer.is_success, answer.text
    return answer.json()


async def start(http: httpx.AsyncClient, key: str) -> Json:
    """Start a state without an entity."""
    started: Json = accepted(await http.post(f"{ROUTE}/start", headers={"Idempotency-Key": key}))
    return started


async def listed(http: httpx.AsyncClient, **params: Any) -> list[Json]:
    """Return all pages of the user's states."""
    found: list[Json] = []
    while True:
        page = accepted(await http.get(f"{ROUTE}/states", params=params))
        assert len(page["items"]) <= params.get("limit", 100)
        found += page["items"]
        if "next" not in page:
            return found
        params = {**params, "after": page["next"]}


async def test_a_start_sent_to_both_workers_at_once_makes_one_state(hosts: Hosts, user: str) -> None:
    async with hosts[0].http(user) as first, hosts[1].http(user) as second:
        entities = set()
        for n in range(REPEATS):
            states = await asyncio.gather(*(start(http, f"r-{n}") for http in (first, second) * 2))
            assert len({state["entityId"] for state in states}) == 1
            assert {state["revision"] for state in states} == {0}
            entities.add(states[0]["entityId"])
        found = await listed(second)
        assert len(found) == len(entities) == REPEATS
        assert {state["entityId"] for state in found} == entities


async def test_a_start_repeated_around_the_death_of_a_worker_makes_one_state(
    settings: Settings, tmp_path: Path, two_hosts: Hosts, user: str
) -> None:
    dying, other = two_hosts
    await publish(dying)
    keys = [f"r-{n}" for n in range(REPEATS)]
    async with dying.http(user) as first, other.http(user) as second:
        before = {key: (await start(first, key))["entityId"] for key in keys[:5]}
        starts = [asyncio.create_task(start(first, key)) for key in keys]
        await asyncio.wait(starts, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.to_thread(dying.end, signal.SIGKILL)
        answered = dict(before)
        for key, task in zip(keys, starts, strict=True):
            with suppress(httpx.TransportError):
                answered[key] = (await task)["entityId"]
        repeated = {key: (await start(second, key))["entityId"] for key in keys}
    assert {key: repeated[key] for key in answered} == answered
    successor = Serving(env=external(settings), cwd=tmp_path)
    try:
        async with successor.http(user) as first, other.http(user) as second:
            again = await asyncio.gather(*(start(http, key) for key in keys for http in (first, second)))
            assert [state["entityId"] for state in again[::2]] == list(repeated.values())
            assert [state["entityId"] for state in again[1::2]] == list(repeated.values())
            assert sorted(state["entityId"] for state in await listed(first)) == sorted(repeated.values())
    finally:
        successor.end()


async def test_states_are_listed_in_pages_by_status_the_newest_first(hosts: Hosts, user: str) -> None:
    async with hosts[0].http(user) as http, hosts[0].http("root", "flow:admin") as root:
        started = [accepted(await http.post(f"{ROUTE}/start")) for _ in range(30)]
        entities = [state["entityId"] for state in started]
        for entity in entities[::3]:
            accepted(await http.post(f"{ROUTE}/transition/jump", params={"entityId": entity}))
        for entity in entities[1::6]:
            address = {"userId": user, "entityId": entity}
            accepted(await root.post(f"{ROUTE}/pause", params=address, json={"reason": "audit"}))
        cleared = entities[29]
        assert (await http.delete(f"{ROUTE}/state", params={"entityId": cleared})).status_code == 204
    by_entity = sorted(started, key=lambda state: state["entityId"])
    newest = sorted(by_entity, key=lambda state: state["createdAt"], reverse=True)  # within one millisecond
    expected = [state["entityId"] for state in newest if state["entityId"] != cleared]
    assert len(expected) == 29
    statuses = {
        "completed": set(entities[::3]),
        "paused": set(entities[1::6]),
        "active": set(expected) - set(entities[::3]) - set(entities[1::6]),
    }
    async with hosts[1].http(user) as http:
        for limit in (7, 1000):
            found = [state["entityId"] for state in await listed(http, limit=limit)]
            assert found == expected
        for status, wanted in statuses.items():
            states = await listed(http, limit=7, status=status)
            assert {state["status"] for state in states} == {status}
            assert [state["entityId"] for state in states] == [each for each in expected if each in wanted]
        first = accepted(await http.get(f"{ROUTE}/states", params={"limit": 7}))
        assert len(first["items"]) == 7
    socket = await Follower().connect(hosts[1].url, hosts[1].token(user))
    body = {"flowId": FLOW, "limit": 7}
    page = await socket.call("flow-list", body)
    rest = await socket.call("flow-list", {**body, "after": page["next"], "limit": 100})
    assert [state["entityId"] for state in page["items"] + rest["items"]] == expected
    assert "next" not in rest
    await socket.close()


@pytest.mark.parametrize("suffix", ["", ";e;%3B:/ü"])
async def test_odd_entities_are_named_in_addresses(hosts: Hosts, user: str, suffix: str) -> None:
    """All at once, so that none is taken for another."""
    user += suffix
    async with hosts[0].http(user) as http, hosts[1].http(user) as other:
        for n, entity in enumerate(ODD):
            state = accepted(
                await http.post(f"{ROUTE}/start", json={"entityId": entity, "payload": {"n": n}})
            )
            assert (state["entityId"], state["instances"]) == (entity, "many")
        for n, entity in enumerate(ODD):
            address = {"entityId": entity}
            moved = accepted(await other.post(f"{ROUTE}/transition/go", params=address))
            assert (moved["entityId"], moved["payload"], moved["revision"]) == (entity, {"n": n}, 1)
            assert accepted(await http.get(f"{ROUTE}/state", params=address)) == moved
            first = accepted(await http.get(f"{ROUTE}/history", params={**address, "limit": 1}))
            rest = accepted(await http.get(f"{ROUTE}/history", params={**address, "after": first["next"]}))
            assert [each["metadata"]["kind"] for each in first["items"] + rest["items"]] == [
                "started",
                "transitioned",
            ]
            verified = accepted(await http.get(f"{ROUTE}/history/verify", params=address))
            assert (verified["whole"], verified["records"]) == (True, 2)
            token = accepted(await http.get(f"{ROUTE}/token", params=address))["token"]
            compared = accepted(await other.get("/api/flow/state", params={"token": token}))
            assert (compared["matches"], compared["state"]["entityId"]) == (True, entity)
            async with http.stream("GET", f"{ROUTE}/stream", params=address) as response:
                name, _, data = await Stream(response).next()
                assert (name, data["entityId"], data["payload"]) == ("flow-state", entity, {"n": n})
        found = await listed(other, limit=7)
        assert sorted(state["entityId"] for state in found) == sorted(ODD)
        assert {state["revision"] for state in found} == {1}
        for entity in ODD:
            answer = await http.delete(f"{ROUTE}/state", params={"entityId": entity})
            assert answer.status_code == 204
        assert await listed(other) == []


async def test_changes_of_odd_entities_are_reported_by_sockets_and_streams(hosts: Hosts, user: str) -> None:
    sockets = [await Follower().connect(host.url, host.token(user)) for host in hosts]
    sender, follower = sockets
    async with hosts[1].http(user) as http:
        for entity in ODD:
            body = {"flowId": FLOW, "entityId": entity}
            state = (await sender.call("flow-start", body))["state"]
            assert state["entityId"] == entity
            subscribed = await follower.call("flow-subscribe", body)
            assert subscribed["state"]["entityId"] == entity
            position = {"epoch": state["epoch"], "since": 0, "entityId": entity}
            async with http.stream("GET", f"{ROUTE}/stream", params=position) as response:
                moved = await sender.call("flow-transition", {**body, "transition": "go"})
                assert moved["state"]["entityId"] == entity
                name, _, data = await Stream(response).next()
                assert (name, data["entityId"], data["revision"]) == ("flow-state-updated", entity, 1)
            assert (await follower.call("flow-state", body))["state"]["step"] == "b"
            caught_up = accepted(await http.get(f"{ROUTE}/events", params=position))
            assert [event["entityId"] for event in caught_up["events"]] == [entity]
        await follower.until_updates(2 * len(ODD))
    updates = follower.updates()
    for entity in ODD:
        own = [update["revision"] for update in updates if update["entityId"] == entity]
        assert own == [0, 1], entity
    assert len(updates) == 2 * len(ODD)
    await close_all(sockets)


@pytest.mark.parametrize("entity", ["", "x" * 257, "line\nbreak", "\x7f", "person:" + "0" * 32])
async def test_what_is_no_entity_is_refused(hosts: Hosts, user: str, entity: str) -> None:
    async with hosts[0].http(user) as http:
        answers = [
            await http.post(f"{ROUTE}/start", json={"entityId": entity}),
            await http.get(f"{ROUTE}/state", params={"entityId": entity}),
            await http.post(f"{ROUTE}/transition/go", params={"entityId": entity}),
            await http.get(f"{ROUTE}/history", params={"entityId": entity}),
            await http.get(f"{ROUTE}/stream", params={"entityId": entity}),
        ]
        for answer in answers:
            assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_REQUEST"), answer.text
            assert [each["pointer"] for each in answer.json()["details"]["errors"]] == ["/entityId"]
        assert await listed(http) == []
    socket = await Follower().connect(hosts[0].url, hosts[0].token(user))
    for event in ("flow-start", "flow-state", "flow-subscribe"):
        refused = await socket.call(event, {"flowId": FLOW, "entityId": entity})
        assert refused["error"]["code"] == "INVALID_REQUEST"
    await socket.close()
