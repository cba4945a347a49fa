"""Rooms of the gateway: a client that disconnects leaves nothing behind; presence is sent in batches."""

import asyncio
import time
from typing import Any

import pytest
from socketio.exceptions import ConnectionRefusedError as RefusedError

from app.contracts.errors import AuthenticationRequiredError, FlowError, FlowNotFoundError
from app.contracts.events import Topic, user_topic
from app.contracts.state import StateId
from app.services.live import presence
from app.services.rates.request_limits import RequestRates
from realtime.gateway import handlers as gateway_handlers
from realtime.gateway.bounded_server import ENVIRON_DISCONNECTED
from realtime.gateway.messages import FlowMessage, SubscribeMessage
from realtime.gateway.rooms import presence_room
from tests.support.gateway import Gateway
from tests.support.rig import rig


@pytest.fixture
async def gateway(monkeypatch: pytest.MonkeyPatch) -> Gateway:
    return Gateway(await rig(), monkeypatch)


async def _settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_client_that_disconnects_leaves_nothing(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "MAX_ANSWER_SECONDS", 0.05)  # no other worker answers
    await gateway.connect("s", "svc+admin")
    session = gateway.sockets._sessions["s"]
    await gateway.sockets._subscribe(session, "svc", SubscribeMessage(flow_id="loop"))
    await gateway.sockets._subscribe(session, "ada", SubscribeMessage(flow_id="loop"))
    await gateway.sockets._watch(session, "svc", FlowMessage(flow_id="loop"))
    await gateway.sockets._presence(session, "svc", FlowMessage(flow_id="loop"))
    await gateway.sockets._presence(session, "ada", FlowMessage(flow_id="loop", user_id="ada"))
    assert not gateway.is_empty()
    await gateway.sockets._disconnect("s")
    await _settle()
    assert gateway.is_empty()
    assert gateway.rig.service.presence.known_on("loop") == []


