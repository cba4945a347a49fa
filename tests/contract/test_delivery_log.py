"""The contract of DeliveryLog."""

import asyncio
from datetime import timedelta

import pytest
from msgspec import structs

from app.contracts.deliveries import LoggedDelivery
from app.contracts.ports.deliveries import DeliveryLog
from app.contracts.state import StateId
from models.database import Database
from models.integrations.log import MongoDeliveryLog
from tests.support.fake_deliveries import FakeDeliveryLog
from tests.support.samples import T0

PORTS = (DeliveryLog,)
ADA, BOB = StateId("loop", "ada"), StateId("loop", "bob", "e-1")
DAY = timedelta(days=1)


@pytest.fixture
def log(database: Database | None) -> DeliveryLog:
    return FakeDeliveryLog() if database is None else MongoDeliveryLog(database)


@pytest.fixture
def workers(database: Database | None) -> list[DeliveryLog]:
    """The logs of several workers on the same data."""
    if database is None:
        return [FakeDeliveryLog()] * 4
    return [MongoDeliveryLog(database) for _ in range(4)]


def delivery(event_id: str = "evt_1", alias: str = "pay", state_id: StateId = ADA) -> LoggedDelivery:
    return LoggedDelivery(
        id=event_id,
        alias=alias,
        state_id=state_id,
        epoch="e",
        revision=3,
        type="flow.step.entered",
        at=T0,
        delivered_at=T0 + DAY,
        transports=("webhook", "pull"),
    )


FULL = structs.replace(
    delivery("evt_full", state_id=BOB), attempts=3, status=200, replay=True, answered="go", refused="CONFLICT"
)


async def ids(log: DeliveryLog, after: int = 0, limit: int = 1000, alias: str = "pay") -> list[str]:
    return [entry.id for entry in await log.read(alias, after, limit)]


async def test_entries_are_numbered_for_each_integration(log: DeliveryLog) -> None:
    assert (await log.first("pay"), await log.last("pay"), await log.read("pay", 0, 10)) == (1, 0, [])
    assert await log.append("pay", [delivery(), FULL]) == 2
    assert await log.append("mail", [delivery("evt_m", "mail")]) == 1
    assert await log.append("pay", []) == 2
    assert await log.append("pay", [delivery("evt_3")]) == 3
    assert await log.read("pay", 0, 2) == [
        structs.replace(delivery(), sequence=1),
        structs.replace(FULL, sequence=2),
    ]
    assert [entry.sequence for entry in await log.read("pay", 1, 10)] == [2, 3]
    assert await log.read("pay", 3, 10) == await log.read("pay", 99, 10) == []
    assert (await log.first("pay"), await log.last("pay"), await log.last("mail")) == (1, 3, 1)


async def test_the_last_delivery_of_an_event_is_found(log: DeliveryLog) -> None:
    assert await log.find("evt_1") is None
    again = structs.replace(delivery(), delivered_at=T0 + 2 * DAY, replay=True)
    await log.append("pay", [delivery(), delivery("evt_2"), again])
    assert await log.find("evt_1") == structs.replace(again, sequence=3)


async def test_a_long_log_is_read_on_from_any_number(log: DeliveryLog, workers: list[DeliveryLog]) -> None:
    names = [f"evt_{n}" for n in range(1, 231)]
    for first in range(0, len(names), 46):
        await log.append("pay", [delivery(name) for name in names[first : first + 46]])
    assert await ids(log, limit=50) == names[:50]
    assert await ids(log, 200, 50) == names[200:]
    assert await ids(log) == names
    if isinstance(log, MongoDeliveryLog):
        assert await workers[0].last("pay") == len(names)  # of a worker that has not written
        assert await workers[1].append("pay", [delivery()]) == len(names) + 1


