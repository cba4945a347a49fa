"""The contracts of EventBus and Clock."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC

import pytest
from msgspec import Raw

from app.clock import SystemClock
from app.contracts.events import DefinitionChanged, Event, StateChanged
from app.contracts.ports import Clock, EventBus
from config.settings import Settings
from realtime.bus import RedisBus
from tests.fakes import FakeBus, FakeClock


@pytest.fixture(params=["fake", "redis"])
async def bus(request: pytest.FixtureRequest, servers: Settings) -> AsyncIterator[EventBus]:
    if request.param == "fake":
        yield FakeBus()
        return
    assert servers.redis_url is not None
    bus = RedisBus(servers.redis_url.get_secret_value(), f"test_{uuid.uuid4().hex}")
    await bus.start()
    yield bus
    await bus.stop()


async def test_events_are_heard_in_order_by_every_handler(bus: EventBus) -> None:
    events: list[Event] = [
        StateChanged(user_id="ada", flow_id="f", epoch="e", revision=n, body=Raw(b'{"a":[1]}'))
        for n in range(50)
    ]
    events.append(DefinitionChanged(flow_id="f"))
    heard: list[Event] = []
    also: list[Event] = []
    complete = asyncio.Event()
    bus.subscribe(also.append)
    bus.subscribe(heard.append)
    bus.subscribe(lambda event: complete.set() if isinstance(event, DefinitionChanged) else None)
    await bus.publish(events[:20])
    await bus.publish(events[20:])
    await asyncio.wait_for(complete.wait(), 5)
    assert heard == also == events


@pytest.fixture(params=["fake", "system"])
def clock(request: pytest.FixtureRequest) -> Clock:
    return FakeClock() if request.param == "fake" else SystemClock()


def test_time_is_utc_in_whole_milliseconds(clock: Clock) -> None:
    now = clock.now()
    assert now.tzinfo is UTC
    assert now.microsecond % 1000 == 0
    assert clock.now() >= now
