"""The contracts of LeaseStore and CorruptionReports."""

import asyncio
from datetime import timedelta

import pytest

from app.contracts.ports.leases import LeaseStore
from app.contracts.ports.reports import CorruptionReports
from models.corruption_store import MongoCorruptionReports
from models.database import Database
from models.lease_store import MongoLeaseStore
from tests.support.fakes import FakeCorruptionReports, FakeLeaseStore
from tests.support.samples import T0

PORTS = (LeaseStore, CorruptionReports)

SECOND = timedelta(seconds=1)


@pytest.fixture
def leases(database: Database | None) -> LeaseStore:
    return FakeLeaseStore() if database is None else MongoLeaseStore(database)


@pytest.fixture
def reports(database: Database | None) -> CorruptionReports:
    return FakeCorruptionReports() if database is None else MongoCorruptionReports(database)


async def test_one_holds_it_until_it_ends(leases: LeaseStore) -> None:
    first = await leases.acquire("sweep", "one", T0, 3)
    assert first is not None
    assert (first.holder, first.fence, first.until) == ("one", 1, T0 + 3 * SECOND)
    assert await leases.acquire("sweep", "two", T0 + 2 * SECOND, 3) is None
    assert await leases.acquire("other", "two", T0, 3) is not None, "another work is another lease"
    second = await leases.acquire("sweep", "two", T0 + 3 * SECOND, 3)
    assert second is not None
    assert (second.holder, second.fence) == ("two", 2)
    assert await leases.acquire("sweep", "one", T0 + 4 * SECOND, 3) is None


async def test_the_holder_extends_it(leases: LeaseStore) -> None:
    for second in range(5):
        held = await leases.acquire("sweep", "one", T0 + second * SECOND, 3)
        assert held is not None
        assert (held.fence, held.until) == (1, T0 + (second + 3) * SECOND)
    assert await leases.acquire("sweep", "two", T0 + 6 * SECOND, 3) is None


async def test_a_holder_renews_it_until_another_acquires_it(leases: LeaseStore) -> None:
    held = await leases.acquire("sweep", "one", T0, 3)
    assert held is not None
    renewed = await leases.renew(held, T0 + 2 * SECOND, 3)
    assert renewed is not None
    assert (renewed.holder, renewed.fence, renewed.until) == ("one", 1, T0 + 5 * SECOND)
    assert await leases.acquire("sweep", "two", T0 + 4 * SECOND, 3) is None
    late = await leases.renew(renewed, T0 + 6 * SECOND, 3)
    assert late is not None, "it ended, but nobody acquired it"
    second = await leases.acquire("sweep", "two", T0 + 20 * SECOND, 3)
    assert second is not None
    assert await leases.renew(late, T0 + 21 * SECOND, 3) is None
    assert await leases.renew(second, T0 + 21 * SECOND, 3) is not None


async def test_a_released_lease_is_free_at_once(leases: LeaseStore) -> None:
    held = await leases.acquire("sweep", "one", T0, 3)
    assert held is not None
    await leases.release(held)
    second = await leases.acquire("sweep", "two", T0, 3)
    assert second is not None
    assert second.fence == 2
    await leases.release(held)
    assert await leases.acquire("sweep", "three", T0, 3) is None, (
        "an old holder releases nothing of a new one"
    )


async def test_a_lease_of_a_clock_that_is_far_ahead_counts_for_nothing(leases: LeaseStore) -> None:
    assert await leases.acquire("sweep", "ahead", T0 + 3600 * SECOND, 3) is not None
    second = await leases.acquire("sweep", "right", T0, 3)
    assert second is not None
    assert second.holder == "right"


async def test_of_many_who_ask_one_gets_it(leases: LeaseStore) -> None:
    for moment in (T0, T0 + 10 * SECOND):
        acquired = await asyncio.gather(*(leases.acquire("sweep", f"w-{n}", moment, 3) for n in range(10)))
        assert sum(lease is not None for lease in acquired) == 1


async def test_a_finding_is_retained_until_it_is_withdrawn(reports: CorruptionReports) -> None:
    assert await reports.report("loop:ada", "torn", T0)
    assert not await reports.report("loop:ada", "torn again", T0 + SECOND)
    assert await reports.report("loop:bob", "torn", T0 - SECOND)
    assert list(await reports.list_reasons(10)) == ["loop:bob", "loop:ada"]
    assert list(await reports.list_reasons(1)) == ["loop:bob"]
    assert await reports.list_reasons(10) == {"loop:bob": "torn", "loop:ada": "torn"}
    await reports.withdraw(["loop:bob", "loop:eve"])
    await reports.withdraw([])
    assert list(await reports.list_reasons(10)) == ["loop:ada"]
