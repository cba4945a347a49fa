"""The contract of DataKeyStore."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest
from msgspec import structs

from app.contracts.ports.keys import DataKeyRing, DataKeyStore, DestroyedKey, WrappedKey
from models.data_keys import MongoDataKeyStore
from models.database import Database
from tests.support.fake_data_keys import FakeDataKeyStore
from tests.support.samples import T0

PORTS = (DataKeyStore,)
LATER = T0 + timedelta(minutes=1)


@pytest.fixture
def connect(database: Database | None) -> Callable[[], DataKeyStore]:
    """Builds the store of one more worker."""
    fake = FakeDataKeyStore()
    return lambda: fake if database is None else MongoDataKeyStore(database)


@pytest.fixture
def store(connect: Callable[[], DataKeyStore]) -> DataKeyStore:
    return connect()


def key(number: int, wrapped_by: str = "local:a") -> WrappedKey:
    return WrappedKey(f"{number:016x}", b"\x00w%d\xff" % number, wrapped_by, bytes([number % 256]) * 32, T0)


async def test_keys_are_read_as_they_were_stored(store: DataKeyStore) -> None:
    assert await store.load_many(["user:ada"]) == {}
    created = await store.create_many({"user:ada": key(1), "service": key(2)})
    assert created == {"user:ada": DataKeyRing("user:ada", key(1)), "service": DataKeyRing("service", key(2))}
    assert await store.load_many(["user:ada", "user:eve", "service"]) == created
    assert await store.load_many(["service"]) == {"service": created["service"]}


async def test_a_present_key_is_not_replaced(store: DataKeyStore) -> None:
    await store.create_many({"user:ada": key(1)})
    found = await store.create_many({"user:ada": key(2), "user:eve": key(3)})
    assert {owner: ring.current for owner, ring in found.items()} == {"user:ada": key(1), "user:eve": key(3)}
    assert await store.create_many({"user:ada": key(4)}) == {"user:ada": DataKeyRing("user:ada", key(1))}


async def test_workers_that_create_keys_together_end_with_one_key(
    connect: Callable[[], DataKeyStore],
) -> None:
    workers = [connect() for _ in range(4)]
    owners = [f"user:{n}" for n in range(6)]

    async def create(number: int) -> list[DataKeyRing]:
        store = workers[number % 4]
        if number % 2:
            return list((await store.create_many({owner: key(number) for owner in owners})).values())
        rings = await asyncio.gather(*(store.create_many({owner: key(number)}) for owner in owners))
        return [ring for each in rings for ring in each.values()]

    answers = await asyncio.gather(*(create(number) for number in range(8)))
    for number, owner in enumerate(owners):
        assert len({rings[number].current for rings in answers}) == 1, owner


async def test_an_erasure_retires_the_key_and_destroys_it(store: DataKeyStore) -> None:
    assert await store.retire("user:ada") is None
    assert await store.destroy_retired("user:ada", T0, "root") == []
    await store.create_many({"user:ada": key(1)})
    retired = DataKeyRing("user:ada", None, (key(1),))
    assert await store.retire("user:ada") == retired
    assert await store.retire("user:ada") == retired, "there is no current key to retire"
    assert retired.usable == (key(1),)
    found = await store.create_many({"user:ada": key(2)})
    assert found == {"user:ada": DataKeyRing("user:ada", key(2), (key(1),))}
    assert found["user:ada"].usable == (key(2), key(1))
    assert await store.destroy_retired("user:ada", LATER, "root") == [key(1).id]
    await store.retire("user:ada")
    assert await store.destroy_retired("user:ada", LATER, "eve") == [key(1).id, key(2).id]
    destroyed = (DestroyedKey(key(1).id, LATER, "root"), DestroyedKey(key(2).id, LATER, "eve"))
    assert await store.load_many(["user:ada"]) == {"user:ada": DataKeyRing("user:ada", None, (), destroyed)}


async def test_a_key_is_rewrapped_if_it_is_as_it_was_read(store: DataKeyStore) -> None:
    after = structs.replace(key(1), wrapped=b"new", wrapped_by="local:b")
    assert not await store.rewrap("user:ada", key(1), after)
    await store.create_many({"user:ada": key(1)})
    assert await store.rewrap("user:ada", key(1), after)
    assert not await store.rewrap("user:ada", key(1), after), "it is no longer as it was read"
    await store.retire("user:ada")
    await store.create_many({"user:ada": key(2)})
    again = structs.replace(after, wrapped=b"newer", wrapped_by="local:c")
    assert await store.rewrap("user:ada", after, again)
    assert (await store.load_many(["user:ada"]))["user:ada"] == DataKeyRing("user:ada", key(2), (again,))


async def test_a_rewrapping_and_an_erasure_at_once_leave_no_key(connect: Callable[[], DataKeyStore]) -> None:
    one, other = connect(), connect()
    await one.create_many({f"user:{n}": key(n) for n in range(10)})

    async def erase(owner: str) -> None:
        await one.retire(owner)
        await one.destroy_retired(owner, LATER, "root")

    rewrapped = [structs.replace(key(n), wrapped=b"new", wrapped_by="local:b") for n in range(10)]
    await asyncio.gather(
        *(erase(f"user:{n}") for n in range(10)),
        *(other.rewrap(f"user:{n}", key(n), rewrapped[n]) for n in range(10)),
    )
    rings = await one.load_many([f"user:{n}" for n in range(10)])
    assert [ring.usable for ring in rings.values()] == [()] * 10
    assert await one.count_by_wrapping() == {}


async def test_owners_with_keys_of_other_wrappings_are_listed_by_name(store: DataKeyStore) -> None:
    keys = {f"user:{n:02}": key(n, "local:b" if n % 3 else "local:a") for n in range(30)}
    await store.create_many(keys)
    await store.retire("user:00")
    await store.create_many({"user:00": key(50, "local:b")})
    found: list[str] = []
    while page := await store.wrapped_by_others("local:b", found[-1] if found else "", 4):
        found += [ring.owner for ring in page]
    assert found == [f"user:{n:02}" for n in range(0, 30, 3)]
    assert await store.wrapped_by_others("local:b", "user:27", 4) == []


async def test_wrappings_in_use_are_counted(store: DataKeyStore) -> None:
    assert await store.count_by_wrapping() == {}
    assert await store.other_wrappings([]) == []
    await store.create_many({f"user:{n}": key(n, f"local:{'abbddd'[n]}") for n in range(6)})
    await store.create_many({"service": key(9, "awskms:1")})
    await store.retire("user:0")
    await store.create_many({"user:0": key(8, "local:e")})
    await store.retire("user:3")
    await store.destroy_retired("user:3", T0, "root")
    counts = {"awskms:1": 1, "local:a": 1, "local:b": 2, "local:d": 2, "local:e": 1}
    assert await store.count_by_wrapping() == counts
    assert await store.other_wrappings([]) == sorted(counts)
    assert await store.other_wrappings(["local:b", "local:a", "local:c"]) == [
        "awskms:1",
        "local:d",
        "local:e",
    ]
    assert await store.other_wrappings(counts) == []
