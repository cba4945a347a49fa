"""Reports of messages that could not be sent to Redis."""

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from realtime.redis.envelope import EnvelopeWriter
from realtime.redis.sender import Sender
from realtime.redis.servers import RedisServers


class FailingServers:
    """Fails the first message once ``failing`` is set, and receives the others."""

    def __init__(self) -> None:
        self.failing = asyncio.Event()
        self.sending = asyncio.Event()
        self.channels: list[str] = []

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> list[int]:
        if not self.sending.is_set():
            self.sending.set()
            await self.failing.wait()
            raise OSError
        self.channels += [channel for channel, _ in messages]
        return [1] * len(messages)


async def test_a_message_that_fails_while_losses_wait_to_be_reported_is_among_them() -> None:
    servers = FailingServers()
    sender = Sender(
        cast("RedisServers", servers), EnvelopeWriter(b"k" * 32, "01a2b3c4-0000-7000-8000-000000000001")
    )
    sent = asyncio.create_task(sender.send({"of ada": []}))
    await servers.sending.wait()
    reported = asyncio.create_task(sender.report_losses(["of all"]))
    await asyncio.sleep(0)
    servers.failing.set()
    with pytest.raises(OSError, match=r"^$"):
        await sent
    await reported
    assert servers.channels == ["of all", "of ada"]
    assert sender.unreported_losses == []
