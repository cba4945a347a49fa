"""A worker's clock is compared with those that all workers share."""

from datetime import UTC, datetime, timedelta

import pytest

from app.contracts.errors import BusUnavailableError, StoreUnavailableError
from app.services.jobs.lease import LeaseHolder
from app.services.jobs.time_check import CheckedClock, ServerTime, TimeCheck
from tests.support.fakes import FakeClock, FakeLeaseStore
from tests.support.log_events import LogEvents
from tests.support.rig import Rig
from tests.support.samples import flow_dict

TRUE_TIME = datetime(2026, 11, 27, 12, tzinfo=UTC)
OFF = "clock offset too large, timers and expiry suspended"


class Clocks:
    """A worker whose clock is ahead of the servers' by so many seconds, each."""

    def __init__(self, ahead: float, redis_ahead: float | None = 0.0, mongodb_ahead: float = 0.0) -> None:
        self.machine = FakeClock(TRUE_TIME + timedelta(seconds=ahead))
        self.steady = 1000.0
        self.mongodb_ahead = mongodb_ahead
        self.away = False
        self.clock = CheckedClock(self.machine, lambda: self.steady)
        self.check = TimeCheck(self.clock, self._mongodb, self._server(redis_ahead))

    async def _mongodb(self) -> datetime:
        if self.away:
            raise StoreUnavailableError
        return self.now + timedelta(seconds=self.mongodb_ahead)

    def _server(self, ahead: float | None) -> ServerTime:
        async def answer() -> datetime:
            if ahead is None:
                raise BusUnavailableError
            return self.now + timedelta(seconds=ahead)

        return answer

    @property
    def now(self) -> datetime:
        """The true time."""
        return TRUE_TIME + timedelta(seconds=self.steady - 1000)

    def go_on(self, seconds: float) -> None:
        """Let time pass."""
        self.steady += seconds
        self.machine.advance(seconds=seconds)


@pytest.mark.parametrize("ahead", [-4.9, -1.5, -0.3, 0.3, 1.5, 4.9])
async def test_a_small_drift_is_corrected(ahead: float) -> None:
    clocks = Clocks(ahead)
    assert clocks.clock.now() == TRUE_TIME + timedelta(seconds=ahead)
    await clocks.check.check()
    assert (clocks.clock.now(), clocks.clock.is_trusted()) == (TRUE_TIME, True)
    clocks.go_on(30)
    assert clocks.clock.now() == TRUE_TIME + timedelta(seconds=30)


async def test_what_may_be_the_way_of_the_answer_is_left() -> None:
    clocks = Clocks(0.08)
    await clocks.check.check()
    assert (clocks.clock.now(), clocks.clock.is_trusted()) == (clocks.machine.now(), True)


@pytest.mark.expected_logs(OFF)
@pytest.mark.parametrize("ahead", [-7200.0, -6.0, 6.0, 7200.0])
@pytest.mark.parametrize("redis_ahead", [0.0, None])
async def test_a_clock_far_off_is_not_trusted(
    ahead: float, redis_ahead: float | None, log_events: LogEvents
) -> None:
    clocks = Clocks(ahead, redis_ahead)
    await clocks.check.check()
    assert not clocks.clock.is_trusted()
    assert clocks.clock.now() == TRUE_TIME, "what it writes has the servers' time"
    (off,) = log_events.named(OFF)
    assert off["seconds_ahead_of_mongodb"] == ahead
    assert off["seconds_ahead_of_redis"] == (None if redis_ahead is None else ahead)


@pytest.mark.expected_logs(OFF, "mongodb and redis clocks differ")
async def test_two_clocks_outvote_that_of_the_database() -> None:
    """Nothing is ended by it, and the time of two is kept."""
    clocks = Clocks(0.0, mongodb_ahead=7200.0)
    await clocks.check.check()
    assert (clocks.clock.now(), clocks.clock.is_trusted()) == (TRUE_TIME, False)


@pytest.mark.expected_logs("mongodb and redis clocks differ")
async def test_redis_alone_is_outvoted(log_events: LogEvents) -> None:
    clocks = Clocks(0.0, redis_ahead=-7200.0)
    await clocks.check.check()
    await clocks.check.check()
    assert (clocks.clock.now(), clocks.clock.is_trusted()) == (TRUE_TIME, True)
    assert len(log_events.named("mongodb and redis clocks differ")) == 1


async def test_a_clock_that_is_set_between_checks_changes_nothing() -> None:
    clocks = Clocks(0.0)
    await clocks.check.check()
    clocks.machine.advance(hours=2)
    clocks.go_on(1)
    assert clocks.clock.now() == clocks.now


@pytest.mark.expected_logs(OFF)
async def test_one_that_is_set_right_is_trusted_again(log_events: LogEvents) -> None:
    clocks = Clocks(7200)
    await clocks.check.check()
    clocks.away = True
    clocks.machine.advance(hours=-2)
    await clocks.check.check()
    assert not clocks.clock.is_trusted(), "the database did not answer"
    clocks.away = False
    await clocks.check.check()
    assert clocks.clock.is_trusted()
    assert len(log_events.named("clock offset acceptable again")) == 1


async def test_nothing_is_decided_by_time_alone_on_a_clock_that_is_not_trusted() -> None:
    rig = Rig()
    await rig.service.create_flow(flow_dict(ttl="PT1H"))
    await rig.flows.start_flow("ada", "loop")
    rig.time_trusted = False
    rig.clock.advance(minutes=30)
    assert (await rig.flows.reset_flow("ada", "loop")).revision == 1
    rig.clock.advance(hours=2)
    before = rig.states.stored["loop:ada"]
    for refused in (rig.flows.reset_flow("ada", "loop"), rig.service.background.due_changes.purge_expired()):
        with pytest.raises(StoreUnavailableError, match="the clock of this worker is wrong"):
            await refused
    assert rig.states.stored["loop:ada"] == before
    rig.time_trusted = True
    assert await rig.service.background.due_changes.purge_expired() == 1


async def test_one_that_is_not_trusted_leaves_the_lease_to_others() -> None:
    trusted = [True]
    holder = LeaseHolder(FakeLeaseStore(), FakeClock(), "sweep", lambda: trusted[0])
    await holder.acquire()
    assert holder.held
    trusted[0] = False
    assert not holder.held
