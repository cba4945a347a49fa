"""A connection to one Redis server that is subscribed to channels there."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from app.kit.tasks import end_tasks, propagate_swallowed_cancellation
from config.log import describe
from realtime.redis.servers import OUTAGE, TIMEOUT_SECONDS

log = structlog.get_logger("bus")

POLL_SECONDS = 1.0
HEARTBEAT_TIMEOUT_SECONDS = 2.5
"""Without its own heartbeat for this time a subscription is lost, whatever its connection reports."""
MAX_CHANNELS_PER_COMMAND = 500


class SubscriptionLostError(ConnectionError):
    """No message arrives on this connection any more."""


class ChannelSubscription:
    """Receives messages of channels until its connection ends, or its own heartbeats do not arrive.

    Attributes:
        heartbeat_channel: The channel of this worker's heartbeats on that server.
        channels: The channels that are subscribed to, or for which a confirmation is awaited.
        last_heartbeat_at: The time of the last heartbeat received, in seconds since 1970.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        sharded: bool,
        heartbeat_channel: str,
        on_message: Callable[[str, bytes], None],
    ) -> None:
        self.heartbeat_channel = heartbeat_channel
        self.channels: set[str] = set()
        self.last_heartbeat_at = time.time()
        self._on_message = on_message
        self._sharded = sharded
        self._pubsub: PubSub = redis.pubsub()
        self._confirmations: dict[str, asyncio.Future[None]] = {}
        self._unsubscribing: set[str] = set()
        self._reader: asyncio.Task[None] | None = None
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._heartbeat_received = asyncio.get_running_loop().time()

    def is_subscribed(self, channel: str) -> bool:
        """True if the server has confirmed the subscription to a channel."""
        return channel in self.channels and channel not in self._confirmations

    async def subscribe(self, channels: Iterable[str]) -> None:
        """Subscribe to channels. Returns once the server has confirmed all of them.

        Raises:
            RedisError, OSError: One of ``OUTAGE``. The subscription is lost then.
        """
        new = sorted({self.heartbeat_channel, *channels} - self.channels)
        confirmations = [self._confirmation(channel) for channel in new]
        # In a cluster each channel has its slot, and a command accepts channels of one slot only.
        size = 1 if self._sharded else MAX_CHANNELS_PER_COMMAND
        subscribe = self._pubsub.ssubscribe if self._sharded else self._pubsub.subscribe
        async with self._fail_on_error():
            for at in range(0, len(new), size):
                await subscribe(*new[at : at + size])
                if self._reader is None:
                    self._reader = asyncio.create_task(self._read_messages())
            await _wait_for_all(confirmations)

    async def add(self, channel: str) -> None:
        """Subscribe to one channel, or wait for its confirmation if that is under way.

        Raises:
            RedisError, OSError: One of ``OUTAGE``.
        """
        if channel in self.channels:
            async with self._fail_on_error():
                await _wait_for_all([self._confirmation(channel)])
        else:
            await self.subscribe([channel])

    async def unsubscribe(self, channel: str) -> None:
        """Unsubscribe from a channel.

        Raises:
            RedisError, OSError: One of ``OUTAGE``.
        """
        self.channels.discard(channel)
        self._unsubscribing.add(channel)
        async with self._fail_on_error():
            await (self._pubsub.sunsubscribe if self._sharded else self._pubsub.unsubscribe)(channel)

    def record_heartbeat(self) -> None:
        """Record that this worker's heartbeat arrived."""
        self._heartbeat_received = asyncio.get_running_loop().time()
        self.last_heartbeat_at = time.time()

    def fail(self, reason: str) -> None:
        """Mark the subscription as lost."""
        self._set_lost(SubscriptionLostError(reason))

    async def wait_until_lost(self) -> None:
        """Wait until the subscription is lost.

        Raises:
            RedisError, OSError: One of ``OUTAGE``, always.
        """
        while True:
            left = self._heartbeat_received + HEARTBEAT_TIMEOUT_SECONDS - asyncio.get_running_loop().time()
            if left <= 0:
                raise SubscriptionLostError("no heartbeat")
            await asyncio.wait([self._lost], timeout=left)
            if self._lost.done():
                self._lost.result()

    async def close(self) -> None:
        """Close the connection."""
        if self._reader is not None:
            await end_tasks([self._reader])
        self._set_lost(SubscriptionLostError("closed"))
        with suppress(*OUTAGE):
            await self._pubsub.aclose()  # type: ignore[no-untyped-call]

    def _confirmation(self, channel: str) -> asyncio.Future[None]:
        """Return the future that is done once the server confirms the subscription to a channel."""
        if channel not in self.channels:
            self.channels.add(channel)
            self._confirmations[channel] = asyncio.get_running_loop().create_future()
        confirmation = self._confirmations.get(channel)
        if confirmation is None:
            confirmation = asyncio.get_running_loop().create_future()
            confirmation.set_result(None)
        return confirmation

    async def _read_messages(self) -> None:
        try:
            while True:
                message = await self._pubsub.get_message(timeout=POLL_SECONDS)
                if message is not None:
                    self._handle(message)
        except OUTAGE as error:
            self._set_lost(error)
        except Exception as error:  # noqa: BLE001 - whatever it was, this subscription is lost
            log.error("subscription reader failed", **describe(error))
            self._set_lost(SubscriptionLostError("failed"))

    def _handle(self, message: dict[str, Any]) -> None:
        kind, channel = message["type"], message["channel"].decode()
        if kind in ("message", "smessage"):
            self._on_message(channel, message["data"])
        elif kind in ("subscribe", "ssubscribe"):
            confirmation = self._confirmations.pop(channel, None)
            if confirmation is not None and not confirmation.done():
                confirmation.set_result(None)
        elif channel in self._unsubscribing:
            self._unsubscribing.discard(channel)
        else:
            raise SubscriptionLostError("the channel moved to another server")  # with its slot

    @asynccontextmanager
    async def _fail_on_error(self) -> AsyncIterator[None]:
        """Mark the subscription as lost after any failure of the block, also its cancellation.

        The Redis client may have reconnected by itself, and missed messages meanwhile.
        """
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                with propagate_swallowed_cancellation():
                    yield
        except BaseException as error:
            self._set_lost(error if isinstance(error, OUTAGE) else SubscriptionLostError("cancelled"))
            raise

    def _set_lost(self, error: Exception) -> None:
        if not self._lost.done():
            self._lost.set_exception(error)
            self._lost.exception()  # mark it as retrieved: ``wait_until_lost`` may have ended before
        for confirmation in self._confirmations.values():
            if not confirmation.done():
                confirmation.set_exception(SubscriptionLostError("the connection ended"))
                confirmation.exception()
        self._confirmations.clear()


async def _wait_for_all(futures: list[asyncio.Future[None]]) -> None:
    """Wait for all futures, without cancelling those for which others wait too."""
    if futures:
        await asyncio.wait(futures)
        for future in futures:
            future.result()
