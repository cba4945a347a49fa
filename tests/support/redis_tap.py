"""Raw access to a channel of Redis."""

import asyncio

from redis.asyncio import Redis


class Tap:
    """Receives and publishes raw messages on one channel, as anyone with access to Redis can."""

    def __init__(self, url: str, channel: str) -> None:
        self.redis = Redis.from_url(url)
        self.channel = channel
        self._pubsub = self.redis.pubsub()

    async def __aenter__(self) -> "Tap":
        await self._pubsub.subscribe(self.channel)
        assert (await self._pubsub.get_message(timeout=5))["type"] == "subscribe"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]
        await self.redis.aclose()

    async def next(self) -> bytes:
        """Wait for the next message."""
        async with asyncio.timeout(5):
            while True:
                message = await self._pubsub.get_message(timeout=1)
                if message is not None:
                    data: bytes = message["data"]
                    return data

    async def send(self, message: bytes) -> None:
        """Publish a message as it is."""
        await self.redis.publish(self.channel, message)
