"""The holder of a lease knows when it has it."""

import asyncio

import pytest

from app.contracts.errors import StoreUnavailableError
from app.services.jobs import lease
from app.services.jobs.lease import LeaseHolder
from tests.support.fakes import FakeClock, FakeLeaseStore
from tests.support.waiting import until


async def test_one_of_two_has_it_and_the_other_after_it() -> None:
    store, clock = FakeLeaseStore(), FakeClock()
    one, two = LeaseHolder(store, clock, "sweep"), LeaseHolder(store, clock, "sweep")
    await one.acquire()
    await two.acquire()
    assert (one.held, two.held) == (True, False)
    await one.release()
    await two.acquire()
    assert (one.held, two.held) == (False, True)


async def test_a_holder_that_slept_past_its_lease_has_lost_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.02)
    store, clock = FakeLeaseStore(), FakeClock()
    one = LeaseHolder(store, clock, "sweep")
    for _ in range(2):
        await one.acquire()
        assert one.held
        await until(lambda: not one.held)


@pytest.mark.expected_logs("lease renewal failed")
@pytest.mark.parametrize("fault", [StoreUnavailableError(), KeyError("until")])
async def test_it_goes_on_asking_whatever_happens(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    monkeypatch.setattr(lease, "RENEW_EVERY_SECONDS", 0.0)
    store, clock = FakeLeaseStore(), FakeClock()
    holder = LeaseHolder(store, clock, "sweep")
    acquire, failed = store.acquire, asyncio.Event()

    async def fail_once(*asked: object) -> object:
        if not failed.is_set():
            failed.set()
            raise fault
        return await acquire(*asked)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "acquire", fail_once)
    task = asyncio.create_task(holder.run())
    async with asyncio.timeout(5):
        while not holder.held:
            await asyncio.sleep(0)
    task.cancel()
    assert failed.is_set()
