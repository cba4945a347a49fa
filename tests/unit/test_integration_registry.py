"""The registry: registrations in the memory of every worker."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec import structs

from app.contracts.callers import trusted_caller
from app.contracts.deliveries import LaneId, LanePosition, Mark
from app.contracts.errors import ServiceConflictError, ServiceNotFoundError, StoreUnavailableError
from app.contracts.integration import Integration
from app.contracts.integration_commands import RegistrationCommand
from app.contracts.state import StateId
from app.services.integrations import registry as registries
from app.services.integrations.registry import IntegrationRegistry
from tests.support.fake_integrations import FakeIntegrationStore
from tests.support.fakes import FakeBus, FakeClock
from tests.support.rig import Rig, rig
from tests.support.samples import T0

ROOT = trusted_caller("root")
USER = Integration(alias="user", registered_at=T0, updated_at=T0)
PAYMENT = Integration(alias="payment", registered_at=T0, updated_at=T0)


class Store(FakeIntegrationStore):
    """Reads wait while ``gate`` is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = asyncio.Event()

    async def list_all(self) -> list[Integration]:
        found = await super().list_all()
        self.waiting.set()
        await self.gate.wait()
        return found


def make(store: FakeIntegrationStore, bus: FakeBus | None = None) -> IntegrationRegistry:
    return IntegrationRegistry(store, bus or FakeBus(), FakeClock(), settle_seconds=0)


async def test_what_was_not_read_yet_is_not_taken_for_nothing() -> None:
    store = FakeIntegrationStore()
    await store.put(USER, None)
    registry = make(store)
    assert list(registry.registered) == []
    assert await registry.current() == (USER,)
    assert list(registry.registered) == [USER]
    assert registry.find("user") == USER
    assert registry.find("payment") is None

    unreadable = make(store)
    store.failure = StoreUnavailableError()
    with pytest.raises(StoreUnavailableError):
        await unreadable.current()
    store.failure = None
    assert await unreadable.current() == (USER,)


async def test_registrations_in_memory_need_no_command() -> None:
    store = FakeIntegrationStore()
    registry = make(store)
    await registry.current()
    for _ in range(100):
        assert await registry.current() == ()
    assert store.reads == 1


async def test_concurrent_readers_share_one_read() -> None:
    store = Store()
    store.gate.clear()
    registry = make(store)
    readers = [asyncio.create_task(registry.current()) for _ in range(20)]
    await store.waiting.wait()
    store.gate.set()
    assert await asyncio.gather(*readers) == [()] * 20
    assert store.reads == 1


async def test_an_announced_change_is_read_before_the_next_use() -> None:
    store, bus = FakeIntegrationStore(), FakeBus()
    here, there = make(store, bus), make(store, bus)
    assert await there.current() == ()
    assert await here.add(USER)
    assert here.registered == (USER,)
    assert await there.current() == (USER,)


async def test_a_change_during_a_read_is_read_too() -> None:
    store, bus = Store(), FakeBus()
    there = make(store, bus)
    store.gate.clear()
    reading = asyncio.create_task(there.current())
    await store.waiting.wait()  # it has read that there are none
    await store.put(USER, None)
    there.invalidate()
    store.gate.set()
    assert await reading == (USER,)


async def test_a_worker_without_redis_reads_a_change_within_the_time_to_settle() -> None:
    store = FakeIntegrationStore()
    there = make(store)
    late = IntegrationRegistry(store, FakeBus(), FakeClock(), max_age_seconds=-1)
    assert await there.current() == await late.current() == ()
    await store.put(USER, None)
    assert await there.current() == (), "nobody announced it, and the registrations are recent"
    assert await late.current() == (USER,)
    assert registries.MAX_AGE_SECONDS <= registries.SETTLE_SECONDS


async def test_a_gap_of_events_invalidates() -> None:
    store, bus = FakeIntegrationStore(), FakeBus()
    there = make(store, bus)
    assert await there.current() == ()
    await store.put(USER, None)
    bus.mend(datetime(2026, 1, 1, tzinfo=UTC))
    assert await there.current() == (USER,)


async def test_the_background_job_reads_what_was_announced_and_survives_an_outage() -> None:
    store, bus = Store(), FakeBus()
    there = make(store, bus)
    job = asyncio.create_task(there.run())
    await store.waiting.wait()
    store.failure = StoreUnavailableError()
    there.invalidate()
    await asyncio.sleep(0)
    store.failure = None
    await store.put(USER, None)
    store.waiting.clear()
    there.invalidate()
    await store.waiting.wait()
    await there.current()
    assert there.registered == (USER,)
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)


@pytest.mark.expected_logs("registration change not announced")
async def test_a_change_that_cannot_be_announced_is_stored() -> None:
    store, bus = FakeIntegrationStore(), FakeBus()
    registry = make(store, bus)
    bus.broken = True
    assert await registry.add(USER)
    assert registry.registered == (USER,)