@pytest.mark.parametrize("user", ["svc", "ada"])
async def test_a_client_that_disconnects_while_it_subscribes_leaves_nothing(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    """While the topic is joined (another user's state), and while the state is read (its own)."""
    await gateway.connect("s", "svc+admin")
    session = gateway.sockets._sessions["s"]
    reading = asyncio.Event()
    load = gateway.rig.states.load

    async def slow(state_id: StateId) -> Any:
        await reading.wait()
        return await load(state_id)

    monkeypatch.setattr(gateway.rig.states, "load", slow)
    gateway.followed.clear()
    message = SubscribeMessage(flow_id="loop", user_id=user)
    subscribing = asyncio.create_task(gateway.sockets._subscribe(session, user, message))
    await _settle()
    await gateway.sockets._disconnect("s")
    gateway.followed.set()
    reading.set()
    (outcome,) = await asyncio.gather(subscribing, return_exceptions=True)
    assert user == "svc" or isinstance(outcome, FlowError)
    await _settle()
    assert gateway.is_empty()
    assert gateway.rig.service.presence.known_on(StateId("loop", "svc")) == [], "no ghost"


async def test_a_client_that_disconnects_while_it_connects_leaves_nothing(gateway: Gateway) -> None:
    gateway.followed.clear()
    environ: dict[str, Any] = {}
    connecting = asyncio.create_task(gateway.connect("s", "ada", environ))
    await _settle()
    environ[ENVIRON_DISCONNECTED] = True
    gateway.followed.set()
    with pytest.raises(RefusedError):
        await connecting
    assert gateway.is_empty()
    assert gateway.sockets._sessions == {}


async def test_a_topic_that_could_not_be_joined_is_tried_again(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow = gateway.rig.bus.follow

    async def failing(topic: Topic) -> None:
        await follow(topic)
        raise asyncio.CancelledError

    monkeypatch.setattr(gateway.rig.bus, "follow", failing)
    for sid in ("a", "b"):
        with pytest.raises(asyncio.CancelledError):
            await gateway.connect(sid, "ada")
    assert gateway.is_empty()
    monkeypatch.setattr(gateway.rig.bus, "follow", follow)
    await gateway.connect("c", "ada")
    assert gateway.rig.service.subscribers.has_subscribers(user_topic("ada"))


@pytest.mark.parametrize("user", ["svc", "ada"])
async def test_a_subscription_that_is_refused_leaves_nothing(gateway: Gateway, user: str) -> None:
    await gateway.connect("s", "svc+admin")
    session = gateway.sockets._sessions["s"]
    with pytest.raises(FlowNotFoundError):
        await gateway.sockets._subscribe(session, user, SubscribeMessage(flow_id="nowhere", user_id=user))
    assert (session.followed, list(session.rooms)) == (set(), ["user:svc"])
    assert not gateway.rig.service.subscribers.has_subscribers(user_topic("ada"))


async def test_two_clients_of_a_user_need_its_topic_until_both_disconnect(gateway: Gateway) -> None:
    await asyncio.gather(gateway.connect("a", "ada"), gateway.connect("b", "ada"))
    assert gateway.rig.service.subscribers.count(user_topic("ada")) == 1
    await gateway.sockets._disconnect("a")
    assert gateway.rig.service.subscribers.has_subscribers(user_topic("ada"))
    await gateway.sockets._disconnect("b")
    assert gateway.is_empty()


async def test_connections_of_a_user_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway(await rig(user_connections=2), monkeypatch)
    for sid in ("a", "b"):
        await gateway.connect(sid, "ada")
    with pytest.raises(RefusedError) as refusal:
        await gateway.connect("c", "ada")
    assert refusal.value.error_args["message"] == "RATE_LIMITED"
    await gateway.connect("d", "bob")
    await gateway.sockets._disconnect("a")
    await gateway.connect("c", "ada")
    for n in range(3, 10):
        await gateway.connect(f"svc-{n}", "svc+service")


async def test_presence_that_changes_often_is_reported_once(gateway: Gateway) -> None:
    async with gateway.rig.service as service:
        run = asyncio.create_task(gateway.sockets._rooms.run())
        await gateway.connect("watcher", "ada")
        watcher = gateway.sockets._sessions["watcher"]
        await gateway.sockets._subscribe(watcher, "ada", SubscribeMessage(flow_id="loop"))
        await gateway.sockets._presence(watcher, "ada", FlowMessage(flow_id="loop"))
        await asyncio.sleep(0.2)
        gateway.emitted.clear()
        await gateway.connect("other", "ada")
        other = gateway.sockets._sessions["other"]
        for _ in range(50):
            await gateway.sockets._subscribe(other, "ada", SubscribeMessage(flow_id="loop"))
            await gateway.sockets._unsubscribe(other, "ada", FlowMessage(flow_id="loop"))
        await gateway.sockets._subscribe(other, "ada", SubscribeMessage(flow_id="loop"))
        async with asyncio.timeout(5):
            while not (bodies := [body for event, body, _ in gateway.emitted if event == "flow-presence"]):
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        assert len([event for event, _, _ in gateway.emitted if event == "flow-presence"]) <= 2
        assert len(bodies[-1]["clients"]) == 2
        assert gateway.members[presence_room(StateId("loop", "ada"))] == {"watcher"}
        assert service.presence.known_on(StateId("loop", "ada")) == bodies[-1]["clients"]
        run.cancel()


async def test_a_disconnected_client_enters_no_room(gateway: Gateway) -> None:
    await gateway.connect("s", "ada")
    session = gateway.sockets._sessions["s"]
    await gateway.sockets._disconnect("s")
    with pytest.raises(AuthenticationRequiredError):
        await gateway.sockets._rooms.enter(session, "user:ada", user_topic("ada"))
    assert gateway.is_empty()


async def test_a_token_may_live_longer_than_the_longest_timer(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timer is set again; only the end of the token ends the connection."""
    monkeypatch.setattr(gateway_handlers, "MAX_TIMER_SECONDS", 0.01)
    gateway.verifier.seconds = 0.3
    began = time.monotonic()
    await gateway.connect("s", "ada")
    error = await asyncio.wait_for(gateway.ended.get(), 5)
    assert error.code == "AUTHENTICATION_REQUIRED"
    assert time.monotonic() - began > 0.25


@pytest.mark.expected_logs("event rate exceeded")
async def test_events_count_as_requests_of_their_user_and_repeated_abuse_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway_handlers, "MAX_REFUSALS", 3)
    gateway = Gateway(await rig(rates=RequestRates(user=4, service=100)), monkeypatch)
    for sid in ("a", "b"):
        await gateway.connect(sid, "ada")
    send = gateway.sockets.server.handlers["/"]["flow-list"]
    answers = [await send(sid, {"flowId": "loop"}) for sid in ("a", "b", "a", "b", "a", "a")]
    assert [answer["ok"] for answer in answers] == [True, True, False, False, False, False]
    assert answers[2]["error"].code == "RATE_LIMITED"
    assert (await asyncio.wait_for(gateway.ended.get(), 5)).code == "RATE_LIMITED"
    assert gateway.ended.empty(), "the other client was refused once"
    await gateway.connect("c", "bob")
    assert (await send("c", {"flowId": "loop"}))["ok"], "another user is unaffected"
