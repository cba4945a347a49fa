"""Clients that go while something is under way hold nothing; what many see at once is told once."""

import asyncio
import time
from typing import Any

import pytest
from socketio.exceptions import ConnectionRefusedError as RefusedError

from app.contracts.callers import Caller
from app.contracts.errors import AuthenticationRequiredError, FlowError, FlowNotFoundError
from app.contracts.events import Topic, user_topic
from realtime.gateway import handlers as sockets
from realtime.gateway.bounded_server import GONE
from realtime.gateway.handlers import FlowSockets
from realtime.gateway.messages import FlowMessage, SubscribeMessage
from realtime.gateway.rooms import presence_room
from tests.support.rig import Rig, rig


class Verifier:
    """Takes a token for the user that it names; ``+admin`` behind it gives the scope."""

    seconds = 60.0
    """The lifetime of a token."""

    async def verify(self, token: str | None) -> Caller:
        user, _, scope = str(token).partition("+")
        scopes = frozenset({f"flow:{scope}"} if scope else set())
        return Caller(user, scopes=scopes, expires_at=time.time() + self.seconds)


class Door:
    """The door without its network: clients are connected by hand."""

    def __init__(self, r: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rig = r
        self.verifier = Verifier()
        self.sockets = FlowSockets(
            r.service,
            self.verifier,  # type: ignore[arg-type]
            transports=["websocket"],
            cors_origins=[],
            max_message_bytes=1000,
        )
        self.emitted: list[tuple[str, Any, Any]] = []
        self.ended: asyncio.Queue[FlowError] = asyncio.Queue()
        self.members: dict[str, set[str]] = {}
        self.followed = asyncio.Event()
        self.followed.set()
        follow = r.bus.follow

        async def held_up(topic: Topic) -> None:
            await self.followed.wait()
            await follow(topic)

        async def emit(event: str, body: Any, room: Any = None, **_: Any) -> None:
            self.emitted.append((event, body, room))

        async def enter(sid: str, room: str) -> None:
            self.members.setdefault(room, set()).add(sid)

        async def leave(sid: str, room: str) -> None:
            self.members[room].discard(sid)

        async def end(_: str, error: FlowError) -> None:
            self.ended.put_nowait(error)

        monkeypatch.setattr(r.bus, "follow", held_up)
        server = self.sockets.server
        monkeypatch.setattr(server, "emit", emit)
        monkeypatch.setattr(server, "end", end)
        monkeypatch.setattr(server, "enter_room", enter)
        monkeypatch.setattr(server, "leave_room", leave)
        monkeypatch.setattr(server, "has_members", lambda room: bool(self.members.get(room)))

    async def connect(self, sid: str, token: str, environ: dict[str, Any] | None = None) -> None:
        await self.sockets._connect(sid, {} if environ is None else environ, {"token": token})

    def nothing_is_held(self) -> bool:
        rooms, bus = self.sockets._rooms, self.rig.bus
        held = [rooms._needed, rooms._memberships, rooms._rooms_of, self.sockets._users]
        topics = [topic for topic, count in bus.followed.items() if count and topic.kind != "everyone"]
        inside = [room for room, sids in self.members.items() if sids]
        return not any(held) and not topics and not inside


@pytest.fixture
async def door(monkeypatch: pytest.MonkeyPatch) -> Door:
    return Door(await rig(), monkeypatch)


async def _settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_client_that_goes_leaves_nothing(door: Door) -> None:
    await door.connect("s", "svc+admin")
    client = door.sockets._clients["s"]
    await door.sockets._subscribe(client, "svc", SubscribeMessage(flow_id="loop"))
    await door.sockets._subscribe(client, "ada", SubscribeMessage(flow_id="loop"))
    await door.sockets._watch(client, "svc", FlowMessage(flow_id="loop"))
    await door.sockets._presence(client, "svc", FlowMessage(flow_id="loop"))
    await door.sockets._presence(client, "ada", FlowMessage(flow_id="loop", user_id="ada"))
    assert not door.nothing_is_held()
    await door.sockets._disconnect("s")
    await _settle()
    assert door.nothing_is_held()
    assert door.rig.service.presence.known_on("loop", None) == []


@pytest.mark.parametrize("user", ["svc", "ada"])
async def test_a_client_that_goes_while_it_subscribes_leaves_nothing(
    door: Door, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    """While the topic is joined (another user's state), and while the state is read (its own)."""
    await door.connect("s", "svc+admin")
    client = door.sockets._clients["s"]
    reading = asyncio.Event()
    load = door.rig.states.load

    async def slow(*arguments: str) -> Any:
        await reading.wait()
        return await load(*arguments)

    monkeypatch.setattr(door.rig.states, "load", slow)
    door.followed.clear()
    message = SubscribeMessage(flow_id="loop", user_id=user)
    subscribing = asyncio.create_task(door.sockets._subscribe(client, user, message))
    await _settle()
    await door.sockets._disconnect("s")
    door.followed.set()
    reading.set()
    (outcome,) = await asyncio.gather(subscribing, return_exceptions=True)
    assert user == "svc" or isinstance(outcome, FlowError)
    await _settle()
    assert door.nothing_is_held()
    assert door.rig.service.presence.known_on("loop", "svc") == [], "no ghost"


async def test_a_client_that_goes_while_it_connects_leaves_nothing(door: Door) -> None:
    door.followed.clear()
    environ: dict[str, Any] = {}
    connecting = asyncio.create_task(door.connect("s", "ada", environ))
    await _settle()
    environ[GONE] = True
    door.followed.set()
    with pytest.raises(RefusedError):
        await connecting
    assert door.nothing_is_held()
    assert door.sockets._clients == {}


async def test_a_topic_that_could_not_be_joined_is_tried_again(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow = door.rig.bus.follow

    async def failing(topic: Topic) -> None:
        await follow(topic)
        raise asyncio.CancelledError

    monkeypatch.setattr(door.rig.bus, "follow", failing)
    for sid in ("a", "b"):
        with pytest.raises(asyncio.CancelledError):
            await door.connect(sid, "ada")
    assert door.nothing_is_held()
    monkeypatch.setattr(door.rig.bus, "follow", follow)
    await door.connect("c", "ada")
    assert door.rig.service.audience.listens(user_topic("ada"))


@pytest.mark.parametrize("user", ["svc", "ada"])
async def test_a_subscription_that_is_refused_holds_nothing(door: Door, user: str) -> None:
    await door.connect("s", "svc+admin")
    client = door.sockets._clients["s"]
    with pytest.raises(FlowNotFoundError):
        await door.sockets._subscribe(client, user, SubscribeMessage(flow_id="nowhere", user_id=user))
    assert (client.followed, list(client.rooms)) == (set(), ["user:svc"])
    assert not door.rig.service.audience.listens(user_topic("ada"))


async def test_two_clients_of_a_user_need_its_topic_until_both_are_gone(door: Door) -> None:
    await asyncio.gather(door.connect("a", "ada"), door.connect("b", "ada"))
    assert door.rig.service.audience.count(user_topic("ada")) == 1
    await door.sockets._disconnect("a")
    assert door.rig.service.audience.listens(user_topic("ada"))
    await door.sockets._disconnect("b")
    assert door.nothing_is_held()


async def test_connections_of_a_user_are_bounded(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realtime.gateway.handlers.CONNECTIONS_OF_A_USER", 2)
    for sid in ("a", "b"):
        await door.connect(sid, "ada")
    with pytest.raises(RefusedError) as refusal:
        await door.connect("c", "ada")
    assert refusal.value.error_args["message"] == "RATE_LIMITED"
    await door.connect("d", "bob")
    await door.sockets._disconnect("a")
    await door.connect("c", "ada")
    for n in range(3, 10):
        await door.connect(f"svc-{n}", "svc+service")


async def test_presence_that_changes_often_is_reported_once(door: Door) -> None:
    async with door.rig.service as service:
        run = asyncio.create_task(door.sockets._rooms.run())
        await door.connect("watcher", "ada")
        watcher = door.sockets._clients["watcher"]
        await door.sockets._subscribe(watcher, "ada", SubscribeMessage(flow_id="loop"))
        await door.sockets._presence(watcher, "ada", FlowMessage(flow_id="loop"))
        await asyncio.sleep(0.2)
        door.emitted.clear()
        await door.connect("other", "ada")
        other = door.sockets._clients["other"]
        for _ in range(50):
            await door.sockets._subscribe(other, "ada", SubscribeMessage(flow_id="loop"))
            await door.sockets._unsubscribe(other, "ada", FlowMessage(flow_id="loop"))
        await door.sockets._subscribe(other, "ada", SubscribeMessage(flow_id="loop"))
        async with asyncio.timeout(5):
            while not (told := [body for event, body, _ in door.emitted if event == "flow-presence"]):
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        assert len([event for event, _, _ in door.emitted if event == "flow-presence"]) <= 2
        assert len(told[-1]["clients"]) == 2
        assert door.members[presence_room("loop", "ada")] == {"watcher"}
        assert service.presence.known_on("loop", "ada") == told[-1]["clients"]
        run.cancel()


async def test_a_client_that_is_gone_enters_no_room(door: Door) -> None:
    await door.connect("s", "ada")
    client = door.sockets._clients["s"]
    await door.sockets._disconnect("s")
    with pytest.raises(AuthenticationRequiredError):
        await door.sockets._rooms.enter(client, "user:ada", user_topic("ada"))
    assert door.nothing_is_held()


async def test_a_token_may_live_longer_than_the_longest_timer(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timer is set again; only the end of the token ends the connection."""
    monkeypatch.setattr(sockets, "LONGEST_TIMER_SECONDS", 0.01)
    door.verifier.seconds = 0.3
    began = time.monotonic()
    await door.connect("s", "ada")
    error = await asyncio.wait_for(door.ended.get(), 5)
    assert error.code == "AUTHENTICATION_REQUIRED"
    assert time.monotonic() - began > 0.25
