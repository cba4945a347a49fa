"""The contract of IntegrationStore."""

import asyncio
from datetime import timedelta

import pytest
from msgspec import UNSET, structs

from app.contracts.integration import (
    BacklogPolicy,
    Heartbeat,
    Integration,
    IntegrationHealth,
    IntegrationSecret,
)
from app.contracts.ports.integrations import IntegrationStore
from models.database import Database
from models.integrations.registrations import MongoIntegrationStore
from tests.support.fake_integrations import FakeIntegrationStore
from tests.support.samples import T0

PORTS = (IntegrationStore,)

USER = Integration(alias="user", registered_at=T0, updated_at=T0)
FULL = Integration(
    alias="payment",
    url="https://payment.example/events",
    events=("flow.completed", "flow.step.entered"),
    flows=("checkout",),
    steps=("pay", "checkout/refund"),
    stream=True,
    rate=50,
    concurrency=3,
    thin=True,
    fields=("/order/id",),
    enabled=False,
    disabled_reason="maintenance",
    disabled_by="administrator",
    secrets=(
        IntegrationSecret("b", "whsec_bmV3", T0),
        IntegrationSecret("a", "whsec_b2xk", T0, T0 + timedelta(days=1)),
    ),
    backlog=BacklogPolicy("newest", T0),
    heartbeat=Heartbeat("degraded", T0, "slow"),
    waiting_listed=True,
    registered_at=T0,
    updated_at=T0 + timedelta(hours=1),
    revision=7,
)


@pytest.fixture
def store(database: Database | None) -> IntegrationStore:
    return FakeIntegrationStore() if database is None else MongoIntegrationStore(database)


async def health_of(store: IntegrationStore, alias: str) -> IntegrationHealth:
    (found,) = [health for health in await store.list_health() if health.alias == alias]
    return found


async def test_registrations_are_stored_whole_and_listed_by_alias(store: IntegrationStore) -> None:
    assert await store.list_all() == []
    assert await store.get("user") is None
    assert await store.put(USER, None)
    assert await store.put(FULL, None)
    assert await store.list_all() == [FULL, USER]
    assert await store.get("payment") == FULL
    assert await store.get("user") == USER
    assert await store.list_health() == [IntegrationHealth(alias="payment"), IntegrationHealth(alias="user")]


async def test_a_registration_replaces_the_revision_that_it_names(store: IntegrationStore) -> None:
    await store.put(FULL, None)
    assert not await store.put(USER, 0), "there is none to replace"
    assert not await store.put(FULL, None), "there is one already"
    changed = structs.replace(
        FULL,
        url=None,
        enabled=True,
        disabled_reason=UNSET,
        disabled_by=UNSET,
        backlog=UNSET,
        events=None,
        secrets=(),
        revision=8,
    )
    assert not await store.put(changed, 6)
    assert await store.get("payment") == FULL
    assert await store.put(changed, 7)
    assert await store.get("payment") == changed
    assert not await store.put(changed, 7)


async def test_of_concurrent_registrations_one_is_stored(store: IntegrationStore) -> None:
    several = [structs.replace(USER, concurrency=n, revision=1) for n in range(1, 9)]
    stored = await asyncio.gather(*(store.put(each, None) for each in several))
    assert stored.count(True) == 1
    assert await store.get("user") == several[stored.index(True)]
    several = [structs.replace(USER, concurrency=n, revision=2) for n in range(11, 19)]
    stored = await asyncio.gather(*(store.put(each, 1) for each in several))
    assert stored.count(True) == 1
    assert await store.get("user") == several[stored.index(True)]


async def test_a_heartbeat_changes_nothing_else_and_stays(store: IntegrationStore) -> None:
    first, second = Heartbeat("ok", T0), Heartbeat("down", T0 + timedelta(seconds=9), "no database")
    assert not await store.put_heartbeat("user", first)
    await store.put(USER, None)
    assert await store.put_heartbeat("user", second)
    assert await store.get("user") == structs.replace(USER, heartbeat=second)
    assert await store.put(structs.replace(USER, heartbeat=first, thin=True, revision=1), 0)
    assert await store.put(structs.replace(USER, heartbeat=UNSET, thin=False, revision=2), 1)
    assert await store.get("user") == structs.replace(USER, heartbeat=second, revision=2)


async def test_a_removed_registration_has_no_health(store: IntegrationStore) -> None:
    await store.put(USER, None)
    await store.put(FULL, None)
    await store.count("user", failed=1)
    assert await store.delete("user")
    assert not await store.delete("user")
    assert await store.list_all() == [FULL]
    assert [health.alias for health in await store.list_health()] == ["payment"]
    assert not await store.put_health(IntegrationHealth(alias="user", revision=1))
    assert await store.take_rate("user", 1, 1, 1) == 0
    await store.count("user", failed=1)
    assert await store.put(USER, None)
    assert await health_of(store, "user") == IntegrationHealth(alias="user"), "it begins anew"


async def test_health_replaces_the_revision_before(store: IntegrationStore) -> None:
    await store.put(USER, None)
    opened = IntegrationHealth(
        alias="user",
        breaker="open",
        failures=5,
        failing=("a", "b"),
        openings=1,
        next_probe_at=T0,
        allowed=1,
        reason="answered 500",
        revision=1,
    )
    await store.count("user", delivered=2, failed=5)
    assert not await store.put_health(structs.replace(opened, revision=2))
    assert await store.put_health(structs.replace(opened, delivered=99, window=99))
    assert await health_of(store, "user") == structs.replace(opened, delivered=2, failed=5)
    closed = IntegrationHealth(alias="user", revision=2)
    assert await store.put_health(closed)
    assert await health_of(store, "user") == structs.replace(closed, delivered=2, failed=5)


async def test_of_concurrent_changes_of_health_one_is_stored(store: IntegrationStore) -> None:
    await store.put(USER, None)
    probes = [IntegrationHealth(alias="user", breaker="probing", openings=n, revision=1) for n in range(8)]
    stored = await asyncio.gather(*(store.put_health(each) for each in probes))
    assert stored.count(True) == 1
    assert await health_of(store, "user") == probes[stored.index(True)]


async def test_counts_add_up(store: IntegrationStore) -> None:
    await store.put(USER, None)
    await asyncio.gather(*(store.count("user", delivered=1, failed=n, internal=2) for n in range(5)))
    await store.count("user")
    counted = await health_of(store, "user")
    assert (counted.delivered, counted.failed, counted.internal, counted.revision) == (5, 10, 10, 0)


async def test_all_workers_together_take_the_rate_of_a_second(store: IntegrationStore) -> None:
    await store.put(USER, None)
    assert await store.take_rate("user", 100, 3, 10) == 3
    assert await store.take_rate("user", 100, 9, 10) == 7
    assert await store.take_rate("user", 100, 1, 10) == 0
    assert await store.take_rate("user", 101, 1, 10) == 1
    assert await store.take_rate("user", 100, 9, 10) == 9, "a slower clock takes from the later second"
    assert await store.take_rate("user", 101, 1, 10) == 0
    assert await store.take_rate("user", 50, 4, 10) == 4, "a window far ahead was made by a wrong clock"
    for second in (51, 52, 53):
        taken = await asyncio.gather(*(store.take_rate("user", second, 3, 25) for _ in range(20)))
        assert sum(taken) == 25, second
