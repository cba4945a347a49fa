"""Removes finished deliveries and dead letters at the end of their retention."""

from datetime import timedelta

import structlog

from app.contracts.ports.clock import Clock
from app.contracts.ports.deliveries import DeadLetters, DeliveryLog

log = structlog.get_logger("deliveries")

LOG_RETENTION = timedelta(days=7)
LETTER_RETENTION = timedelta(days=30)
RETENTION_EVERY = timedelta(minutes=10)
"""A job instead of TTLs: the embedded database reads whole collections for these each minute."""


class DeliveryRetention:
    """Bounds the log of deliveries and the dead letters by their age."""

    def __init__(self, deliveries: DeliveryLog, letters: DeadLetters, clock: Clock) -> None:
        self._deliveries = deliveries
        self._letters = letters
        self._clock = clock

    async def run(self) -> None:
        """Remove what is older than its retention. Two workers may do so at once."""
        now = self._clock.now()
        deliveries = await self._deliveries.remove_expired(now - LOG_RETENTION)
        letters = await self._letters.remove_expired(now - LETTER_RETENTION)
        if deliveries or letters:
            log.info("old deliveries removed", deliveries=deliveries, dead_letters=letters)