async def test_a_change_is_made_upon_the_one_that_came_first() -> None:
    store = FakeIntegrationStore()
    registry = make(store)
    await registry.add(USER)
    seen: list[int] = []

    def change(found: Integration) -> Integration:
        seen.append(found.revision)
        if len(seen) == 1:
            store.integrations["user"] = structs.replace(found, rate=5, revision=1)
        return structs.replace(found, thin=True)

    changed = await registry.change("user", change)
    assert seen == [0, 1]
    assert (changed.thin, changed.rate, changed.revision) == (True, 5, 2)
    assert registry.find("user") == changed
    assert await registry.change("user", lambda found: found) == changed, "nothing to store"
    assert await registry.change("user", change, expected=[2]) == changed
    with pytest.raises(ServiceConflictError):
        await registry.change("user", change, expected=[1])
    with pytest.raises(ServiceNotFoundError):
        await registry.change("nobody", change)

    def contested(found: Integration) -> Integration:
        store.integrations["user"] = structs.replace(found, revision=found.revision + 1)
        return structs.replace(found, rate=100 + found.revision)

    with pytest.raises(ServiceConflictError):
        await registry.change("user", contested)


@pytest.mark.expected_logs("service disabled by its receiver")
async def test_a_receiver_ends_its_subscription() -> None:
    store = FakeIntegrationStore()
    registry = make(store)
    await registry.add(USER)
    await registry.disable_by_receiver("user", "answered 410")
    found = registry.find("user")
    assert found is not None
    assert (found.enabled, found.disabled_reason, found.disabled_by) == (False, "answered 410", "receiver")
    await registry.disable_by_receiver("user", "answered 410 again")
    await registry.disable_by_receiver("nobody", "answered 410")
    assert registry.find("user") == found


async def test_a_registration_waits_until_all_workers_know_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that another worker commits after the answer is not taken for one that concerns nobody."""
    settled: list[Any] = []
    made = Rig()

    async def settle(self: IntegrationRegistry) -> None:
        settled.append([each.alias for each in self.registered])

    monkeypatch.setattr(IntegrationRegistry, "settle", settle)
    register = made.service.integrations.administration.register
    await register("user", RegistrationCommand(), ROOT)
    assert settled == [["user"]], "stored and announced first"
    await register("user", RegistrationCommand(events=("flow.completed",)), ROOT)
    assert len(settled) == 2, "it may concern other changes now"
    await register("user", RegistrationCommand(events=("flow.completed",), rate=9), ROOT)
    await register("user", RegistrationCommand(rate=9), ROOT)
    assert len(settled) == 2, "these select no changes"


@pytest.mark.expected_logs("registration change not announced")
async def test_no_change_is_lost_that_another_worker_commits_after_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other worker has read that there are no services, and nobody announces the registration to it."""
    defaults = IntegrationRegistry.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "max_age_seconds", registries.MAX_AGE_SECONDS / 10)
    here = await rig()
    here.settle_seconds = registries.SETTLE_SECONDS / 10
    other = here.make()
    assert await other.integrations.registry.current() == ()
    here.bus.broken = True
    register = here.make().integrations.administration.register
    await register("svc", RegistrationCommand(), ROOT)
    here.bus.broken = False
    await other.as_trusted().start_flow("ada", "loop")
    (stored,) = here.states.stored.values()
    await other.background.relay.deliver(stored.pending)
    assert [lane.id for lane in here.lanes.lanes.values()] == [LaneId("svc", StateId("loop", "ada"))]


async def test_changes_are_called_back_and_nothing_else() -> None:
    store, calls = FakeIntegrationStore(), []
    registry = make(store)
    registry.on_changed(lambda: calls.append(registry.registered))
    await store.put(USER, None)
    await registry.refresh()
    await registry.refresh()
    assert calls == [(USER,)]
    changed = await registry.change("user", lambda found: structs.replace(found, enabled=False))
    await store.delete("user")
    await registry.refresh()
    assert calls == [(USER,), (changed,), ()]


async def test_a_service_that_is_registered_anew_during_its_removal_loses_nothing() -> None:
    made = await rig()
    made.settle_seconds = 0.05
    service = made.make()
    administration = service.integrations.administration
    await administration.register("svc", RegistrationCommand(), ROOT)
    removal = asyncio.create_task(administration.remove("svc", ROOT))
    while await made.registrations.get("svc") is not None:
        await asyncio.sleep(0)
    anew = asyncio.create_task(administration.register("svc", RegistrationCommand(), ROOT))
    while await made.registrations.get("svc") is None:
        await asyncio.sleep(0)
    lane = LaneId("svc", StateId("loop", "ada"))
    await made.lanes.mark([Mark("svc", lane.state_id, LanePosition("e", 0), T0)], T0)
    await asyncio.gather(removal, anew)
    assert await made.lanes.get(lane) is not None
