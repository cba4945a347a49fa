"""The commands of Redis about one consumer group, and the lease of its only reader."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from redis.exceptions import ResponseError

from realtime.redis.servers import RedisServers
from realtime.redis.streams import create_group

Entry = tuple[str, Mapping[bytes, bytes], int]
"""The identifier of an entry, its fields, and the number of its deliveries."""

BLOCK_MS = 500
"""The time for which a read waits for entries. A Redis whose ``hz`` is 1, as the embedded one, ends it up to
a second later, which still is before the timeout of connections."""

_HOLD_LEASE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return holder and 1 or 2
"""
_END_LEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class ConsumerGroup:
    """A consumer group of a stream. Methods raise one of ``OUTAGE``."""

    def __init__(self, servers: RedisServers, key: str, group: str, consumer: str) -> None:
        self._redis = servers.commands
        self._key, self._group, self._consumer = key, group, consumer
        self._lease = f"{key}:reader:{group}"

    async def create(self) -> None:
        """Create the group, which begins at the first entry, unless it exists."""
        await create_group(self._redis, self._key, self._group)

    async def read(self, count: int) -> list[Entry]:
        """Return entries that no consumer has read, and wait for some if there are none."""
        answer: Any = await self._redis.xreadgroup(
            self._group, self._consumer, {self._key: ">"}, count=count, block=BLOCK_MS
        )
        return [(entry.decode(), fields, 1) for _, entries in answer or () for entry, fields in entries]

    async def unacknowledged(
        self, after: str, count: int, *, consumer: str | None = None, idle_ms: int = 0
    ) -> dict[str, int]:
        """Return entries that a consumer has read, and the numbers of their deliveries.

        Args:
            after: The identifier after which they begin, "" for all.
            count: The largest number of entries.
            consumer: The consumer, None for this one.
            idle_ms: The least time since their last delivery.
        """
        found: Any = await self._redis.xpending_range(
            self._key,
            self._group,
            min=f"({after}" if after else "-",
            max="+",
            count=count,
            consumername=consumer or self._consumer,
            idle=idle_ms or None,
        )
        return {each["message_id"].decode(): each["times_delivered"] for each in found}

    async def other_consumers(self) -> list[str]:
        """Return the other consumers that have unacknowledged entries."""
        found: Any = await self._redis.xinfo_consumers(self._key, self._group)
        names = [each["name"].decode() for each in found if each["pending"]]
        return [name for name in names if name != self._consumer]

    async def claim(self, deliveries: Mapping[str, int], idle_ms: int = 0) -> list[Entry]:
        """Make entries those of this consumer, and return them; removed ones are missing.

        Args:
            deliveries: The entries, with the numbers of their deliveries so far.
            idle_ms: The least time since their last delivery.
        """
        if not deliveries:
            return []
        found: Any = await self._redis.xclaim(
            self._key, self._group, self._consumer, min_idle_time=idle_ms, message_ids=list(deliveries)
        )
        entries = [(entry.decode(), fields) for entry, fields in found if entry is not None]
        return [(entry, fields or {}, deliveries[entry] + 1) for entry, fields in entries]

    async def acknowledge(self, entries: Iterable[str]) -> None:
        """Acknowledge entries."""
        await self._redis.xack(self._key, self._group, *entries)

    async def hold_lease(self, holder: str, seconds: float) -> tuple[bool, bool]:
        """Take or prolong the lease of the only reader.

        Returns:
            True if this holder has it, and true if it had it before.
        """
        answer = await self._evaluate(_HOLD_LEASE, [holder, str(int(seconds * 1000))])
        return answer > 0, answer == 1

    async def end_lease(self, holder: str) -> None:
        """Give the lease up."""
        await self._evaluate(_END_LEASE, [holder])

    async def _evaluate(self, script: str, arguments: Sequence[str]) -> int:
        answer: Any = await self._redis.eval(script, 1, self._lease, *arguments)
        return int(answer or 0)


def is_missing_group(error: BaseException) -> bool:
    """Return true if Redis has no such stream or group."""
    return isinstance(error, ResponseError) and str(error).startswith("NOGROUP")
