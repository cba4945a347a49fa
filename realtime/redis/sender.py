"""Sending of events to channels, with a record of those that could not be sent."""

import asyncio
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from app.contracts.events import Event, StateChanged
from app.kit.tasks import propagate_swallowed_cancellation
from realtime.redis.envelope import EnvelopeWriter
from realtime.redis.servers import RedisServers

Groups = dict[str, list[Event]]
"""Events by channel."""


class Sender:
    """Sends groups of events, one after the other: messages must arrive in the order of their numbers."""

    def __init__(self, servers: RedisServers, writer: EnvelopeWriter) -> None:
        self._servers = servers
        self._writer = writer
        self._lock = asyncio.Lock()

    @property
    def unreported_losses(self) -> list[str]:
        """Channels with lost messages that no later message has reported yet."""
        return self._writer.unreported_losses

    async def report_losses(self, channels: Iterable[str] = ()) -> None:
        """Send a message without events on ``channels``, and on every channel with unreported losses.

        Raises:
            RedisError, OSError: One of ``OUTAGE``.
        """
        async with self._lock:  # a message that is being sent may become a loss
            await self._send({channel: [] for channel in (*channels, *self._writer.unreported_losses)})

    async def send(self, groups: Groups, *, leaving: bool = False) -> list[int]:
        """Send each group of events on its channel.

        Returns:
            The number of workers that received each group.

        Raises:
            RedisError, OSError: One of ``OUTAGE``. The events are recorded as lost.
        """
        async with self._lock:
            return await self._send(groups, leaving=leaving)

    async def _send(self, groups: Groups, *, leaving: bool = False) -> list[int]:
        if not groups:
            return []
        with self.recording_losses(groups):
            messages = [
                (channel, self._writer.write(channel, group, leaving=leaving))
                for channel, group in groups.items()
            ]
            counts = await self._servers.publish(messages)
        for channel in groups:
            self._writer.record_sent(channel)
        return counts

    @contextmanager
    def recording_losses(self, groups: Groups) -> Iterator[None]:
        """Record events as lost if the block fails, also by a cancellation."""
        try:
            with propagate_swallowed_cancellation():
                yield
        except BaseException:
            now = int(time.time() * 1000)
            for channel, group in groups.items():
                times = (event.at for event in group if isinstance(event, StateChanged))
                self._writer.record_loss(channel, min(times, default=now))
            raise
