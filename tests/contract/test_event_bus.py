"""The contract of EventBus."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

import pytest
from msgspec import Raw

from app.contracts.errors import BusUnavailableError
from app.contracts.events import (
    EVERYONE,
    DefinitionChanged,
    Event,
    Gap,
    StateChanged,
    Topic,
    flow_topic,
    user_topic,
)
from app.contracts.ports.bus import EventBus
from config.settings import Settings
from realtime.redis.bus import RedisBus
from tests.support.fakes import FakeBus
from tests.support.faults import CuttableProxy

PORTS = (EventBus,)


def changed(user: str, revision: int = 0, flow: str = "f") -> StateChanged:
    return StateChanged(
        user_id=user, flow_id=flow, epoch="e", revision=revision, at=0, body=Raw(b'{"a":[1]}')
    )


class ReceivedEvents:
    """The events that a bus delivers."""

    def __init__(self, bus: EventBus) -> None:
        self.events: list[tuple[Topic, Event]] = []
        self._grown = asyncio.Event()
        bus.subscribe(self._receive)

    def _receive(self, topic: Topic, event: Event) -> None:
        self.events.append((topic, event))
        self._grown.set()

    async def until_everyone(self) -> None:
        """Until a DefinitionChanged is received, which is sent last."""
        await self.until(lambda event: isinstance(event, DefinitionChanged))

    async def until(self, is_it: Callable[[Event], bool]) -> None:
        """Until an event is received."""
        async with asyncio.timeout(5):
            while not any(is_it(event) for _, event in self.events):
                self._grown.clear()
                await self._grown.wait()


class BusWithOutages(Protocol):
    """A bus, the outages of its Redis, and the end of another worker."""

    @property
    def bus(self) -> EventBus:
        """The bus under test."""

    async def cut(self) -> None:
        """Take Redis away from the bus, until ``mend``."""

    async def mend(self) -> None:
        """Bring Redis back."""

    async def end_another_worker(self) -> str:
        """Start another worker and stop it; its id."""


class FakeOutages:
    """The fake bus."""

    def __init__(self) -> None:
        self.bus = FakeBus()

    async def cut(self) -> None:
        self._cut_at = datetime.now(UTC)
        self.bus.broken = True

    async def mend(self) -> None:
        self.bus.mend(self._cut_at)

    async def end_another_worker(self) -> str:
        self.bus.report_worker_lost("another")
        return "another"


class RedisOutages:
    """The bus on Redis, behind a proxy."""

    def __init__(self, url: str, proxy: CuttableProxy) -> None:
        self._url = url
        self._proxy = proxy
        self._namespace = f"test_{uuid.uuid4().hex}"
        own, _, database = url.rpartition("/")
        password = own.rpartition("@")[0]
        at = f"{password}@" if password else "redis://"
        self.bus = RedisBus(f"{at}127.0.0.1:{proxy.port}/{database}", self._namespace)

    async def cut(self) -> None:
        await self._proxy.cut()

    async def mend(self) -> None:
        await self._proxy.mend()

    async def end_another_worker(self) -> str:
        other = RedisBus(self._url, self._namespace)
        await other.start(bytes(32))
        await other.stop()
        return other.worker


@pytest.fixture(params=["fake", pytest.param("redis", marks=pytest.mark.server)])
async def outages(request: pytest.FixtureRequest) -> AsyncIterator[BusWithOutages]:
    if request.param == "fake":
        yield FakeOutages()
        return
    servers: Settings = request.getfixturevalue("servers")
    assert servers.redis_url is not None
    url = servers.redis_url.get_secret_value()
    redis = RedisOutages(url, await CuttableProxy(urlsplit(url).port or 6379).mend())
    await redis.bus.start(bytes(32))
    yield redis
    await redis.bus.stop()
    await redis.cut()


@pytest.fixture
def bus(outages: BusWithOutages) -> EventBus:
    return outages.bus


async def test_events_are_received_in_order_by_every_handler(bus: EventBus) -> None:
    events: list[Event] = [changed("ada", n) for n in range(50)]
    await bus.follow(user_topic("ada"))
    received, also = ReceivedEvents(bus), ReceivedEvents(bus)
    await bus.publish(events[:20])
    await bus.publish([*events[20:], DefinitionChanged(flow_id="f")])
    await received.until_everyone()
    assert received.events == also.events
    assert [event for topic, event in received.events if topic == user_topic("ada")] == events


async def test_an_event_of_an_unfollowed_topic_is_not_received(bus: EventBus) -> None:
    await bus.follow(user_topic("ada"))
    await bus.follow(flow_topic("watched"))
    await bus.follow(user_topic("eve"))
    bus.unfollow(user_topic("eve"))
    received = ReceivedEvents(bus)
    events = [changed("ada"), changed("bob"), changed("eve"), changed("bob", 1, "watched")]
    await bus.publish([*events, changed("ada", 2, "watched")])
    await bus.publish([DefinitionChanged(flow_id="f")])
    await received.until_everyone()
    by_user = [event for topic, event in received.events if topic.kind == "user"]
    by_flow = [event for topic, event in received.events if topic.kind == "flow"]
    assert by_user == [events[0], changed("ada", 2, "watched")]
    assert by_flow == [events[3], changed("ada", 2, "watched")]


async def test_a_topic_is_received_until_its_last_follower_ends(bus: EventBus) -> None:
    for _ in range(2):
        await bus.follow(user_topic("ada"))
    bus.unfollow(user_topic("ada"))
    received = ReceivedEvents(bus)
    await bus.publish([changed("ada")])
    await received.until(lambda event: event == changed("ada"))
    bus.unfollow(user_topic("ada"))
    await bus.publish([changed("ada", 1)])
    await bus.publish([DefinitionChanged(flow_id="f")])
    await received.until_everyone()
    assert [event for topic, event in received.events if topic.kind == "user"] == [changed("ada")]


async def test_a_worker_counts_itself(bus: EventBus) -> None:
    assert bus.worker_count == 1


async def test_publishing_returns_the_number_of_receiving_workers(bus: EventBus) -> None:
    assert await bus.publish([changed("nobody")]) == 0
    await bus.follow(user_topic("ada"))
    assert await bus.publish([changed("ada")]) == 1
    assert await bus.publish([changed("ada"), changed("nobody")]) == 0


class Reported:
    """Gaps and ended workers, as a bus reports them."""

    def __init__(self, bus: EventBus) -> None:
        self.gaps: list[Gap] = []
        self.lost: list[str] = []
        self._changed = asyncio.Event()
        bus.on_gap(lambda gap: self._add(self.gaps, gap))
        bus.on_worker_lost(lambda worker: self._add(self.lost, worker))

    def _add(self, found: list[Any], reported: object) -> None:
        found.append(reported)
        self._changed.set()

    async def until(self, holds: Callable[["Reported"], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds(self):
                self._changed.clear()
                await self._changed.wait()


@pytest.mark.expected_logs("redis connection lost", optional=True)
async def test_an_outage_is_reported_as_a_gap_once_it_is_over(outages: BusWithOutages) -> None:
    bus = outages.bus
    received, reported = ReceivedEvents(bus), Reported(bus)
    await bus.follow(user_topic("ada"))
    await outages.cut()
    cut_at = datetime.now(UTC)
    with pytest.raises(BusUnavailableError):
        await bus.publish([changed("ada")])
    assert reported.gaps == [], "events are not received again yet"
    await outages.mend()
    await reported.until(lambda r: any(gap.concerns(EVERYONE) for gap in r.gaps))
    gap = next(gap for gap in reported.gaps if gap.concerns(EVERYONE))
    assert gap.concerns(user_topic("ada"))
    assert gap.since <= cut_at
    await bus.publish([DefinitionChanged(flow_id="f")])
    await received.until_everyone()


@pytest.mark.expected_logs("redis connection lost", "subscription failed", optional=True)
async def test_a_topic_followed_during_an_outage_is_received_after_it(outages: BusWithOutages) -> None:
    bus = outages.bus
    received, reported = ReceivedEvents(bus), Reported(bus)
    await outages.cut()
    await bus.follow(user_topic("ada"))
    await outages.mend()
    await reported.until(lambda r: any(gap.concerns(user_topic("ada")) for gap in r.gaps))
    await bus.publish([changed("ada", 7), DefinitionChanged(flow_id="f")])
    await received.until_everyone()
    assert changed("ada", 7) in [event for _, event in received.events]


async def test_a_worker_that_ends_is_reported_to_the_others(outages: BusWithOutages) -> None:
    reported = Reported(outages.bus)
    worker = await outages.end_another_worker()
    await reported.until(lambda r: r.lost == [worker])
    assert worker != outages.bus.worker
