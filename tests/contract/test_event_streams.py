"""The contract of EventStreams."""

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec
import pytest
from redis.asyncio import Redis

from app.contracts.errors import BusUnavailableError
from app.contracts.ports.transports import EventStreams
from app.services.integrations.secrets import new_secret
from config.settings import Settings
from realtime.redis.entry_seals import EntryOpener
from realtime.redis.streams import GROUP, MAX_BATCH, RedisEventStreams, stream_key
from tests.support.fake_transports import FakeEventStreams
from tests.support.faults import CuttableProxy

PORTS = (EventStreams,)

Entry = tuple[str, str, bytes]
SECRET = new_secret(datetime(2026, 1, 1, tzinfo=UTC))


def event(number: int, payload: str = "") -> tuple[str, bytes]:
    """Return the id and the text of an event."""
    event_id = f"evt_{number}"
    body = {"id": event_id, "type": "flow.step.entered", "data": {"payload": payload}}
    return event_id, msgspec.json.encode(body)


def entries_of(events: list[tuple[str, bytes]]) -> list[Entry]:
    """Return the entries that events become."""
    return [(event_id, "flow.step.entered", text) for event_id, text in events]


class StreamsWithOutages(Protocol):
    """Streams under test, their content, and outages of their Redis."""

    @property
    def streams(self) -> EventStreams:
        """The streams under test."""

    async def cut(self) -> None:
        """Take Redis away, until ``mend``."""

    async def mend(self) -> None:
        """Bring Redis back."""

    async def unread(self, alias: str) -> list[Entry]:
        """Return the entries that the group of a stream has not read, opened if sealed, and read them."""

    async def seals(self, alias: str) -> list[str | None]:
        """Return the ids of the secrets with which the entries are sealed."""


class FakeStreamOutages:
    """The fake streams."""

    def __init__(self) -> None:
        self.streams = FakeEventStreams()
        self._read: dict[str, int] = {}

    async def cut(self) -> None:
        self.streams.broken = True

    async def mend(self) -> None:
        self.streams.broken = False

    async def unread(self, alias: str) -> list[Entry]:
        events = self.streams.streams.get(alias, [])
        before, self._read[alias] = self._read.get(alias, 0), len(events)
        return entries_of(events[before:])

    async def seals(self, alias: str) -> list[str | None]:
        return self.streams.seals[alias]


class RedisStreamOutages:
    """The streams on Redis, behind a proxy."""

    def __init__(self, url: str, proxy: CuttableProxy) -> None:
        self._proxy = proxy
        self.database = f"test_{uuid.uuid4().hex}"
        self.redis = Redis.from_url(url)
        own, _, number = url.rpartition("/")
        password = own.rpartition("@")[0]
        at = f"{password}@" if password else "redis://"
        self.streams = RedisEventStreams(f"{at}127.0.0.1:{proxy.port}/{number}", self.database)

    async def cut(self) -> None:
        await self._proxy.cut()

    async def mend(self) -> None:
        await self._proxy.mend()

    async def unread(self, alias: str) -> list[Entry]:
        key = self.streams.key(alias)
        if not await self.redis.exists(key):
            return []
        answer: Any = await self.redis.xreadgroup(GROUP, "test", {key: ">"}, noack=True)
        read = answer.items() if isinstance(answer, dict) else answer
        return [
            self._opened(key, fields)
            for _, entries in read
            for _, fields in (entries[0] if isinstance(entries[0], list) else entries)
        ]

    async def seals(self, alias: str) -> list[str | None]:
        entries: Any = await self.redis.xrange(self.streams.key(alias))
        return [fields[b"secret"].decode() if b"sealed" in fields else None for _, fields in entries]

    def _opened(self, key: str, fields: dict[bytes, bytes]) -> Entry:
        event_id, event_type, text = fields[b"id"].decode(), fields[b"type"].decode(), fields[b"event"]
        if b"sealed" in fields:
            assert b"flow" not in text
            text = EntryOpener(key, [SECRET.secret]).open(
                text, seal_format=fields[b"sealed"].decode(), secret_id=fields[b"secret"].decode(),
                event_id=event_id, event_type=event_type, entry="",
            )  # fmt: skip
        return event_id, event_type, text


@pytest.fixture(params=["fake", pytest.param("redis", marks=pytest.mark.server)])
async def outages(request: pytest.FixtureRequest) -> AsyncIterator[StreamsWithOutages]:
    if request.param == "fake":
        yield FakeStreamOutages()
        return
    servers: Settings = request.getfixturevalue("servers")
    assert servers.redis_url is not None
    url = servers.redis_url.get_secret_value()
    redis = RedisStreamOutages(url, await CuttableProxy(urlsplit(url).port or 6379).mend())
    yield redis
    for key in await redis.redis.keys(stream_key(redis.database, "*")):
        await redis.redis.delete(key)
    await redis.redis.aclose()
    await redis.streams.close()
    await redis.cut()


async def test_events_are_appended_in_order_before_anybody_reads(outages: StreamsWithOutages) -> None:
    events = [event(number) for number in range(2 * MAX_BATCH + 3)]
    await outages.streams.append("payment", events[:1])
    await outages.streams.append("payment", events[1:])
    await outages.streams.append("payment", [])
    assert await outages.unread("payment") == entries_of(events)
    await outages.streams.append("payment", events[:2])
    assert await outages.unread("payment") == entries_of(events[:2]), "only the new ones, repeated ones too"


async def test_events_are_sealed_with_a_secret(outages: StreamsWithOutages) -> None:
    await outages.streams.append("payment", [event(1)])
    await outages.streams.append("payment", [event(2, "é" * 1000), event(3)], SECRET)
    await outages.streams.append("payment", [event(4)])
    assert await outages.seals("payment") == [None, SECRET.id, SECRET.id, None]
    assert await outages.unread("payment") == entries_of([event(1), event(2, "é" * 1000), event(3), event(4)])


async def test_streams_are_apart(outages: StreamsWithOutages) -> None:
    assert outages.streams.key("payment") != outages.streams.key("user")
    await outages.streams.append("payment", [event(1)])
    await outages.streams.append("user", [event(2)])
    assert outages.streams.key("payment") != outages.streams.key("user")
    assert await outages.unread("user") == entries_of([event(2)])
    assert await outages.unread("payment") == entries_of([event(1)])


async def test_large_events_are_appended_whole(outages: StreamsWithOutages) -> None:
    events = [event(number, "é" * 130_000) for number in range(10)]
    await outages.streams.append("payment", events)
    assert await outages.unread("payment") == entries_of(events)


async def test_a_deleted_stream_is_empty_and_can_be_used_again(outages: StreamsWithOutages) -> None:
    await outages.streams.append("payment", [event(1)])
    await outages.streams.delete("payment")
    await outages.streams.delete("never")
    assert await outages.unread("payment") == []
    await outages.streams.append("payment", [event(2)])
    assert entries_of([event(2)])[0] in await outages.unread("payment")


async def test_an_outage_is_an_error_and_ends(outages: StreamsWithOutages) -> None:
    await outages.streams.append("payment", [event(1)])
    await outages.cut()
    with pytest.raises(BusUnavailableError):
        await outages.streams.append("payment", [event(2)])
    with pytest.raises(BusUnavailableError):
        await outages.streams.delete("payment")
    await outages.mend()
    await outages.streams.append("payment", [event(3)])
    assert await outages.unread("payment") == entries_of([event(1), event(3)])
