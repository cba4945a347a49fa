"""A consumer of the Redis stream of a service."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Self

from redis.exceptions import AuthenticationError
from uuid_utils import uuid7

from app.kit.tasks import end_tasks, propagate_swallowed_cancellation
from realtime.consumer.entries import PendingEntries, entry_before
from realtime.consumer.events import MalformedEntryError, StreamEvent, event_of_entry
from realtime.consumer.group import ConsumerGroup, Entry, is_missing_group
from realtime.redis.entry_seals import EntryOpener
from realtime.redis.servers import OUTAGE, redis_servers
from realtime.redis.streams import GROUP, stream_key

log = logging.getLogger("realtime.consumer")

CONSUMER = "reader"
BATCH = 100
MAX_HELD_BACK = 100_000
"""Entries of states that wait after a failure; with so many nothing more is read."""
LEASE_SECONDS = 15.0
CLAIM_AFTER_SECONDS = 60.0
MAX_DELIVERIES = 10
MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 1.0, 300.0
RECONNECT_SECONDS = 0.5
MAX_WAIT_SECONDS = 1.0

Handler = Callable[[StreamEvent], Awaitable[None]]


class StreamConsumer:
    """Reads the events of a service from its Redis stream, each at least once.

    The events of one state come in their order: an event that was not acknowledged comes again, after growing
    delays, and the later ones of its state wait for it. Other states go on. An event comes again also if this
    process or Redis ends before it is acknowledged: tell repetitions apart by ``event.id``.

    Several processes may run a consumer of the same group. One at a time reads, as the order of states
    requires; the others are ready to continue when it ends.

    Args:
        redis_url: The Redis of the server, in each of the forms of ``FLOW_REDIS_URL``.
        alias: The service.
        database: ``FLOW_MONGO_DATABASE`` of the server.
        secrets: The webhook secrets of the service, ``whsec_…``, with which the server seals events if its
            encryption is on; after a rotation the new one, and the old one until its entries are read.
        group: The consumer group. It is created at the first entry of the stream.
        consumer: The name in the group. Entries of other consumers are claimed when they end.
        batch: The largest number of events in memory.
        lease_seconds: The time after which another process replaces one that died.
        claim_after_seconds: The time after which entries of other names in the group are claimed.
        max_deliveries: The number of deliveries after which an event is given to ``on_poison``.
        on_poison: Receives events that fail again and again, which are then acknowledged. Without it they are
            delivered until they succeed.
    """

    def __init__(
        self,
        redis_url: str,
        alias: str,
        *,
        database: str = "server_flow",
        secrets: Sequence[str] = (),
        group: str = GROUP,
        consumer: str = CONSUMER,
        batch: int = BATCH,
        lease_seconds: float = LEASE_SECONDS,
        claim_after_seconds: float = CLAIM_AFTER_SECONDS,
        max_deliveries: int = MAX_DELIVERIES,
        on_poison: Handler | None = None,
        min_retry_seconds: float = MIN_RETRY_SECONDS,
    ) -> None:
        self._servers = redis_servers(redis_url)
        key = stream_key(database, alias)
        self._group = ConsumerGroup(self._servers, key, group, consumer)
        self._opener = EntryOpener(key, secrets)
        self._batch, self._lease_seconds = batch, lease_seconds
        self._claim_after_seconds = claim_after_seconds
        self._max_deliveries, self._on_poison = max_deliveries, on_poison
        self._min_retry_seconds = min_retry_seconds
        self._holder = str(uuid7())
        self._entries = PendingEntries()
        self._handled: dict[str, None] = {}
        """Entries that Redis does not know to be acknowledged yet."""
        self._own_cursor: str | None = ""
        """The entry after which own unacknowledged entries are to be read; None: all were read."""
        self._lease_until = self._refresh_at = self._claim_at = 0.0
        self._connected = True
        self._current: StreamEvent | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._reader = asyncio.create_task(self._read_until_closed())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End, so that another process continues at once. Events in hand are delivered again."""
        if self._reader is not None:
            await end_tasks([self._reader])
        with suppress(*OUTAGE):
            await self._acknowledge_handled()
            await self._group.end_lease(self._holder)
        with suppress(*OUTAGE):
            await self._servers.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamEvent:
        """Return the next event. The one before counts as failed unless it was acknowledged."""
        if self._current is not None:
            self.retry(self._current)
        self._current = await self.next()
        return self._current

    async def run(self, handler: Handler, *, concurrency: int = 1) -> None:
        """Handle events until the task is cancelled. One whose handler fails is delivered again.

        Args:
            handler: Handles an event.
            concurrency: The number of states whose events are handled at a time.
        """
        async with asyncio.TaskGroup() as workers:
            for _ in range(concurrency):
                workers.create_task(self._work(handler))

    async def next(self) -> StreamEvent:
        """Return the next event, in the order of the stream, of a state of which none is in hand.

        Raises:
            RedisError: Redis refuses the user or the password.
            MissingSecretError: An entry is sealed with a secret that is not among those given. It is not
                acknowledged.
        """
        while True:
            now = asyncio.get_running_loop().time()
            taken = self._entries.take(now) if now < self._lease_until else None
            if taken is None:
                retry_at = self._entries.next_retry_at()
                delay = MAX_WAIT_SECONDS if retry_at is None else max(retry_at - now, 0.01)
                await self._wait(min(delay, MAX_WAIT_SECONDS))
                continue
            entry, event = taken
            event = event or await self._load(entry)
            if event is None:
                continue
            if self._on_poison is None or event.deliveries <= self._max_deliveries:
                return event
            await self._attempt(self._on_poison, event)

    async def ack(self, event: StreamEvent) -> None:
        """Acknowledge an event that was handled. While Redis is away, that is done later."""
        self._forget_current(event)
        self._handled[event.entry] = None
        with propagate_swallowed_cancellation():
            with suppress(*OUTAGE):
                await self._group.acknowledge([event.entry])
                self._handled.pop(event.entry, None)
            self._entries.succeeded(event.entry)
            self._notify()

    def retry(self, event: StreamEvent) -> None:
        """Have an event delivered again, after a delay that grows with each of its deliveries."""
        self._forget_current(event)
        self._fail(event.entry)

    # Handling

    async def _work(self, handler: Handler) -> None:
        while True:
            with propagate_swallowed_cancellation():
                await self._attempt(handler, await self.next())

    async def _attempt(self, handler: Handler, event: StreamEvent) -> None:
        try:
            await handler(event)
        except asyncio.CancelledError:
            self.retry(event)
            raise
        except Exception as error:
            error.add_note(f"while the event {event.id} of type {event.type} was handled")
            log.warning("event handler failed", exc_info=error)
            self.retry(event)
        else:
            await self.ack(event)

    async def _load(self, entry: str) -> StreamEvent | None:
        """Return an event that is not in memory any more; None if it cannot be handled now."""
        try:
            with propagate_swallowed_cancellation():
                counts = await self._group.unacknowledged(entry_before(entry), 1)
                count = {entry: counts[entry]} if entry in counts else {}
                found = self._decode(await self._group.claim(count))
        except OUTAGE:
            self._fail(entry)
            return None
        except asyncio.CancelledError:
            self._fail(entry)
            raise
        if not found:  # it was removed by its age, or acknowledged
            self._entries.succeeded(entry)
            return None
        return found[0]

    def _fail(self, entry: str) -> None:
        delay = self._min_retry_seconds * 2.0 ** min(self._entries.failures(entry), 20)
        delay = min(delay, MAX_RETRY_SECONDS) * random.uniform(0.5, 1)  # noqa: S311 - no secret
        self._entries.failed(entry, asyncio.get_running_loop().time() + delay)
        self._notify()

    def _forget_current(self, event: StreamEvent) -> None:
        if self._current is not None and self._current.entry == event.entry:
            self._current = None

    # Reading

    async def _read_until_closed(self) -> None:
        while True:
            with propagate_swallowed_cancellation():
                try:
                    await self._read_some()
                    if not self._connected:
                        log.info("redis connection restored")
                        self._connected = True
                except AuthenticationError:
                    raise
                except OUTAGE as error:
                    await self._recover(error)

    async def _recover(self, error: BaseException) -> None:
        """Prepare the next attempt to read."""
        self._own_cursor = ""  # the answer to a read may be lost: its entries are ours, and unacknowledged
        if is_missing_group(error):
            self._entries.reset()
            with suppress(*OUTAGE):
                await self._group.create()
                return
        if self._connected:
            log.warning("redis connection lost")
            self._connected = False
        await asyncio.sleep(RECONNECT_SECONDS)
        with suppress(*OUTAGE):
            await self._servers.refresh()

    async def _read_some(self) -> None:
        """Read entries if this consumer has the lease and there is room for them."""
        await self._acknowledge_handled()
        if not await self._hold_lease():
            await asyncio.sleep(MAX_WAIT_SECONDS)
            return
        room = self._batch - self._entries.loaded
        if room <= 0 or self._entries.held_back >= MAX_HELD_BACK:
            await self._wait(MAX_WAIT_SECONDS)
        elif self._own_cursor is not None:
            await self._read_own(room)
        elif asyncio.get_running_loop().time() >= self._claim_at:
            await self._claim_others(room)
        else:
            self._add(await self._group.read(room))

    async def _hold_lease(self) -> bool:
        """Take or prolong the lease. Entries of a lease that has ended may be another consumer's."""
        now = asyncio.get_running_loop().time()
        if now < self._refresh_at and now < self._lease_until:
            return True
        holds, before = await self._group.hold_lease(self._holder, self._lease_seconds)
        if not (holds and before):
            self._entries.reset()
            self._own_cursor = ""
        self._lease_until = now + self._lease_seconds if holds else 0.0
        self._refresh_at = now + self._lease_seconds / 3
        return holds

    async def _read_own(self, room: int) -> None:
        """Read entries again that a consumer of this name has not acknowledged."""
        counts = await self._group.unacknowledged(self._own_cursor or "", room)
        unknown = {entry: count for entry, count in counts.items() if entry not in self._entries}
        self._add(await self._group.claim(unknown))
        self._own_cursor = list(counts)[-1] if counts else None

    async def _claim_others(self, room: int) -> None:
        """Claim entries of consumers of other names that have ended."""
        idle_ms = int(self._claim_after_seconds * 1000)
        for consumer in await self._group.other_consumers():
            counts = await self._group.unacknowledged("", room, consumer=consumer, idle_ms=idle_ms)
            if counts:
                self._add(await self._group.claim(counts, idle_ms))
                return  # there may be more
        self._claim_at = asyncio.get_running_loop().time() + self._claim_after_seconds / 2

    def _add(self, entries: list[Entry]) -> None:
        for event in self._decode(entries):
            self._entries.add(event)
        if entries:
            self._notify()

    def _decode(self, entries: list[Entry]) -> list[StreamEvent]:
        """Decode entries. Those that are no events are acknowledged: nobody could ever handle them."""
        events = []
        for entry, fields, deliveries in entries:
            if entry in self._handled:
                continue
            try:
                events.append(event_of_entry(entry, fields, deliveries, self._opener))
            except MalformedEntryError as error:
                error.add_note(f"in the entry {entry}")
                log.error("malformed stream entry", exc_info=error)
                self._handled[entry] = None
        return events

    async def _acknowledge_handled(self) -> None:
        while self._handled:
            entries = list(self._handled)[: self._batch]
            await self._group.acknowledge(entries)
            for entry in entries:
                self._handled.pop(entry, None)

    # Waiting

    async def _wait(self, seconds: float) -> None:
        """Wait for a change. Raises the error with which reading ended."""
        if self._reader is None:
            raise RuntimeError("use the consumer in an async with statement")
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait([waiter, self._reader], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiters.discard(waiter)
        if self._reader.done() and self._reader is not asyncio.current_task():
            self._reader.result()

    def _notify(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
