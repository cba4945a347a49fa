"""Rooms of the gateway: participants receive changes of the states on which they have a role."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from app.contracts.errors import InsufficientPermissionsError
from app.contracts.events import Event, Resync, user_topic
from app.contracts.state import StateId
from realtime.gateway.messages import FlowMessage, SubscribeMessage
from realtime.gateway.rooms import presence_room, state_room
from realtime.gateway.session import Session
from tests.support.case_flows import case_flow, replace_people, started
from tests.support.gateway import Gateway
from tests.support.rig import Rig

CASE = StateId("case", "olga")
SUBSCRIBE = SubscribeMessage(flow_id="case", user_id="olga")
OWN = SubscribeMessage(flow_id="case")
NAMED = FlowMessage(flow_id="case", user_id="olga")


@pytest.fixture
async def gateway(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    r = Rig()
    await r.service.create_flow(case_flow("case"))
    await started(r, "case")
    made = Gateway(r, monkeypatch)
    async with r.service:
        run = asyncio.create_task(made.sockets._rooms.run())
        yield made
        run.cancel()


async def connected(gateway: Gateway, user: str) -> Session:
    await gateway.connect(user, user)
    return gateway.sockets._sessions[user]


async def until_idle(gateway: Gateway) -> None:
    """Wait until what was committed is delivered: the owner's client receives events after all others."""
    await gateway.rig.service.background.relay.drain(5)
    for _ in range(50):
        await asyncio.sleep(0)


def emitted_to(gateway: Gateway, sid: str) -> list[str]:
    rooms = {room for room, sids in gateway.members.items() if sid in sids} | {sid}
    return [
        event
        for event, _, room in gateway.emitted
        if not rooms.isdisjoint(room if isinstance(room, list) else [room])
    ]


def is_outside(gateway: Gateway, session: Session) -> bool:
    rooms = [state_room(CASE), presence_room(CASE)]
    present = [client.user_id for client in gateway.rig.service.presence.known_on(CASE)]
    inside = [room for room in rooms if session.sid in gateway.members.get(room, ())]
    return not inside and CASE not in session.followed and session.user_id not in present


async def test_a_stranger_who_subscribes_is_in_no_room_for_a_moment(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state changes between any two steps of the subscription."""
    session = await connected(gateway, "mallory")
    entered: list[str] = []

    async def recorded(_: str, room: str) -> None:
        entered.append(room)

    monkeypatch.setattr(gateway.sockets.server, "enter_room", recorded)
    with pytest.raises(InsufficientPermissionsError):
        await gateway.sockets._subscribe(session, "olga", SUBSCRIBE)
    assert entered == []
    assert is_outside(gateway, session)


async def test_a_client_that_enters_while_a_change_is_delivered_receives_no_state_that_was_not_for_it(
    gateway: Gateway,
) -> None:
    events, rooms = gateway.rig.service.updates, gateway.sockets._rooms
    owner, other = await connected(gateway, "olga"), await connected(gateway, "mallory")
    await gateway.sockets._subscribe(owner, "olga", OWN)
    asked = events.is_same_for_everyone

    async def entering(event: Any) -> bool:
        await asked(event)
        await rooms.enter(other, state_room(CASE), user_topic("olga"))
        return True

    events.is_same_for_everyone = entering  # type: ignore[method-assign]
    gateway.emitted.clear()
    await gateway.rig.flows.execute_transition("olga", "case", "edit")
    await until_idle(gateway)
    assert "flow-state-updated" in emitted_to(gateway, "olga")
    assert "flow-state-updated" not in emitted_to(gateway, "mallory")


async def test_a_participant_who_is_removed_receives_nothing_more(gateway: Gateway) -> None:
    session = await connected(gateway, "pia")
    await gateway.sockets._subscribe(session, "olga", SUBSCRIBE)
    await gateway.sockets._presence(session, "olga", NAMED)
    await replace_people(gateway.rig, "case")
    await until_idle(gateway)
    assert is_outside(gateway, session)
    gateway.emitted.clear()
    await gateway.rig.flows.execute_transition("olga", "case", "edit")
    await until_idle(gateway)
    assert emitted_to(gateway, "pia") == []


async def test_the_subscription_of_a_participant_ends_with_the_state(gateway: Gateway) -> None:
    session = await connected(gateway, "pia")
    await gateway.sockets._subscribe(session, "olga", SUBSCRIBE)
    await gateway.sockets._presence(session, "olga", NAMED)
    await gateway.rig.flows.clear_flow_state("olga", "case")
    await until_idle(gateway)
    assert emitted_to(gateway, "pia").count("flow-state-updated") == 1, "the end"
    assert is_outside(gateway, session)
    gateway.emitted.clear()
    await gateway.rig.flows.start_flow("olga", "case")  # without her
    await until_idle(gateway)
    assert emitted_to(gateway, "pia") == []


@pytest.mark.parametrize("learns", ["by subscribing", "by presence", "by a resync"])
async def test_a_participant_whose_removal_was_missed_is_removed_as_soon_as_it_is_known(
    gateway: Gateway, learns: str
) -> None:
    session = await connected(gateway, "pia")
    await gateway.sockets._subscribe(session, "olga", SUBSCRIBE)
    await gateway.sockets._presence(session, "olga", NAMED)
    bus = gateway.rig.bus
    publish = bus.publish

    async def lose(events: Sequence[Event]) -> int:
        return 1

    bus.publish = lose  # type: ignore[method-assign]
    await replace_people(gateway.rig, "case")
    await until_idle(gateway)
    bus.publish = publish  # type: ignore[method-assign]
    assert not is_outside(gateway, session)
    if learns == "by a resync":
        gateway.sockets._rooms._enqueue(user_topic("olga"), Resync("lost"))
        await until_idle(gateway)
    else:
        requests = {
            "by presence": lambda: gateway.sockets._presence(session, "olga", NAMED),
            "by subscribing": lambda: gateway.sockets._subscribe(session, "olga", SUBSCRIBE),
        }
        with pytest.raises(InsufficientPermissionsError):
            await requests[learns]()
    assert is_outside(gateway, session)


async def test_a_participant_of_one_state_is_none_of_another(gateway: Gateway) -> None:
    rig: Rig = gateway.rig
    await rig.service.create_flow(case_flow("desk", instances="many"))
    await started(rig, "desk", "a")
    await started(rig, "desk", "b", people=())
    session = await connected(gateway, "pia")
    await gateway.sockets._subscribe(
        session, "olga", SubscribeMessage(flow_id="desk", user_id="olga", entity_id="a")
    )
    with pytest.raises(InsufficientPermissionsError):
        await gateway.sockets._subscribe(
            session, "olga", SubscribeMessage(flow_id="desk", user_id="olga", entity_id="b")
        )
    await until_idle(gateway)
    gateway.emitted.clear()
    await rig.flows.execute_transition("olga", "desk", "edit", entity_id="b")
    await until_idle(gateway)
    assert emitted_to(gateway, "pia") == []
    await rig.flows.execute_transition("olga", "desk", "edit", entity_id="a")
    await until_idle(gateway)
    assert emitted_to(gateway, "pia") == ["flow-state-updated"]
