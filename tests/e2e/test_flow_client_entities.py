"""The client in Python on one of many states, its owner's and those of others, against a real server."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from realtime.client import FlowClient, FlowClientError, Participant
from tests.support.following import at_revision, read, revisions
from tests.support.samples import flow_dict
from tests.support.serving import Serving

FLOW = "requests"


def approved_flow() -> dict[str, Any]:
    """A flow with many states, where approvers that the owner names go on to step b."""
    flow = flow_dict(FLOW, instances="many")
    flow["participants"] = {"approver": {"assignable": True, "claim": "PT15M"}, "auditor": {"group": "audit"}}
    flow["steps"]["a"]["transitions"]["approve"] = {
        "transition": "approve",
        "step": "b",
        "explicit": True,
        "roles": ["approver"],
    }
    flow["steps"]["b"]["transitions"]["back"]["roles"] = ["auditor"]
    return flow


@pytest.fixture(autouse=True)
async def published(serving: Serving) -> None:
    async with serving.http("root", "flow:admin") as http:
        answer = await http.post("/api/flows", json=approved_flow())
        assert answer.status_code in (201, 409)  # or another test has published it


@pytest.fixture
async def client(serving: Serving, user: str) -> AsyncIterator[FlowClient]:
    async with FlowClient(serving.url, serving.token(user), device="own") as opened:
        yield opened


def entities(states: list[Any]) -> list[str | None]:
    return [state.identifying_entity for state in states]


async def test_each_of_many_states_is_followed_and_moves_alone(client: FlowClient) -> None:
    first = await client.start(FLOW)
    second = await client.start(FLOW, entity_id="order; 7%")
    assert (first.instances, second.instances, second.identifying_entity) == ("many", "many", "order; 7%")
    followed = [client.follow(FLOW, entity_id=state.identifying_entity) for state in (first, second)]
    for states in followed:
        await states.ready()
    for n, state in enumerate((second, first, second)):
        moved = await client.transition(FLOW, "again", {"n": n}, entity_id=state.identifying_entity)
        assert (moved.entity_id, moved.payload) == (state.identifying_entity, {"n": n})
    assert revisions(await read(followed[0], at_revision(1))) == [0, 1]
    assert revisions(await read(followed[1], at_revision(2))) == [0, 1, 2]
    assert (client.stats.syncs, client.stats.gaps) == (2, 0)
    with pytest.raises(FlowClientError, match="ENTITY_REQUIRED") as refused:
        await client.state(FLOW)
    assert refused.value.details["entityIds"] == entities([second, first])
    with pytest.raises(FlowClientError, match="ENTITY_REQUIRED"):
        await anext(client.follow(FLOW))
    await client.reset(FLOW, entity_id=first.identifying_entity)
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
        await other.transition(FLOW, "again", entity_id=started.identifying_entity)
        assert entities(await read(states, at_revision(2))) == [started.identifying_entity]
        client.event_received("flow-resync", {"reason": "it is the same one, although there are two"})
        await other.transition(FLOW, "again", entity_id=started.identifying_entity)
        assert entities(await read(states, at_revision(3))) == [started.identifying_entity]
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


async def test_a_participant_follows_claims_and_moves_a_state_of_another_user(
    serving: Serving, user: str, client: FlowClient
) -> None:
    approver = f"approver-{user}"
    people = [Participant("approver", user_id=approver)]
    state = await client.start(FLOW, participants=people)
    await client.start(FLOW)
    async with FlowClient(serving.url, serving.token(approver)) as other:
        own = client.follow(FLOW, entity_id=state.identifying_entity)
        states = other.follow(FLOW, user_id=user, entity_id=state.identifying_entity)
        await asyncio.gather(own.ready(), states.ready())
        assert entities((await other.tasks("approver")).items) == [state.identifying_entity]
        address: dict[str, Any] = {"user_id": user, "entity_id": state.identifying_entity}
        claimed = await other.claim(FLOW, **address)
        assert isinstance(claimed.claims, tuple)
        assert [(claim.role, claim.user_id) for claim in claimed.claims] == [("approver", approver)]
        assert (await other.release(FLOW, **address)).revision == 2
        moved = await other.transition(FLOW, "approve", **address)
        assert (moved.step, moved.user_id) == ("b", user)
        for each in (own, states):
            shown = await read(each, at_revision(3))
            assert [update.kind for update in shown[1:]] == ["claimed", "released", "transitioned"]
            assert {update.actor for update in shown[1:]} == {approver}
        assert (await other.tasks("approver")).items == []
        with pytest.raises(FlowClientError, match="INSUFFICIENT_PERMISSIONS"):
            await other.transition(FLOW, "done", **address)


async def test_a_member_of_a_group_follows_the_states_that_it_may_see(
    serving: Serving, user: str, client: FlowClient
) -> None:
    state = await client.start(FLOW)
    address: dict[str, Any] = {"user_id": user, "entity_id": state.identifying_entity}
    token = serving.token(f"auditor-{user}", groups=["audit", "it"])
    async with FlowClient(serving.url, token) as auditor:
        states = auditor.follow(FLOW, **address)
        await states.ready()
        await client.transition(FLOW, "go", entity_id=state.identifying_entity)
        assert (await auditor.transition(FLOW, "back", **address)).step == "a"
        assert [each.step for each in await read(states, at_revision(2))] == ["a", "b", "a"]
    async with FlowClient(serving.url, serving.token(f"other-{user}", groups=["it"])) as other:
        with pytest.raises(FlowClientError, match="INSUFFICIENT_PERMISSIONS"):
            await anext(other.follow(FLOW, **address))


async def test_who_is_removed_is_shown_nothing_more_until_it_is_named_again(
    serving: Serving, user: str, client: FlowClient
) -> None:
    approver = f"approver-{user}"
    people = [Participant("approver", user_id=approver)]
    groups = [Participant("auditor", group="audit")]  # the owner may not remove them
    first, second = [(await client.start(FLOW, participants=people)).identifying_entity for _ in range(2)]
    async with FlowClient(serving.url, serving.token(approver), device="approver") as other:
        removed = other.follow(FLOW, user_id=user, entity_id=first)
        remaining = other.follow(FLOW, user_id=user, entity_id=second)
        watched = client.follow(FLOW, entity_id=first)
        await asyncio.gather(removed.ready(), remaining.ready(), watched.ready())

        async def devices() -> list[str]:
            return sorted(one.device for one in await client.presence(FLOW, entity_id=first))

        assert await devices() == ["approver", "own"]
        await client.assign(FLOW, groups, entity_id=first)
        with pytest.raises(FlowClientError, match="INSUFFICIENT_PERMISSIONS"):
            await read(removed, lambda state: state is None or state.revision > 0)
        assert await devices() == ["own"]
        await client.transition(FLOW, "again", entity_id=second)
        assert revisions(await read(remaining, at_revision(1))) == [0, 1]
        await client.assign(FLOW, [*people, *groups], entity_id=first)
        again = other.follow(FLOW, user_id=user, entity_id=first)
        await again.ready()
        await client.transition(FLOW, "again", entity_id=first)
        assert revisions(await read(again, at_revision(3))) == [2, 3]
        assert await devices() == ["approver", "own"]


async def test_a_state_that_was_followed_without_its_entity_is_left_without_it(
    serving: Serving, user: str, client: FlowClient
) -> None:
    await client.start(FLOW, entity_id="e-1")
    async with FlowClient(serving.url, serving.token(user), device="other") as other:
        states = other.follow(FLOW, entity_id="e-1")
        await states.ready()
        for event in ("flow-subscribe", "flow-unsubscribe"):
            await client._requests.send(event, {"flowId": FLOW}, 10)
        assert [one.device for one in await other.presence(FLOW, entity_id="e-1")] == ["other"]
