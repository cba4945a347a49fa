"""The Redis streams of integrations: one key for each, with a consumer group that begins at its first entry.

A stream is a transport and no store: the history has every event. So entries are removed by age, and a Redis
that loses its data loses entries that no consumer had read (docs/guides/services.md says how to read them
again). With encryption on, the event of an entry is sealed for the service.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import cast

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from app.contracts.integration import IntegrationSecret
from realtime.redis.entry_seals import FORMAT, EntrySealers
from realtime.redis.servers import explaining_outage, redis_servers

GROUP = "service"
"""The consumer group that every stream has. Other programs may create groups of their own."""
RETENTION_MS = 7 * 24 * 3600 * 1000
"""Age, by the clock of Redis, at which entries are removed, read or not."""
MAX_ENTRIES = 1_000_000
"""Approximate size of a stream, beyond which its oldest entries are removed."""
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
        if not str(error).startswith("BUSYGROUP"):
            raise


_APPEND = """
local group, max_entries, retention_ms, format, secret = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local created = redis.pcall('XGROUP', 'CREATE', KEYS[1], group, '0', 'MKSTREAM')
if created.err and not string.find(created.err, 'BUSYGROUP', 1, true) then
  return created
end
local last
for i = 6, #ARGV, 3 do
  local fields = {'id', ARGV[i], 'type', ARGV[i + 1], 'event', ARGV[i + 2]}
  if format ~= '' then
    fields[7], fields[8], fields[9], fields[10] = 'sealed', format, 'secret', secret
  end
  last = redis.call('XADD', KEYS[1], 'MAXLEN', '~', max_entries, '*', unpack(fields))
end
local oldest = tonumber(string.match(last, '^%d+')) - tonumber(retention_ms)
redis.call('XTRIM', KEYS[1], 'MINID', string.format('%d-0', oldest))
redis.call('PEXPIRE', KEYS[1], retention_ms)
return last
"""
"""Append a batch, all or none of it, and remove old entries.

A script, since a pipeline could append an event after one that a full Redis refused. It creates the group
each time: a Redis that lost its data has lost the group too. The age of entries is that by their identifiers,
which have the time of Redis. A stream that nothing is appended to for that long is removed as a whole.
"""


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
        self._sealers = EntrySealers()
        self._slots = asyncio.Semaphore(MAX_IN_FLIGHT)

    def key(self, alias: str) -> str:
        """Return the key by which programs read the stream of an integration."""
        return stream_key(self._database, alias)

    async def append(
        self, alias: str, events: Sequence[tuple[str, bytes]], seal_with: IntegrationSecret | None = None
    ) -> None:
        """Append events, each with its id, in order, sealed with a secret if one is given.

        Raises:
            BusUnavailableError: Redis is unavailable; some of the events may have been appended.
        """
        key = stream_key(self._database, alias)
        for batch in _batches(events):
            async with self._slots, explaining_outage():
                await self._append(key, batch, seal_with)

    async def delete(self, alias: str) -> None:
        """Remove the stream of an integration. Raises BusUnavailableError."""
        async with explaining_outage():
            await self._servers.commands.delete(stream_key(self._database, alias))

    async def close(self) -> None:
        """Close all connections."""
        await self._servers.close()

    async def _append(
        self, key: str, batch: Sequence[tuple[str, bytes]], seal_with: IntegrationSecret | None
    ) -> None:
        sealer = None if seal_with is None else self._sealers.of(seal_with)
        arguments: list[str | bytes] = [GROUP, str(MAX_ENTRIES), str(RETENTION_MS)]
        arguments += ["", ""] if sealer is None else [FORMAT, sealer.secret_id]
        for event_id, event in batch:
            event_type = msgspec.json.decode(event, type=_TypedEvent).type
            text = event if sealer is None else sealer.seal(key, event_id, event_type, event)
            arguments += [event_id, event_type, text]
        await self._servers.commands.eval(_APPEND, 1, key, *cast(list[str], arguments))


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
