"""The client in Python on one of many states, its owner's and those of others, against a real server."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from realtime.client import FlowClient, FlowClientError
from tests.support.following import at_revision, read, revisions
from tests.support.samples import flow_dict
from tests.support.serving import Serving

FLOW = "requests"


@pytest.fixture(autouse=True)
async def published(serving: Serving) -> None:
    async with serving.http("root", "flow:admin") as http:
        answer = await http.post("/api/flows", json=flow_dict(FLOW, instances="many"))
        assert answer.status_code in (201, 409)  # or another test has published it


@pytest.fixture
async def client(serving: Serving, user: str) -> AsyncIterator[FlowClient]:
    async with FlowClient(serving.url, serving.token(user), device="own") as opened:
        yield opened


def entities(states: list[Any]) -> list[str | None]:
    return [state.entity_id for state in states]


async def test_each_of_many_states_is_followed_and_moves_alone(client: FlowClient) -> None:
    first = await client.start(FLOW)
    second = await client.start(FLOW, entity_id="order; 7%")
    assert (first.instances, second.instances, second.entity_id) == ("many", "many", "order; 7%")
    followed = [client.follow(FLOW, entity_id=state.entity_id) for state in (first, second)]
    for states in followed:
        await states.ready()
    for n, state in enumerate((second, first, second)):
        moved = await client.transition(FLOW, "again", {"n": n}, entity_id=state.entity_id)
        assert (moved.entity_id, moved.payload) == (state.entity_id, {"n": n})
    assert revisions(await read(followed[0], at_revision(1))) == [0, 1]
    assert revisions(await read(followed[1], at_revision(2))) == [0, 1, 2]
    assert (client.stats.syncs, client.stats.gaps) == (2, 0)
    with pytest.raises(FlowClientError, match="ENTITY_REQUIRED") as refused:
        await client.state(FLOW)
    assert refused.value.details["entityIds"] == entities([second, first])
    with pytest.raises(FlowClientError, match="ENTITY_REQUIRED"):
        await anext(client.follow(FLOW))
    assert (await client.reset(FLOW, "b", entity_id=first.entity_id)).step == "b"
    assert revisions(await read(followed[0], at_revision(2))) == [2], "other subscriptions go on"


async def test_without_an_entity_it_follows_the_first_one_from_its_start(
    serving: Serving, user: str, client: FlowClient
) -> None:
    states = client.follow(FLOW)
    assert await anext(states) is None
    async with FlowClient(serving.url, serving.token(user)) as other:
        started = await other.start(FLOW)
        await other.transition(FLOW, "again")
        assert revisions(await read(states, at_revision(1))) == [0, 1]
        await other.start(FLOW, entity_id="later")
        await other.transition(FLOW, "again", entity_id="later")
        await other.transition(FLOW, "again", entity_id=started.entity_id)
        assert entities(await read(states, at_revision(2))) == [started.entity_id]
        client.event_received("flow-resync", {"reason": "it is the same one, although there are two"})
        await other.transition(FLOW, "again", entity_id=started.entity_id)
        assert entities(await read(states, at_revision(3))) == [started.entity_id]
    assert (states.stats.gaps, states.stats.resets) == (0, 0)


async def test_presence_is_that_of_one_state(serving: Serving, user: str, client: FlowClient) -> None:
    await client.start(FLOW, entity_id="e-1")
    found = client.follow(FLOW)
    await found.ready()
    await client.start(FLOW, entity_id="e-2")
    async with FlowClient(serving.url, serving.token(user), device="other") as other:
        followed = [other.follow(FLOW, entity_id=entity_id) for entity_id in ("e-1", "e-2")]
        for states in followed:
            await states.ready()
        named = client.follow(FLOW, entity_id="e-2")
        await named.ready()

        async def devices(entity_id: str) -> list[str]:
            present = await other.presence(FLOW, entity_id=entity_id)
            return sorted(one.device for one in present)

        assert await devices("e-1") == await devices("e-2") == ["other", "own"]
        also_named = client.follow(FLOW, entity_id="e-1")
        await also_named.ready()
        await found.aclose()
        await client.state(
            FLOW, entity_id="e-1"
        )  # the server has processed the earlier events before this one
        assert await devices("e-1") == ["other", "own"], "another subscription is to the same state"
        await also_named.aclose()
        await client.state(FLOW, entity_id="e-1")
        assert await devices("e-1") == ["other"]
        assert await devices("e-2") == ["other", "own"]


async def test_states_are_listed_in_pages_the_newest_first(client: FlowClient) -> None:
    for n in range(5):
        await client.start(FLOW, entity_id=f"e-{n}")
        await asyncio.sleep(0.002)  # the order is that of their creation, in milliseconds
    await client.transition(FLOW, "jump", entity_id="e-3")
    first = await client.list_states(FLOW, limit=2)
    assert entities(first.items) == ["e-4", "e-3"]
    rest = await client.list_states(FLOW, after=first.next)
    assert (entities(rest.items), rest.next) == (["e-2", "e-1", "e-0"], None)
    done = await client.list_states(FLOW, status="completed")
    assert entities(done.items) == ["e-3"]
    assert done.items[0].status == "completed"


async def test_a_service_works_for_many_states_of_a_user(
    serving: Serving, user: str, client: FlowClient
) -> None:
    token = serving.token(f"svc-{user}", "flow:service")
    async with FlowClient(serving.url, token) as service:
        for entity_id in ("e-1", "e-2"):
            await service.start(FLOW, entity_id=entity_id, user_id=user)
        states = service.follow(FLOW, user_id=user, entity_id="e-2")
        await states.ready()
        await client.transition(FLOW, "again", entity_id="e-1")
        await client.transition(FLOW, "go", entity_id="e-2")
        shown = await read(states, at_revision(1))
        assert [state.step for state in shown] == ["a", "b"]
        assert len((await service.list_states(FLOW, user_id=user)).items) == 2
        with pytest.raises(FlowClientError, match="INSUFFICIENT_PERMISSIONS"):
            await client.list_states(FLOW, user_id=f"svc-{user}")
