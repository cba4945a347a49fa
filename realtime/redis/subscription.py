"""An ear: one connection that hears channels of one Redis server."""

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
DEAF_SECONDS = 2.5
"""After this long without its own heartbeat an ear is deaf, whatever its connection says."""
TOGETHER = 500
"""Channels in one command."""


class SubscriptionLostError(ConnectionError):
    """Nothing comes through this connection."""


class ChannelSubscription:
    """Hears channels until its connection ends or nothing comes through it. ``heartbeat_channel`` is the
    channel of the heartbeat that proves it to hear, ``last_heartbeat_at`` when it last did (seconds since
    1970)."""

    def __init__(
        self, redis: Redis, *, sharded: bool, heartbeat_channel: str, heard: Callable[[str, bytes], None]
    ) -> None:
        self.heartbeat_channel = heartbeat_channel
        self.channels: set[str] = set()
        self.last_heartbeat_at = time.time()
        self._heard = heard
        self._sharded = sharded
        self._pubsub: PubSub = redis.pubsub()
        self._confirmed: dict[str, asyncio.Future[None]] = {}
        self._dropping: set[str] = set()
        self._reader: asyncio.Task[None] | None = None
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._beaten = asyncio.get_running_loop().time()

    def hears(self, channel: str) -> bool:
        """True if the server has confirmed it."""
        return channel in self.channels and channel not in self._confirmed

    async def open(self, channels: Iterable[str]) -> None:
        """Hear these channels too; returns once they are heard. Raises one of OUTAGE, and is of no use
        then."""
        wanted = sorted({self.heartbeat_channel, *channels} - self.channels)
        waiting = [self._awaited(channel) for channel in wanted]
        # In a cluster each channel has its slot, and a command takes those of one slot only.
        size = 1 if self._sharded else TOGETHER
        subscribe = self._pubsub.ssubscribe if self._sharded else self._pubsub.subscribe
        async with self._or_end():
            for at in range(0, len(wanted), size):
                await subscribe(*wanted[at : at + size])
                if self._reader is None:
                    self._reader = asyncio.create_task(self._read())
            await _all(waiting)

    async def add(self, channel: str) -> None:
        """Hear a channel too; returns once it is heard. Raises one of OUTAGE."""
        if channel in self.channels:
            async with self._or_end():
                await _all([self._awaited(channel)])
        else:
            await self.open([channel])

    async def drop(self, channel: str) -> None:
        """Hear a channel no more. Raises one of OUTAGE."""
        self.channels.discard(channel)
        self._dropping.add(channel)
        async with self._or_end():
            await (self._pubsub.sunsubscribe if self._sharded else self._pubsub.unsubscribe)(channel)

    def confirm(self) -> None:
        """The heartbeat came through."""
        self._beaten = asyncio.get_running_loop().time()
        self.last_heartbeat_at = time.time()

    def fail(self, why: str) -> None:
        """Be of no use any more."""
        self._end(SubscriptionLostError(why))

    async def listen(self) -> None:
        """Hear until it cannot any more: raises one of OUTAGE."""
        while True:
            left = self._beaten + DEAF_SECONDS - asyncio.get_running_loop().time()
            if left <= 0:
                raise SubscriptionLostError("no heartbeat")
            await asyncio.wait([self._ended], timeout=left)
            if self._ended.done():
                self._ended.result()

    async def close(self) -> None:
        """Hear nothing any more."""
        if self._reader is not None:
            await end_tasks([self._reader])
        self._end(SubscriptionLostError("closed"))
        with suppress(*OUTAGE):
            await self._pubsub.aclose()  # type: ignore[no-untyped-call]

    def _awaited(self, channel: str) -> asyncio.Future[None]:
        """Done when the server confirms that the channel is heard."""
        if channel not in self.channels:
            self.channels.add(channel)
            self._confirmed[channel] = asyncio.get_running_loop().create_future()
        waiting = self._confirmed.get(channel)
        if waiting is None:
            waiting = asyncio.get_running_loop().create_future()
            waiting.set_result(None)
        return waiting

    async def _read(self) -> None:
        try:
            while True:
                message = await self._pubsub.get_message(timeout=POLL_SECONDS)
                if message is not None:
                    self._take(message)
        except OUTAGE as error:
            self._end(error)
        except Exception as error:  # noqa: BLE001 - whatever it was, this ear is of no use any more
            log.error("ear failed", **describe(error))
            self._end(SubscriptionLostError("failed"))

    def _take(self, message: dict[str, Any]) -> None:
        kind, channel = message["type"], message["channel"].decode()
        if kind in ("message", "smessage"):
            self._heard(channel, message["data"])
        elif kind in ("subscribe", "ssubscribe"):
            waiting = self._confirmed.pop(channel, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(None)
        elif channel in self._dropping:
            self._dropping.discard(channel)
        else:
            raise SubscriptionLostError("the server gave the channel away")  # its slot moved

    @asynccontextmanager
    async def _or_end(self) -> AsyncIterator[None]:
        """After a failure, also of being cancelled, the client may have connected anew by itself, and missed
        something meanwhile."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                with propagate_swallowed_cancellation():
                    yield
        except BaseException as error:
            self._end(error if isinstance(error, OUTAGE) else SubscriptionLostError("cancelled"))
            raise

    def _end(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)
            self._ended.exception()  # ``listen`` may have ended before
        for waiting in self._confirmed.values():
            if not waiting.done():
                waiting.set_exception(SubscriptionLostError("the connection ended"))
                waiting.exception()
        self._confirmed.clear()


async def _all(waiting: list[asyncio.Future[None]]) -> None:
    """Wait for all, without cancelling what others wait for too."""
    if waiting:
        await asyncio.wait(waiting)
        for each in waiting:
            each.result()
