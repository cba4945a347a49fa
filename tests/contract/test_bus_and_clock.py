"""The contracts of EventBus and Clock."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC

import pytest
from msgspec import Raw

from app.clock import SystemClock
from app.contracts.events import DefinitionChanged, Event, StateChanged, Topic, of_flow, of_user
from app.contracts.ports import Clock, EventBus
from config.settings import Settings
from realtime.bus import RedisBus
from tests.support.fakes import FakeBus, FakeClock


def changed(user: str, revision: int = 0, flow: str = "f") -> StateChanged:
    return StateChanged(
        user_id=user, flow_id=flow, epoch="e", revision=revision, at=0, body=Raw(b'{"a":[1]}')
    )


class Heard:
    """What a bus brings, with a way to wait for it."""

    def __init__(self, bus: EventBus) -> None:
        self.events: list[tuple[Topic, Event]] = []
        self._grown = asyncio.Event()
        bus.subscribe(self._hear)

    def _hear(self, topic: Topic, event: Event) -> None:
        self.events.append((topic, event))
        self._grown.set()

    async def until_everyone(self) -> None:
        """Until a DefinitionChanged is heard, which is sent last."""
        async with asyncio.timeout(5):
            while not any(isinstance(event, DefinitionChanged) for _, event in self.events):
                self._grown.clear()
                await self._grown.wait()


@pytest.fixture(params=["fake", pytest.param("redis", marks=pytest.mark.server)])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[EventBus]:
    if request.param == "fake":
        yield FakeBus()
        return
    servers: Settings = request.getfixturevalue("servers")
    assert servers.redis_url is not None
    bus = RedisBus(servers.redis_url.get_secret_value(), f"test_{uuid.uuid4().hex}")
    await bus.start(bytes(32))
    yield bus
    await bus.stop()


async def test_events_are_heard_in_order_by_every_handler(bus: EventBus) -> None:
    events: list[Event] = [changed("ada", n) for n in range(50)]
    await bus.follow(of_user("ada"))
    heard, also = Heard(bus), Heard(bus)
    await bus.publish(events[:20])
    await bus.publish([*events[20:], DefinitionChanged(flow_id="f")])
    await heard.until_everyone()
    assert heard.events == also.events
    assert [event for topic, event in heard.events if topic == of_user("ada")] == events


async def test_what_nobody_follows_is_not_heard(bus: EventBus) -> None:
    await bus.follow(of_user("ada"))
    await bus.follow(of_flow("watched"))
    await bus.follow(of_user("eve"))
    bus.unfollow(of_user("eve"))
    heard = Heard(bus)
    events = [changed("ada"), changed("bob"), changed("eve"), changed("bob", 1, "watched")]
    await bus.publish([*events, changed("ada", 2, "watched")])
    await bus.publish([DefinitionChanged(flow_id="f")])
    await heard.until_everyone()
    by_user = [event for topic, event in heard.events if topic.kind == "user"]
    by_flow = [event for topic, event in heard.events if topic.kind == "flow"]
    assert by_user == [events[0], changed("ada", 2, "watched")]
    assert by_flow == [events[3], changed("ada", 2, "watched")]


async def test_a_topic_is_heard_until_the_last_who_follows_it_ends(bus: EventBus) -> None:
    for _ in range(2):
        await bus.follow(of_user("ada"))
    bus.unfollow(of_user("ada"))
    heard = Heard(bus)
    await bus.publish([changed("ada")])
    bus.unfollow(of_user("ada"))
    await bus.publish([changed("ada", 1)])
    await bus.publish([DefinitionChanged(flow_id="f")])
    await heard.until_everyone()
    assert [event for topic, event in heard.events if topic.kind == "user"] == [changed("ada")]


async def test_who_publishes_is_told_how_many_hear_it(bus: EventBus) -> None:
    assert await bus.publish([changed("nobody")]) == 0
    await bus.follow(of_user("ada"))
    assert await bus.publish([changed("ada")]) == 1
    assert await bus.publish([changed("ada"), changed("nobody")]) == 0


@pytest.fixture(params=["fake", "system"])
def clock(request: pytest.FixtureRequest) -> Clock:
    return FakeClock() if request.param == "fake" else SystemClock()


def test_time_is_utc_in_whole_milliseconds(clock: Clock) -> None:
    now = clock.now()
    assert now.tzinfo is UTC
    assert now.microsecond % 1000 == 0
    assert clock.now() >= now
