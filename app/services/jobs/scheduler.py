"""The scheduler of background jobs."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import structlog

from app.contracts.errors import FlowError
from app.kit.tasks import end_tasks
from app.services.jobs.job import Job
from app.services.jobs.lease import LeaseHolder
from config.log import describe

log = structlog.get_logger("background")


class Scheduler:
    """Runs jobs, and competes for the lease of the leased ones."""

    def __init__(self, jobs: Sequence[Job], lease: LeaseHolder) -> None:
        self._jobs = jobs
        self._lease = lease
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def running(self) -> bool:
        """True between ``start`` and ``stop``."""
        return bool(self._tasks)

    def start(self) -> None:
        """Start all jobs."""
        self._tasks = [asyncio.create_task(self._run(job)) for job in self._jobs]
        self._tasks.append(asyncio.create_task(self._lease.run()))

    async def stop(self) -> None:
        """Cancel all jobs and wait for their end. The lease is not released."""
        await end_tasks(self._tasks)
        self._tasks = []

    async def _run(self, job: Job) -> None:
        if job.every is None:
            await job.work()
        else:
            await self._repeat(job, job.every)

    async def _repeat(self, job: Job, every: timedelta) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + every.total_seconds(), loop.time())
            await asyncio.sleep(due - loop.time())
            if job.leased and not self._lease.held:
                continue
            try:
                await job.work()
            except FlowError as error:
                log.warning("background job postponed", job=job.name, code=error.code)
            except Exception as error:  # noqa: BLE001 - one failure must not end the loop
                log.error("background job failed", job=job.name, **describe(error))
