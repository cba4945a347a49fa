"""The contract of AuditStore."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from msgspec import UNSET, structs

from app.contracts.audit import AuditAct, AuditEntry, AuditFilter, UnreadableEntry
from app.contracts.ports.audit import AuditStore
from app.flow.audit_chain import AuditChain, seal
from app.services.audit.writer import AuditWriter, NewEntry
from models.audit_store import MongoAuditStore
from models.database import Database
from tests.support.fake_audit import FakeAuditStore
from tests.support.fakes import FakeClock
from tests.support.samples import T0

PORTS = (AuditStore,)

ACT = AuditAct(
    action="state.pause",
    target="state:order",
    actor="root",
    client="http",
    subject="user:4f",
    address="192.0.2.7",
    request_id="r-1",
    before="ab" * 32,
    after="cd" * 32,
    details={"revision": 3, "changed": True, "kind": "paused", "big": 2**53},
)


def entry(sequence: int = 1, previous: str = "", **members: Any) -> AuditEntry:
    made = AuditEntry(sequence, T0, ACT, "started", previous, "")
    return seal(structs.replace(made, **members))


@pytest.fixture
def connect(database: Database | None) -> Callable[[], AuditStore]:
    """Builds the store of one more worker."""
    fake = FakeAuditStore()
    return lambda: fake if database is None else MongoAuditStore(database)


@pytest.fixture
def store(connect: Callable[[], AuditStore]) -> AuditStore:
    return connect()


async def test_an_entry_is_read_as_it_was_appended(store: AuditStore) -> None:
    first = entry()
    bare = AuditAct("flow.purge", "states", "cli:ops", "cli")
    second = entry(2, first.hash, act=bare, outcome="failed", of=1, error="STORE_UNAVAILABLE")
    assert await store.last() is None
    assert await store.append([first, second]) == 2
    assert await store.read(0, 10) == [first, second]
    assert await store.last() == second


async def test_a_sequence_is_used_once(store: AuditStore) -> None:
    first, second = entry(), entry(2)
    assert await store.append([first]) == 1
    other = entry(1, outcome="done")
    assert await store.append([other, second]) == 0
    assert await store.read(0, 10) == [first]


async def test_entries_before_a_used_sequence_are_stored(store: AuditStore) -> None:
    theirs = entry(3, "theirs")
    await store.append([theirs])
    assert await store.append([entry(1), entry(2), entry(3), entry(4)]) == 2
    assert [each.sequence for each in await store.read(0, 10)] == [1, 2, 3]
    assert await store.last() == theirs


async def test_pages_continue_after_a_sequence_in_the_order_of_numbers(store: AuditStore) -> None:
    await store.append([entry(n) for n in range(1, 13)])
    assert [each.sequence for each in await store.read(8, 3)] == [9, 10, 11]
    assert [each.sequence for each in await store.read(11, 3)] == [12]
    assert await store.read(12, 3) == []


@pytest.mark.parametrize(
    ("only", "found"),
    [
        (AuditFilter(action="user.erase"), [2]),
        (AuditFilter(action="state.*"), [1, 3]),
        (AuditFilter(action="stat"), []),
        (AuditFilter(target="flow:x"), [2]),
        (AuditFilter(actor="ada"), [3]),
        (AuditFilter(subject="user:4f"), [1, 3]),
        (AuditFilter(since=T0 + timedelta(seconds=1)), [3]),
        (AuditFilter(action="state.*", actor="root"), [1]),
        (AuditFilter(action="state.*", actor="root", since=T0 + timedelta(seconds=1)), []),
    ],
)
async def test_filters(store: AuditStore, only: AuditFilter, found: list[int]) -> None:
    erased = AuditAct("user.erase", "flow:x", "root", "cli", subject=UNSET)
    await store.append(
        [
            entry(1),
            entry(2, act=erased),
            entry(3, act=structs.replace(ACT, actor="ada"), at=T0 + timedelta(seconds=1)),
        ]
    )
    assert [each.sequence for each in await store.read(0, 10, only)] == found


async def test_workers_that_append_together_make_one_chain_without_gaps(
    connect: Callable[[], AuditStore],
) -> None:
    writers = [AuditWriter(connect(), FakeClock()) for _ in range(3)]

    async def append(number: int) -> AuditEntry:
        act = structs.replace(ACT, details={"number": number})
        return await writers[number % 3].append(NewEntry(act, "started"))

    stored = await asyncio.gather(*(append(n) for n in range(60)))
    found = await connect().read(0, 100)
    assert sorted(stored, key=lambda each: each.sequence) == found
    chain = AuditChain()
    for each in found:
        chain.add(each)
    assert chain.result().broken is None
    assert chain.result().entries == 60
    assert not any(isinstance(each, UnreadableEntry) for each in found)
