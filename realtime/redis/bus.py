"""The event bus: events between workers over Redis pub/sub.

Events are sent in batches, and each worker receives only the channels that its clients need. A message may
be lost, and nothing depends on it: every event carries its position. But the bus reports what may have been
missed: after an outage of this worker's subscriptions, for messages that could not be sent, and for a hole in
the numbers of another worker (docs/decisions/0013-live-updates.md).
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from zlib import crc32

import structlog
from uuid_utils import uuid7

from app.contracts.errors import BusUnavailableError
from app.contracts.events import EVERYONE, Event, Gap, PresenceQuery, Topic
from app.kit.tasks import end_tasks, propagate_swallowed_cancellation
from config.log import describe
from realtime.redis.envelope import EnvelopeReader, EnvelopeWriter
from realtime.redis.peers import Peers
from realtime.redis.sender import Groups, Sender
from realtime.redis.servers import OUTAGE, explaining_outage, redis_servers
from realtime.redis.subscription import ChannelSubscription

log = structlog.get_logger("bus")

SHARDS = 1024
"""Channels of all users together. It is part of their names: all workers must have the same number."""
START_TIMEOUT_SECONDS = 2.0
HEARTBEAT_SECONDS = 1.0
IDLE_SECONDS = 30.0
"""A channel stays subscribed for this time after its last topic was unfollowed: users return."""
MAX_PUBLISH_DELAY = timedelta(seconds=30)
"""Longest time from a commit to its event, which the sweep may publish for a dead worker."""
RECONNECT_DELAYS_SECONDS = (0.05, 0.1, 0.25, 0.5)


class RedisBus:
    """The EventBus port on Redis. It receives events between ``start`` and ``stop``."""

    def __init__(self, url: str, namespace: str) -> None:
        """Prepare the connections.

        Raises:
            BusUnavailableError: The URL is not a Redis URL.
        """
        self._servers = redis_servers(url)
        self._prefix = f"server-flow:{namespace}"
        self._worker = str(uuid7())
        self._sender = Sender(self._servers, EnvelopeWriter(b"", self._worker))
        self._reader = EnvelopeReader(b"")
        self._started = False
        self._topics: dict[str, Counter[Topic]] = {}
        self._idle_since: dict[str, float] = {}
        self._subscriptions: dict[str, ChannelSubscription] = {}
        self._peers = Peers()
        self._handlers: list[Callable[[Topic, Event], None]] = []
        self._gap_handlers: list[Callable[[Gap], None]] = []
        self._worker_lost_handlers: list[Callable[[str], None]] = []
        self._subscribed = asyncio.Event()
        self._disconnected_at: float | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def worker(self) -> str:
        """The id of this worker."""
        return self._worker

    @property
    def worker_count(self) -> int:
        """The number of workers, with this one, from which messages arrived lately."""
        return 1 + len(self._peers.last_message_at)

    @property
    def subscribed(self) -> bool:
        """True while this worker receives messages of others."""
        return self._subscribed.is_set()

    def subscribe(self, handler: Callable[[Topic, Event], None]) -> None:
        """Call ``handler`` for every event received from now on, once for each of its topics."""
        self._handlers.append(handler)

    def on_gap(self, handler: Callable[[Gap], None]) -> None:
        """Call ``handler`` for every gap, once events are received again."""
        self._gap_handlers.append(handler)

    def on_worker_lost(self, handler: Callable[[str], None]) -> None:
        """Call ``handler`` with the id of every worker that stopped, or sent nothing for a long time."""
        self._worker_lost_handlers.append(handler)

    async def ping(self) -> None:
        """Check that Redis answers. Raises BusUnavailableError."""
        async with explaining_outage():
            await self._servers.ping()

    async def server_time(self) -> datetime:
        """Return the time by Redis's clock, in UTC. Raises BusUnavailableError."""
        async with explaining_outage():
            seconds = await self._servers.time()
        return datetime.fromtimestamp(seconds, UTC)

    async def start(self, key: bytes, *, patient: bool = False) -> None:
        """Start to receive events, once. Returns when this worker is subscribed.

        Args:
            key: Its sealing keys are derived from it; the same for all workers.
            patient: Start also if Redis is unavailable.

        Raises:
            BusUnavailableError: Redis is unavailable.
        """
        if self._started:
            raise RuntimeError(
                "this bus was started before; its messages would be sealed with the same nonces"
            )
        if not patient:
            await self.ping()
        self._started = True
        self._sender = Sender(self._servers, EnvelopeWriter(key, self._worker))
        self._reader = EnvelopeReader(key)
        self._tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._send_heartbeats())]
        try:
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                await self._subscribed.wait()
        except TimeoutError:
            self._disconnected_at = time.time()

    async def stop(self) -> None:
        """Announce the end of this worker, and close the connections."""
        tasks, self._tasks = self._tasks, []
        await end_tasks(tasks)
        with suppress(*OUTAGE):
            if tasks:
                # Without the announcement the others detect the loss, and read states again.
                await self._sender.report_losses()
                await self._sender.send({self._channel(EVERYONE): []}, leaving=True)
        with suppress(*OUTAGE):
            await self._servers.close()

    # Publishing

    async def publish(self, events: Sequence[Event]) -> int:
        """Publish events in order to the subscribers of their topics, as the port specifies."""
        groups: Groups = {}
        watched: Groups = {}
        for event in events:
            for topic in event.topics:
                group = watched if topic.kind == "flow" else groups
                group.setdefault(self._channel(topic), []).append(event)
        required = len(groups)
        # Also for flows without watchers: to look that up costs as much as a message without receivers.
        groups |= watched
        try:
            self._require_subscribed(groups)
            counts = await self._sender.send(groups)
        except OUTAGE:
            # This worker's own clients need no Redis.
            for channel, unsent in groups.items():
                self._dispatch(channel, unsent)
            raise BusUnavailableError from None
        return min(counts[:required], default=0)

    def _require_subscribed(self, groups: Groups) -> None:
        """Fail at once while this worker is disconnected: only its heartbeats wait for Redis."""
        with self._sender.recording_losses(groups):
            if not self._subscribed.is_set():
                raise ConnectionError("redis is unavailable")

    # Subscriptions

    async def follow(self, topic: Topic) -> None:
        """Subscribe to a topic. Returns once this worker receives its events, or if Redis is unavailable."""
        channel = self._channel(topic)
        self._topics.setdefault(channel, Counter())[topic] += 1
        self._idle_since.pop(channel, None)
        if not self._subscribed.is_set():
            return
        try:
            subscription = self._subscriptions.get(self._servers.server_of(channel))
            if subscription is None:
                next(iter(self._subscriptions.values())).fail("the cluster has another server")
            elif not subscription.is_subscribed(channel):
                await subscription.add(channel)
        except OUTAGE:
            log.warning("subscription failed", topic=topic.kind)  # the reconnection repeats it

    def unfollow(self, topic: Topic) -> None:
        """Undo one ``follow``, also one that was cancelled."""
        channel = self._channel(topic)
        topics = self._topics[channel]
        topics[topic] -= 1
        if topics[topic] <= 0:
            del topics[topic]
        if not topics:
            self._idle_since[channel] = asyncio.get_running_loop().time()

    def _channel(self, topic: Topic) -> str:
        if topic.kind == "user":
            return f"{self._prefix}:users/{SHARDS}:{crc32(topic.name.encode()) % SHARDS}"
        return f"{self._prefix}:{topic.kind}:{topic.name}" if topic.name else f"{self._prefix}:{topic.kind}"

    async def _receive(self) -> None:
        failures = 0
        while True:
            try:
                await self._connect()
                failures = 0
                self._subscribed.set()
                if self._disconnected_at is not None:
                    log.info("redis connection restored")
                    self._report_gap(self._disconnected_at, None)
                    self._disconnected_at = None
                await asyncio.gather(*(each.wait_until_lost() for each in self._subscriptions.values()))
            except OUTAGE as error:
                if self._subscribed.is_set():
                    log.warning("redis connection lost", error=type(error).__name__)
            except Exception as error:  # noqa: BLE001 - whatever it was, this worker must reconnect
                log.error("event bus failed", **describe(error))
            finally:
                if self._subscribed.is_set():
                    self._disconnected_at = min(s.last_heartbeat_at for s in self._subscriptions.values())
                self._subscribed.clear()
                subscriptions, self._subscriptions = self._subscriptions, {}
                await asyncio.gather(*(each.close() for each in subscriptions.values()))
            await asyncio.sleep(RECONNECT_DELAYS_SECONDS[min(failures, len(RECONNECT_DELAYS_SECONDS) - 1)])
            failures += 1

    async def _connect(self) -> None:
        """Subscribe to all channels, on every server."""
        with propagate_swallowed_cancellation():
            await self._servers.refresh()
        self._reader.reset_sequences()
        self._subscriptions = {
            server: ChannelSubscription(
                self._servers.subscriber(server),
                sharded=self._servers.sharded,
                heartbeat_channel=self._heartbeat_channel(server),
                on_message=self._on_message,
            )
            for server in self._servers.names
        }
        subscribed: set[str] = set()
        while missing := {self._channel(EVERYONE), *self._topics} - subscribed:
            channels: dict[str, list[str]] = {server: [] for server in self._subscriptions}
            for channel in missing:
                channels[self._servers.server_of(channel)].append(channel)
            for server, subscription in self._subscriptions.items():
                await subscription.subscribe(channels[server])
            subscribed |= missing  # and once more, for topics that were followed meanwhile
        self._peers.restart_timers()

    def _heartbeat_channel(self, server: str) -> str:
        """Return a channel on a server for this worker's heartbeats."""
        channel = self._channel(EVERYONE)
        attempts = itertools.count()
        while self._servers.server_of(channel) != server:
            channel = f"{self._prefix}:worker:{self._worker}:{next(attempts)}"
        return channel

    def _on_message(self, channel: str, message: bytes) -> None:
        received = self._reader.read(channel, message)
        if received is None:
            log.warning("message rejected", channel=channel, bytes=len(message))
            return
        sender = received.sender
        if sender == self._worker:
            for subscription in self._subscriptions.values():
                if subscription.heartbeat_channel == channel:
                    subscription.record_heartbeat()
        elif received.envelope.leaving:
            self._peers.forget(sender)
            self._reader.forget_sender(sender)
            self._report_lost_worker(sender)
        elif (lost_since := self._peers.record_message(sender)) is not None:
            self._report_gap(lost_since, None)  # it was disconnected: this worker missed its messages
        if received.missed_since is not None:
            self._report_gap(received.missed_since, channel)
        self._dispatch(channel, received.envelope.events)

    def _dispatch(self, channel: str, events: Sequence[Event]) -> None:
        followed = self._topics.get(channel, ())
        for event in events:
            for topic in event.topics:
                wanted = topic == EVERYONE or topic in followed or isinstance(event, PresenceQuery)
                if wanted and self._channel(topic) == channel:
                    for handler in self._handlers:
                        handler(topic, event)

    def _report_gap(self, since: float, channel: str | None) -> None:
        """Report events that may have been missed, on one channel or on all."""
        topics = None
        if channel is not None:
            everyone = [EVERYONE] if channel == self._channel(EVERYONE) else []
            topics = frozenset((*everyone, *self._topics.get(channel, ())))
        gap = Gap(datetime.fromtimestamp(since, UTC) - MAX_PUBLISH_DELAY, topics)
        for handler in self._gap_handlers:
            handler(gap)

    # Heartbeats

    async def _send_heartbeats(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            try:
                own = (subscription.heartbeat_channel for subscription in self._subscriptions.values())
                await self._sender.report_losses({self._channel(EVERYONE), *own})
                if self._subscribed.is_set():
                    self._detect_lost_workers()
                    await self._drop_idle_channels()
            except OUTAGE:
                continue  # the subscriptions notice that no heartbeat arrives
            except Exception as error:  # noqa: BLE001 - heartbeats must go on
                log.error("heartbeat failed", **describe(error))

    def _detect_lost_workers(self) -> None:
        for worker, last_message_at in self._peers.detect_lost():
            log.warning("worker lost", worker=worker)
            self._report_gap(last_message_at, None)  # its last commits may be unpublished
            self._report_lost_worker(worker)
        for worker in self._peers.forget_lost():
            self._reader.forget_sender(worker)

    def _report_lost_worker(self, worker: str) -> None:
        for handler in self._worker_lost_handlers:
            handler(worker)

    async def _drop_idle_channels(self) -> None:
        now = asyncio.get_running_loop().time()
        for channel, since in list(self._idle_since.items()):
            if now - since > IDLE_SECONDS:
                del self._idle_since[channel]
                del self._topics[channel]
                self._reader.forget_channel(channel)
                await self._subscriptions[self._servers.server_of(channel)].unsubscribe(channel)
