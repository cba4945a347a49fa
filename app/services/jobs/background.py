"""The background jobs of a worker."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import structlog

from app.contracts.errors import StoreUnavailableError
from app.services.administration.integrity import IntegrityCheck
from app.services.delivery.relay import Relay
from app.services.jobs.due_changes import DueChanges
from app.services.jobs.job import Job
from app.services.jobs.lease import LeaseHolder
from app.services.jobs.outbox_sweep import OutboxSweep
from app.services.jobs.scheduler import Scheduler

log = structlog.get_logger("background")

TIMEOUTS_EVERY = timedelta(seconds=1)
"""As short as the shortest timeout, so that each is found before it is due."""
SWEEP_EVERY = timedelta(seconds=2)
SWEEP_BY_ALL_EVERY = timedelta(seconds=10)
EXPIRY_EVERY = timedelta(seconds=5)
CHECK_EVERY = timedelta(seconds=60)
DRAIN_SECONDS = 5.0
PROBE_SECONDS = 1.0
"""A store that does not answer for so long at the end is unavailable."""


class Background:
    """Delivers, sweeps, ends expired states, runs timeouts and checks states.

    ``others`` are the jobs of other parts of the service.
    """

    def __init__(
        self,
        relay: Relay,
        sweep: OutboxSweep,
        due_changes: DueChanges,
        check: IntegrityCheck,
        lease: LeaseHolder,
        others: Sequence[Job],
    ) -> None:
        self.relay = relay
        self.sweep = sweep
        self.due_changes = due_changes
        self.check = check
        self._lease = lease
        self.jobs = [
            Job("relay", every=None, leased=False, work=relay.run),
            *others,
            Job("timeouts", TIMEOUTS_EVERY, leased=True, work=self._run_timeouts),
            Job("delivery", SWEEP_EVERY, leased=True, work=sweep.run),
            # The worker that has the lease may be cut off from Redis.
            Job("delivery by every worker", SWEEP_BY_ALL_EVERY, leased=False, work=sweep.run),
            Job("expiry", EXPIRY_EVERY, leased=True, work=self._end_expired),
            Job("check of states", CHECK_EVERY, leased=True, work=check.run),
        ]
        self._scheduler = Scheduler(self.jobs, lease)

    def start(self) -> None:
        """Start all jobs."""
        self._scheduler.start()

    async def stop(self) -> None:
        """Deliver what is queued, then end.

        While the database is unavailable, end at once: the outboxes have what was not delivered, and the
        lease expires.
        """
        running = self._scheduler.running
        answers = not running or await self._store_answers()
        delivered = not running or await self.relay.drain(DRAIN_SECONDS if answers else 0)
        await self._scheduler.stop()
        if answers and delivered:
            await self._lease.release()

    async def _store_answers(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await self.sweep.probe_store()
        except (StoreUnavailableError, TimeoutError):
            return False
        return True

    def _holds_lease(self) -> bool:
        return self._lease.held

    async def _end_expired(self) -> None:
        ended = await self.due_changes.purge_expired(self._holds_lease)
        if ended:
            log.info("expired states ended", states=ended)

    async def _run_timeouts(self) -> None:
        ran = await self.due_changes.run_coming_timeouts(TIMEOUTS_EVERY.total_seconds(), self._holds_lease)
        if ran:
            log.info("timeouts ran", states=ran)