async def test_concurrent_writers_leave_no_gap_and_readers_miss_nothing(workers: list[DeliveryLog]) -> None:
    batches = [
        [f"{n}-{batch}-{each}" for each in range(batch % 3 + 1)] for n in range(8) for batch in range(6)
    ]
    written = asyncio.Event()

    async def write(log: DeliveryLog, mine: list[list[str]]) -> None:
        for batch in mine:
            await log.append("pay", [delivery(name) for name in batch])

    async def read(log: DeliveryLog) -> list[str]:
        """As a program that continues after the last number that it has seen."""
        seen: list[LoggedDelivery] = []
        while True:
            was_written = written.is_set()
            found = await log.read("pay", seen[-1].sequence if seen else 0, 7)
            seen += found
            assert [entry.sequence for entry in seen] == list(range(1, len(seen) + 1))
            if was_written and not found:
                return [entry.id for entry in seen]
            await asyncio.sleep(0)

    async def write_all() -> None:
        await asyncio.gather(*(write(workers[n % 4], batches[6 * n : 6 * n + 6]) for n in range(8)))
        written.set()

    async with asyncio.timeout(60):
        _, seen, also_seen = await asyncio.gather(write_all(), read(workers[0]), read(workers[3]))
    names = [name for batch in batches for name in batch]
    assert sorted(seen) == sorted(names)
    assert also_seen == seen
    places = {name: n for n, name in enumerate(seen)}
    for n in range(8):
        mine = [places[name] for batch in batches[6 * n : 6 * n + 6] for name in batch]
        assert mine == sorted(mine)  # each writer's own ones are in their order
    assert await workers[2].last("pay") == len(names)


async def test_old_entries_are_removed_and_the_numbers_go_on(
    log: DeliveryLog, workers: list[DeliveryLog]
) -> None:
    old = [structs.replace(delivery(f"evt_{n}"), delivered_at=T0 + n * DAY) for n in range(1, 6)]
    await log.append("pay", old)
    await log.append("mail", [delivery("evt_m", "mail")])
    assert await log.remove_expired(T0) == 0
    assert await log.remove_expired(T0 + 4 * DAY) == 3 + 1
    assert (await log.first("pay"), await log.last("pay"), await ids(log)) == (4, 5, ["evt_4", "evt_5"])
    assert await ids(log, 1, 1) == ["evt_4"]
    assert await log.remove_expired(T0 + 99 * DAY) == 2
    assert (await log.first("pay"), await log.last("pay"), await ids(log)) == (6, 5, [])
    assert (await log.first("mail"), await log.last("mail")) == (2, 1)
    other = workers[0] if isinstance(log, MongoDeliveryLog) else log
    assert await other.last("pay") == 5
    assert await other.append("pay", [delivery("evt_6")]) == 6
    assert await log.append("pay", [delivery("evt_7")]) == 7
    assert await ids(log) == ["evt_6", "evt_7"]


async def test_entries_end_with_their_integration_and_with_their_state(
    log: DeliveryLog, workers: list[DeliveryLog]
) -> None:
    other = workers[0] if isinstance(log, MongoDeliveryLog) else log
    await log.append("pay", [delivery(), FULL])
    await other.append("pay", [delivery("evt_3", state_id=BOB), delivery("evt_4")])
    await log.append("mail", [delivery("evt_m", "mail", BOB)])
    assert await log.delete_of_state(BOB) == 3
    assert await log.delete_of_state(BOB) == 0
    assert (await ids(log), await ids(log, 1, 1), await log.find("evt_full")) == (
        ["evt_1", "evt_4"],
        ["evt_4"],
        None,
    )
    assert await log.delete_of_integration("pay") == 2
    assert await log.delete_of_integration("pay") == 0
    assert (await ids(log), await log.last("pay"), await log.last("mail")) == ([], 4, 1)
    assert await log.append("pay", [delivery("evt_5")]) == 5
    assert await other.append("pay", [delivery("evt_6")]) == 6
    assert await ids(other) == ["evt_5", "evt_6"]
