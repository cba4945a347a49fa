"""The work of a service beside its requests: delivery, its sweep, expiry."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from app.contracts.errors import FlowError
from app.contracts.ports import Clock, StateStore
from app.services.relay import Relay
from config.log import describe

log = structlog.get_logger("background")

SWEEP_EVERY_SECONDS = 2.0
SWEEP_AGE = timedelta(seconds=4)
SWEEP_BATCH = 200
EXPIRE_EVERY_SECONDS = 30.0
DRAIN_SECONDS = 5.0


class Background:
    """Runs the relay, and from time to time the sweeps. Work done twice by two workers is harmless."""

    def __init__(
        self, states: StateStore, relay: Relay, clock: Clock, purge: Callable[[], Awaitable[int]]
    ) -> None:
        self._states = states
        self._relay = relay
        self._clock = clock
        self._purge = purge
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        self._tasks = [
            asyncio.create_task(self._relay.run()),
            asyncio.create_task(self._every(SWEEP_EVERY_SECONDS, self.sweep)),
            asyncio.create_task(self._every(EXPIRE_EVERY_SECONDS, self._expire)),
        ]

    async def stop(self) -> None:
        """Deliver what is queued, then end."""
        await self._relay.drain(DRAIN_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def sweep(self) -> None:
        """Deliver records that wait for longer than they would with a living worker."""
        found = await self._states.list_undelivered(self._clock.now() - SWEEP_AGE, SWEEP_BATCH)
        for stored in found:
            self._relay.take(stored.pending)
        if found:
            log.info("undelivered records found", states=len(found))

    async def _expire(self) -> None:
        purged = await self._purge()
        if purged:
            log.info("expired states ended", states=purged)

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await work()
            except FlowError as error:
                log.warning("background work put off", work=work.__name__, code=error.code)
            except Exception as error:  # noqa: BLE001 - one failure must not end the loop
                log.error("background work failed", work=work.__name__, **describe(error))
