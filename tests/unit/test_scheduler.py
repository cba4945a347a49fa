"""The scheduler runs jobs as they say: each time, under the lease, until the end."""

import asyncio
from datetime import timedelta

import pytest

from app.contracts.errors import StoreUnavailableError
from app.services.jobs.job import Job
from app.services.jobs.lease import LeaseHolder
from app.services.jobs.scheduler import Scheduler
from tests.support.fakes import FakeClock, FakeLeaseStore
from tests.support.waiting import until

SOON = timedelta(milliseconds=1)


class Work:
    """Counts its runs, the first of which fails."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.runs = 0
        self.failure = failure

    async def run(self) -> None:
        self.runs += 1
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure


async def test_a_leased_job_is_run_by_one_worker_and_any_other_by_all() -> None:
    store, clock = FakeLeaseStore(), FakeClock()
    leased, shared = [Work(), Work()], [Work(), Work()]
    schedulers = [
        Scheduler(
            [Job("leased", SOON, leased=True, work=leased[n].run), Job("shared", SOON, False, shared[n].run)],
            LeaseHolder(store, clock, "test"),
        )
        for n in range(2)
    ]
    for scheduler in schedulers:
        scheduler.start()
    await until(lambda: leased[0].runs > 3 and all(work.runs > 3 for work in shared))
    for scheduler in schedulers:
        await scheduler.stop()
        assert not scheduler.running
    assert leased[1].runs == 0


@pytest.mark.expected_logs("background job failed", "background job postponed", optional=True)
@pytest.mark.parametrize("failure", [StoreUnavailableError(), KeyError("x")])
async def test_a_job_that_fails_is_run_again(failure: Exception) -> None:
    work = Work(failure)
    scheduler = Scheduler(
        [Job("test", SOON, leased=False, work=work.run)], LeaseHolder(FakeLeaseStore(), FakeClock(), "test")
    )
    scheduler.start()
    await until(lambda: work.runs > 2)
    await scheduler.stop()


async def test_a_job_without_a_time_runs_until_the_end() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    scheduler = Scheduler(
        [Job("test", None, leased=False, work=work)], LeaseHolder(FakeLeaseStore(), FakeClock(), "test")
    )
    scheduler.start()
    await asyncio.sleep(0)
    await scheduler.stop()
    assert ended.is_set()
