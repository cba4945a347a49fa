"""The bus: events between workers over Redis pub/sub, in batches, each worker hearing what its clients
need and no more.

A message may be lost, and nothing depends on it: every event carries its position. What the bus owes is
to know what may have been missed, and to say so: a worker that was deaf, whose messages could not be
sent, or that finds a hole in the numbers of another's (docs/decisions/0013-live-updates.md).
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from zlib import crc32

import structlog
from uuid_utils import uuid7

from app.contracts.events import EVERYONE, Event, Gap, PresenceAsked, StateChanged, Topic
from app.contracts.ports.bus import BusUnavailableError
from app.kit.tasks import end_tasks, propagate_swallowed_cancellation
from config.log import describe
from realtime.redis.envelope import EnvelopeReader, EnvelopeWriter
from realtime.redis.peers import Peers
from realtime.redis.servers import OUTAGE, redis_servers, telling_why
from realtime.redis.subscription import ChannelSubscription

log = structlog.get_logger("bus")

SHARDS = 1024
"""Channels that the users are spread over. All workers must have the same number: it is in the name."""
START_SECONDS = 2.0
BEAT_SECONDS = 1.0
IDLE_SECONDS = 30.0
"""A channel that nobody here needs is still heard for so long: users come back."""
EARLIER = timedelta(seconds=30)
"""An event may be told so much later than its change was committed: by the sweep, for a worker that died."""
RECONNECT_SECONDS = (0.05, 0.1, 0.25, 0.5)

Groups = dict[str, list[Event]]
"""Events by channel."""


class RedisBus:
    """The EventBus port on Redis. It listens between ``start`` and ``stop``."""

    def __init__(self, url: str, namespace: str) -> None:
        """Raises BusUnavailableError for a URL that is none."""
        self._servers = redis_servers(url)
        self._prefix = f"server-flow:{namespace}"
        self._worker = str(uuid7())
        self._sealer = EnvelopeWriter(b"", self._worker)
        self._opener = EnvelopeReader(b"")
        self._followed: dict[str, Counter[Topic]] = {}
        self._idle: dict[str, float] = {}
        self._ears: dict[str, ChannelSubscription] = {}
        self._peers = Peers()
        self._handlers: list[Callable[[Topic, Event], None]] = []
        self._gap_handlers: list[Callable[[Gap], None]] = []
        self._gone_handlers: list[Callable[[str], None]] = []
        self._subscribed = asyncio.Event()
        self._lost_since: float | None = None
        self._sending = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def worker(self) -> str:
        return self._worker

    @property
    def subscribed(self) -> bool:
        """True while this worker receives messages of others."""
        return self._subscribed.is_set()

    def subscribe(self, handler: Callable[[Topic, Event], None]) -> None:
        self._handlers.append(handler)

    def on_gap(self, handler: Callable[[Gap], None]) -> None:
        self._gap_handlers.append(handler)

    def on_gone(self, handler: Callable[[str], None]) -> None:
        self._gone_handlers.append(handler)

    async def ping(self) -> None:
        """Raise BusUnavailableError unless Redis answers."""
        async with telling_why():
            await self._servers.ping()

    async def server_time(self) -> datetime:
        """UTC by Redis's clock. Raises BusUnavailableError."""
        async with telling_why():
            seconds = await self._servers.time()
        return datetime.fromtimestamp(seconds, UTC)

    async def start(self, key: bytes, *, patient: bool = False) -> None:
        """Begin to listen; returns once this worker hears. ``key`` signs the messages, the same for all
        workers. Raises BusUnavailableError; ``patient``: begins deaf when Redis is away."""
        if not patient:
            await self.ping()
        self._sealer, self._opener = EnvelopeWriter(key, self._worker), EnvelopeReader(key)
        self._tasks = [asyncio.create_task(self._hear()), asyncio.create_task(self._beat())]
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._subscribed.wait()
        except TimeoutError:
            self._lost_since = time.time()

    async def stop(self) -> None:
        """Say goodbye, stop listening and close the connections."""
        tasks, self._tasks = self._tasks, []
        await end_tasks(tasks)
        with suppress(*OUTAGE):
            if tasks:
                # Without a goodbye the others find that it is gone, and read for themselves.
                async with self._sending:
                    await self._send({channel: [] for channel in self._sealer.unreported_losses})
                    await self._send({self._channel(EVERYONE): []}, bye=True)
        with suppress(*OUTAGE):
            await self._servers.close()

    # What others are told

    async def publish(self, events: Sequence[Event]) -> int:
        groups: Groups = {}
        watched: Groups = {}
        for event in events:
            for topic in event.topics:
                group = watched if topic.kind == "flow" else groups
                group.setdefault(self._channel(topic), []).append(event)
        required = len(groups)
        # Flows that nobody watches too: asking whether anybody does costs as much as a message to nobody.
        groups |= watched
        try:
            self._require_subscribed(groups)
            async with self._sending:  # one after the other: the numbers must arrive in their order
                counts = await self._send(groups)
        except OUTAGE:
            # What this worker's own clients can hear without Redis they hear.
            for channel, cut_off in groups.items():
                self._dispatch(channel, cut_off)
            raise BusUnavailableError from None
        return min(counts[:required], default=0)

    def _require_subscribed(self, groups: Groups) -> None:
        """While this worker is deaf, only its heartbeats try; nobody else has to wait for that."""
        with self._losing(groups):
            if not self._subscribed.is_set():
                raise ConnectionError("Redis is away")

    async def _send(self, groups: Groups, *, bye: bool = False) -> list[int]:
        if not groups:
            return []
        with self._losing(groups):
            counts = await self._servers.publish(
                [(channel, self._sealer.seal(channel, group, bye=bye)) for channel, group in groups.items()]
            )
        for channel in groups:
            self._sealer.sent(channel)
        return counts

    @contextmanager
    def _losing(self, groups: Groups) -> Iterator[None]:
        """Count events as lost if sending them is cut off, also by a cancellation."""
        try:
            with propagate_swallowed_cancellation():
                yield
        except BaseException:
            now = int(time.time() * 1000)
            for channel, group in groups.items():
                times = (event.at for event in group if isinstance(event, StateChanged))
                self._sealer.record_loss(channel, min(times, default=now))
            raise

    # What this worker hears of

    async def follow(self, topic: Topic) -> None:
        channel = self._channel(topic)
        self._followed.setdefault(channel, Counter())[topic] += 1
        self._idle.pop(channel, None)
        if not self._subscribed.is_set():
            return
        try:
            ear = self._ears.get(self._servers.server_of(channel))
            if ear is None:
                next(iter(self._ears.values())).fail("the cluster has another server")
            elif not ear.hears(channel):
                await ear.add(channel)
        except OUTAGE:
            log.warning("not heard yet, Redis is away", topic=topic.kind)

    def unfollow(self, topic: Topic) -> None:
        channel = self._channel(topic)
        topics = self._followed[channel]
        topics[topic] -= 1
        if topics[topic] <= 0:
            del topics[topic]
        if not topics:
            self._idle[channel] = asyncio.get_running_loop().time()

    def _channel(self, topic: Topic) -> str:
        if topic.kind == "user":
            return f"{self._prefix}:users/{SHARDS}:{crc32(topic.name.encode()) % SHARDS}"
        return f"{self._prefix}:{topic.kind}:{topic.name}" if topic.name else f"{self._prefix}:{topic.kind}"

    async def _hear(self) -> None:
        failures = 0
        while True:
            try:
                await self._open_ears()
                failures = 0
                self._subscribed.set()
                if self._lost_since is not None:
                    log.info("hearing again")
                    self._tell_gap(self._lost_since, None)
                    self._lost_since = None
                await asyncio.gather(*(ear.listen() for ear in self._ears.values()))
            except OUTAGE as error:
                if self._subscribed.is_set():
                    log.warning("deaf, Redis is away", error=type(error).__name__)
            except Exception as error:  # noqa: BLE001 - whatever it was, this worker must hear again
                log.error("deaf", **describe(error))
            finally:
                if self._subscribed.is_set():
                    self._lost_since = min(ear.last_heartbeat_at for ear in self._ears.values())
                self._subscribed.clear()
                ears, self._ears = self._ears, {}
                await asyncio.gather(*(ear.close() for ear in ears.values()))
            await asyncio.sleep(RECONNECT_SECONDS[min(failures, len(RECONNECT_SECONDS) - 1)])
            failures += 1

    async def _open_ears(self) -> None:
        with propagate_swallowed_cancellation():
            await self._servers.look_up()
        self._opener.reset_sequences()
        self._ears = {
            server: ChannelSubscription(
                self._servers.listener(server),
                sharded=self._servers.sharded,
                heartbeat_channel=self._beat_channel(server),
                heard=self._heard,
            )
            for server in self._servers.names
        }
        heard: set[str] = set()
        while missing := {self._channel(EVERYONE), *self._followed} - heard:
            channels: dict[str, list[str]] = {server: [] for server in self._ears}
            for channel in missing:
                channels[self._servers.server_of(channel)].append(channel)
            for server, ear in self._ears.items():
                await ear.open(channels[server])
            heard |= missing  # and once more, if more was followed meanwhile
        self._peers.hear_anew()

    def _beat_channel(self, server: str) -> str:
        """A channel of a server that this worker's heartbeats go through."""
        channel = self._channel(EVERYONE)
        tries = itertools.count()
        while self._servers.server_of(channel) != server:
            channel = f"{self._prefix}:worker:{self._worker}:{next(tries)}"
        return channel

    def _heard(self, channel: str, message: bytes) -> None:
        received = self._opener.open(channel, message)
        if received is None:
            log.warning("a message on the channel does not count", channel=channel, bytes=len(message))
            return
        sender = received.envelope.sender
        if sender == self._worker:
            for ear in self._ears.values():
                if ear.heartbeat_channel == channel:
                    ear.confirm()
        elif received.envelope.bye:
            self._peers.forget(sender)
            self._opener.forget_sender(sender)
            self._tell_gone(sender)
        elif (before := self._peers.heard(sender)) is not None:
            self._tell_gap(before, None)  # cut off, not dead: it told others meanwhile, or nobody
        if received.missed_since is not None:
            self._tell_gap(received.missed_since, channel)
        self._dispatch(channel, received.envelope.events)

    def _dispatch(self, channel: str, events: Sequence[Event]) -> None:
        followed = self._followed.get(channel, ())
        for event in events:
            for topic in event.topics:
                wanted = topic == EVERYONE or topic in followed or isinstance(event, PresenceAsked)
                if wanted and self._channel(topic) == channel:
                    for handler in self._handlers:
                        handler(topic, event)

    def _tell_gap(self, since: float, channel: str | None) -> None:
        """Tell of what may have been missed on a channel, or on all."""
        topics = None
        if channel is not None:
            everyone = [EVERYONE] if channel == self._channel(EVERYONE) else []
            topics = frozenset((*everyone, *self._followed.get(channel, ())))
        gap = Gap(datetime.fromtimestamp(since, UTC) - EARLIER, topics)
        for handler in self._gap_handlers:
            handler(gap)

    # Heartbeats

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            try:
                beats = {self._channel(EVERYONE), *(ear.heartbeat_channel for ear in self._ears.values())}
                async with self._sending:
                    await self._send({channel: [] for channel in (*beats, *self._sealer.unreported_losses)})
                if self._subscribed.is_set():
                    self._look_for_gone()
                    await self._drop_idle()
            except OUTAGE:
                continue  # without heartbeats the ears find out
            except Exception as error:  # noqa: BLE001 - as long as it lives, it beats
                log.error("heartbeat failed", **describe(error))

    def _look_for_gone(self) -> None:
        for worker, heard_at in self._peers.take_gone():
            log.warning("a worker is gone", worker=worker)
            self._tell_gap(heard_at, None)  # what it committed last it may have told nobody
            self._tell_gone(worker)
        for worker in self._peers.take_dead():
            self._opener.forget_sender(worker)

    def _tell_gone(self, worker: str) -> None:
        for handler in self._gone_handlers:
            handler(worker)

    async def _drop_idle(self) -> None:
        now = asyncio.get_running_loop().time()
        for channel, since in list(self._idle.items()):
            if now - since > IDLE_SECONDS:
                del self._idle[channel]
                del self._followed[channel]
                self._opener.forget_channel(channel)
                await self._ears[self._servers.server_of(channel)].drop(channel)
