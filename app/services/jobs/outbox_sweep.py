"""The sweep of the outboxes: delivery for workers that died."""

from datetime import timedelta

import structlog

from app.contracts.ports.clock import Clock
from app.contracts.ports.states import StateStore
from app.services.delivery.relay import Relay

log = structlog.get_logger("background")

MIN_AGE = timedelta(seconds=4)
"""A record that waits for so long is not being delivered by the worker that committed it."""
MAX_STATES = 1000
"""States whose records one run delivers."""


class OutboxSweep:
    """Delivers records that wait for longer than they would with a living worker."""

    def __init__(self, states: StateStore, relay: Relay, clock: Clock) -> None:
        self._states = states
        self._relay = relay
        self._clock = clock

    async def run(self) -> None:
        """Queue the records of one run for delivery."""
        before = self._clock.now() - MIN_AGE
        found = await self._states.list_undelivered(before, MAX_STATES)
        set_aside = self._relay.states_set_aside
        if len(found) == MAX_STATES and set_aside:
            # Records that cannot be delivered are the oldest: they must not block all others for ever.
            found += await self._states.list_undelivered(before, MAX_STATES, set_aside)
        queued = 0
        for stored in found:
            queued += self._relay.enqueue(stored.deliverable)
        if queued:  # the others are this worker's own, in progress
            log.info("undelivered records found", records=queued)

    async def probe_store(self) -> None:
        """Send one read to the store. Raises StoreUnavailableError if there is no answer."""
        await self._states.list_undelivered(self._clock.now() - MIN_AGE, 1)
