"""The contract of StatisticsSource: figures counted by hand over known states and records."""

from datetime import timedelta
from typing import NamedTuple

import pytest
from msgspec import UNSET, structs

from app.contracts.ports.history import HistoryStore
from app.contracts.ports.reports import CorruptionReports
from app.contracts.ports.states import StateStore
from app.contracts.ports.statistics import StatisticsSource
from app.contracts.state import FlowState
from app.contracts.statistics import PerformanceMetrics, StepCount
from models.corruption_store import MongoCorruptionReports
from models.database import Database
from models.history_store import MongoHistoryStore
from models.states.store import MongoStateStore
from models.statistics import MongoStatistics
from tests.support.fakes import FakeCorruptionReports, FakeHistoryStore, FakeStateStore, FakeStatistics
from tests.support.samples import T0, fresh, moved, record

PORTS = (StatisticsSource,)
pytestmark = pytest.mark.parametrize(  # mongomock aggregates nothing to one group, and has no percentiles
    "database", ["fake", pytest.param("mongodb", marks=pytest.mark.server)], indirect=True
)
SECOND = timedelta(seconds=1)


class Stores(NamedTuple):
    """The figures, and the stores that they are of."""

    statistics: StatisticsSource
    states: StateStore
    history: HistoryStore
    reports: CorruptionReports


@pytest.fixture
def stores(database: Database | None) -> Stores:
    if database is None:
        fakes = FakeStateStore(), FakeHistoryStore(), FakeCorruptionReports()
        return Stores(FakeStatistics(*fakes), *fakes)
    return Stores(
        MongoStatistics(database),
        MongoStateStore(database),
        MongoHistoryStore(database),
        MongoCorruptionReports(database),
    )


async def test_nothing_stored(stores: Stores) -> None:
    figures = await stores.statistics.statistics(T0)
    assert (figures.total_flows, figures.active_users, figures.corrupted_states) == (0, 0, 0)
    assert (figures.completion_rate, figures.average_flow_duration, figures.error_rate) == (0, 0, 0)
    assert figures.popular_steps == []
    assert figures.performance_metrics == PerformanceMetrics(0, 0, 0)


async def store(stores: Stores, *states: FlowState) -> None:
    for state in states:
        assert await stores.states.commit(None, record(state))


async def test_states_that_are_present_count(stores: Stores) -> None:
    def lasted(user: str, seconds: int, slug: str = "loop") -> FlowState:
        state = fresh(user, slug=slug)
        return structs.replace(state, status="completed", updated_at=state.created_at + seconds * SECOND)

    await store(
        stores,
        lasted("ada", 2),
        lasted("bob", 4),
        fresh("bob", slug="other"),
        structs.replace(fresh("eve"), status="paused", expires_at=T0),
        structs.replace(fresh("ian"), status="cleared"),
        structs.replace(fresh("mia"), expires_at=T0),
        structs.replace(fresh("tim"), expires_at=T0 + SECOND),
    )
    await stores.reports.report("loop:eve", "step unknown", T0)
    figures = await stores.statistics.statistics(T0)
    assert figures.total_flows == 5
    assert figures.active_users == 3, "bob has another flow, eve is paused, tim is not expired yet"
    assert figures.completion_rate == 40
    assert figures.average_flow_duration == 3000
    assert figures.corrupted_states == 1


async def test_attempts_of_callers_count(stores: Stores) -> None:
    first = fresh("ada")
    second = moved(first, step="b")
    third = moved(second, step="b")
    await stores.history.append(
        [
            record(first, kind="started"),
            record(second),
            record(third),
            structs.replace(record(moved(third)), kind="expired"),
            structs.replace(record(third), id="refused-1", kind="refused", success=False, after=UNSET),
        ]
    )
    figures = await stores.statistics.statistics(T0)
    assert figures.error_rate == 0.25
    assert figures.popular_steps == [StepCount("loop", "b", 2), StepCount("loop", "a", 1)]


async def test_times_are_of_the_last_hour_and_the_rate_of_the_last_minute(stores: Stores) -> None:
    state, records = fresh("ada"), []
    for minutes_ago, duration in ((120, 9000.0), (30, 100.0), (1, 100.0), (0, 100.0)):
        state = moved(state)
        made = structs.replace(record(state), timestamp=T0 - timedelta(minutes=minutes_ago))
        records.append(structs.replace(made, duration_ms=duration))
    await stores.history.append(records)
    metrics = (await stores.statistics.statistics(T0)).performance_metrics
    assert metrics.average_response_time == 100
    assert metrics.p95_response_time == pytest.approx(100, rel=0.01)
    assert metrics.throughput_per_second == pytest.approx(2 / 60)
