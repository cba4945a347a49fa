"""The use of rate budgets by all workers, in Redis.

The key of a budget has the time at which it is full again, by the clock of Redis, and expires after that.
Names of users and addresses are hashed with a key that Redis does not have.
"""

import asyncio
import hmac
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, cast

from app.contracts.ports.rate_limits import CountedRequests, RateKey
from realtime.redis.servers import explaining_outage, redis_servers

SHARDS = 8
"""Groups of keys. A script changes the keys of one group, which are on one server of a cluster."""
MAX_BATCH = 100
"""Keys of one script, during which Redis does nothing else."""
MAX_USE_SECONDS = 120
"""A budget is full again after this time at the latest, however far several workers have exceeded it."""
WINDOW_MICROSECONDS = 60_000_000
MAX_SPAN_SECONDS = 60
"""Requests count as if they came in this time, if it was longer."""

_ADD = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local latest, kept = now + tonumber(ARGV[1]), tonumber(ARGV[2])
local uses = {}
for i, key in ipairs(KEYS) do
  local full_at = tonumber(redis.call('GET', key) or 0)
  local cost, span = tonumber(ARGV[2 * i + 1]), tonumber(ARGV[2 * i + 2])
  if cost > 0 then
    full_at = math.min(math.max(full_at, now - span) + cost, latest)
    local left = math.max(0, full_at - now) + kept
    redis.call('SET', key, string.format('%.0f', full_at), 'PX', math.ceil(left / 1000))
  end
  uses[i] = math.max(0, math.floor(full_at - now))
end
return uses
"""
"""Add requests to budgets. They were regained from the beginning of the time in which they came.

A time in the past is stored, too: requests of another worker in the same time are added to it.
"""


class RedisRateCounters:
    """The RateCounters port on Redis."""

    def __init__(self, url: str, database: str) -> None:
        """Prepare the connections.

        Raises:
            BusUnavailableError: The URL is not a Redis URL.
        """
        self._servers = redis_servers(url)
        self._prefix = f"server-flow:{database}:rates"
        self._key = b""

    def set_key(self, secret: bytes) -> None:
        """Set the secret that hides names in Redis, the same for all workers."""
        self._key = hmac.digest(secret, b"server-flow rate limits", "sha256")

    async def add(self, requests: Mapping[RateKey, CountedRequests]) -> Mapping[RateKey, float]:
        """Add requests of this worker, and return the use of each budget by all workers."""
        shards: dict[str, list[RateKey]] = {}
        names = {}
        for key in requests:
            digest = self._digest(key)
            shard = f"{self._prefix}:{{{int(digest[0], 16) % SHARDS}}}"
            names[key] = f"{shard}:{digest}"
            shards.setdefault(shard, []).append(key)
        batches = [batch for keys in shards.values() for batch in _batches(keys)]
        async with explaining_outage():
            answers = await self._evaluate([self._arguments(batch, names, requests) for batch in batches])
        uses = {}
        for batch, answer in zip(batches, answers, strict=True):
            for key, use in zip(batch, answer, strict=True):
                uses[key] = int(use) * key.per_minute / WINDOW_MICROSECONDS
        return uses

    async def close(self) -> None:
        """Close all connections."""
        await self._servers.close()

    def _digest(self, key: RateKey) -> str:
        named = f"{key.subject}\0{key.per_minute}\0{key.name}".encode("utf-8", "surrogatepass")
        return blake2b(named, digest_size=16, key=self._key).hexdigest()

    def _arguments(
        self,
        batch: Sequence[RateKey],
        names: Mapping[RateKey, str],
        requests: Mapping[RateKey, CountedRequests],
    ) -> list[str]:
        arguments = [str(MAX_USE_SECONDS * 1_000_000), str(MAX_SPAN_SECONDS * 1_000_000)]
        for key in batch:
            counted = requests[key]
            cost = round(counted.count * WINDOW_MICROSECONDS / key.per_minute)
            span = round(min(counted.seconds, MAX_SPAN_SECONDS) * 1_000_000)
            arguments += [str(cost), str(span)]
        return [str(len(batch)), *(names[key] for key in batch), *arguments]

    async def _evaluate(self, scripts: Sequence[list[str]]) -> list[Any]:
        """Run the scripts: in one pipeline, or on the servers of a cluster."""
        commands: Any = self._servers.commands
        if self._servers.sharded:
            return await asyncio.gather(*(commands.eval(_ADD, *script) for script in scripts))
        pipeline = commands.pipeline(transaction=False)
        for script in scripts:
            pipeline.eval(_ADD, *script)
        return cast(list[Any], await pipeline.execute())


def _batches(keys: Sequence[RateKey]) -> Iterator[Sequence[RateKey]]:
    for first in range(0, len(keys), MAX_BATCH):
        yield keys[first : first + MAX_BATCH]
