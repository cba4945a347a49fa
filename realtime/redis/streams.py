"""The Redis streams of integrations: one key for each, with a consumer group that begins at its first entry.

A stream is a transport and no store: the history has every event. So entries are removed by age, and a Redis
that loses its data loses entries that no consumer had read (docs/guides/services.md says how to read them
again).
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from realtime.redis.servers import explaining_outage, redis_servers

GROUP = "service"
"""The consumer group that every stream has. Other programs may create groups of their own."""
RETENTION_MS = 7 * 24 * 3600 * 1000
"""Age, by the clock of Redis, at which entries are removed, read or not."""
MAX_ENTRIES = 1_000_000
"""Approximate size of a stream, beyond which its oldest entries are removed: a bound of the memory of Redis."""
MAX_BATCH, MAX_BATCH_BYTES = 500, 1_048_576
"""Entries of one command, of which Redis appends all or none."""
MAX_IN_FLIGHT = 16
"""Concurrent commands of one worker."""


def stream_key(database: str, alias: str) -> str:
    """Return the key of the stream of an integration; a stream is on one server of a cluster."""
    return f"server-flow:{database}:events:{alias}"


async def create_group(redis: Redis, key: str, group: str) -> None:
    """Create a consumer group that begins at the first entry, and its stream, unless they exist."""
    try:
        await redis.xgroup_create(key, group, id="0", mkstream=True)
    except ResponseError as error:
        if not _is_busy_group(error):
            raise


class _TypedEvent(msgspec.Struct):
    """The member of an event that an entry repeats."""

    type: str


class RedisEventStreams:
    """The EventStreams port on Redis."""

    def __init__(self, url: str, database: str) -> None:
        """Prepare the connections.

        Raises:
            BusUnavailableError: The URL is not a Redis URL.
        """
        self._servers = redis_servers(url)
        self._database = database
        self._slots = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._redis_time_ms = 0

    async def append(self, alias: str, events: Sequence[tuple[str, bytes]]) -> None:
        """Append events, each with its id, in order.

        Raises:
            BusUnavailableError: Redis is unavailable; some of the events may have been appended.
        """
        key = stream_key(self._database, alias)
        for batch in _batches(events):
            async with self._slots, explaining_outage():
                await self._append(key, batch)

    async def delete(self, alias: str) -> None:
        """Remove the stream of an integration. Raises BusUnavailableError."""
        async with explaining_outage():
            await self._servers.commands.delete(stream_key(self._database, alias))

    async def close(self) -> None:
        """Close all connections."""
        await self._servers.close()

    async def _append(self, key: str, batch: Sequence[tuple[str, bytes]]) -> None:
        # In a transaction, so that a full Redis does not refuse one event and accept the next one.
        transaction = self._servers.commands.pipeline(transaction=True)
        # Each time: a Redis that lost its data has lost the group too.
        transaction.xgroup_create(key, GROUP, id="0", mkstream=True)
        for event_id, event in batch:
            kind = msgspec.json.decode(event, type=_TypedEvent).type
            fields: dict[Any, Any] = {"id": event_id, "type": kind, "event": event}
            transaction.xadd(key, fields, maxlen=MAX_ENTRIES, approximate=True)
        # The identifiers of entries have the time of Redis; ours may differ from it.
        oldest = max(self._redis_time_ms - RETENTION_MS, 0)
        transaction.xtrim(key, minid=f"{oldest}-0", approximate=False)
        transaction.pexpire(key, RETENTION_MS)  # a stream that nothing is appended to has only old entries
        created, *answers = await transaction.execute(raise_on_error=False)
        failures = [each for each in answers if isinstance(each, Exception)]
        if isinstance(created, Exception) and not _is_busy_group(created):
            failures.append(created)
        if failures:
            raise failures[0]
        last: bytes = answers[len(batch) - 1]
        self._redis_time_ms = int(last.split(b"-")[0])


def _batches(events: Sequence[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    """Split events into the batches of commands."""
    batch: list[tuple[str, bytes]] = []
    size = 0
    for event in events:
        if batch and (len(batch) == MAX_BATCH or size + len(event[1]) > MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += len(event[1])
    if batch:
        yield batch


def _is_busy_group(error: Exception) -> bool:
    return str(error).startswith("BUSYGROUP")
