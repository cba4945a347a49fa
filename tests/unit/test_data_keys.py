"""Data keys in a process: the cache, first use, erasure, and faults of stored keys."""

import asyncio
from collections.abc import Sequence

import pytest
from msgspec import structs

from app.contracts.errors import StoreUnavailableError
from app.contracts.ports.ciphers import Unopened
from app.contracts.ports.keys import DataKeyRing
from app.crypto.data_keys import DataKey, DataKeys
from tests.support.fake_data_keys import FakeDataKeyStore, FakeKeyWrapping
from tests.support.fakes import FakeClock
from tests.support.samples import T0

ADA = "user:ada"


class Ticks:
    """A monotonic clock."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def store() -> FakeDataKeyStore:
    return FakeDataKeyStore()


@pytest.fixture
def wrapping() -> FakeKeyWrapping:
    return FakeKeyWrapping("local:a")


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def keys(store: FakeDataKeyStore, wrapping: FakeKeyWrapping, ticks: Ticks) -> DataKeys:
    return worker(store, wrapping, ticks)


def worker(store: FakeDataKeyStore, wrapping: FakeKeyWrapping, ticks: Ticks) -> DataKeys:
    return DataKeys(store, wrapping, FakeClock(T0), max_owners=3, max_age_seconds=60, now=ticks)


async def sealing(keys: DataKeys, owner: str = ADA) -> DataKey:
    return (await keys.load_sealing([owner]))[owner]


async def opening(keys: DataKeys, key_id: bytes, owner: str = ADA) -> DataKey | Unopened:
    return (await keys.load_opening([(owner, key_id)]))[owner, key_id]


async def test_a_key_is_created_at_its_first_use_and_cached(keys: DataKeys, store: FakeDataKeyStore) -> None:
    assert keys.sealing_key(ADA) is None
    key = await sealing(keys)
    assert keys.sealing_key(ADA) is key
    assert keys.opening_key(ADA, key.id) is key
    stored = store.rings[ADA].current
    assert stored is not None
    assert (stored.id, stored.commitment, stored.created_at) == (key.id.hex(), key.commitment, T0)


async def test_keys_of_many_owners_are_read_at_once(keys: DataKeys, store: FakeDataKeyStore) -> None:
    await sealing(keys)
    store.loads.clear()
    found = await keys.load_sealing([ADA, "user:eve", "service"])
    assert len({key.id for key in found.values()}) == 3
    assert store.loads == [[ADA, "user:eve", "service"]]


async def test_a_cached_key_is_read_again_after_a_while_but_not_unwrapped(
    keys: DataKeys, store: FakeDataKeyStore, wrapping: FakeKeyWrapping, ticks: Ticks
) -> None:
    key = await sealing(keys)
    ticks.seconds = 60
    assert keys.sealing_key(ADA) is None
    assert keys.opening_key(ADA, key.id) is None
    assert await sealing(keys) is key
    assert wrapping.unwrapped == 0
    assert keys.sealing_key(ADA) is key
    assert len(store.loads) == 2


async def test_the_cache_is_bounded(keys: DataKeys) -> None:
    for number in range(4):
        await sealing(keys, f"user:{number}")
    assert [keys.sealing_key(f"user:{number}") is None for number in range(4)] == [True, False, False, False]


async def test_two_workers_at_once_create_one_key(
    store: FakeDataKeyStore, wrapping: FakeKeyWrapping, ticks: Ticks
) -> None:
    workers = [worker(store, wrapping, ticks) for _ in range(2)]
    found = await asyncio.gather(*(sealing(keys) for keys in workers for _ in range(3)))
    assert len({key.id for key in found}) == 1
    assert len({key.commitment for key in found}) == 1


async def test_a_retired_key_opens_until_it_is_destroyed(keys: DataKeys) -> None:
    first = await sealing(keys)
    await keys.retire("ada")
    second = await sealing(keys)
    assert second.id != first.id
    found = await opening(keys, first.id)
    assert isinstance(found, DataKey)
    assert found.commitment == first.commitment
    assert await keys.destroy("ada", T0, "root") == [first.id.hex()]
    assert await opening(keys, first.id) is Unopened.ERASED
    assert keys.opening_key(ADA, first.id) is Unopened.ERASED
    assert keys.sealing_key(ADA) is None
    assert (await sealing(keys)).id == second.id


async def test_another_worker_forgets_the_keys_of_an_erased_user(
    keys: DataKeys, store: FakeDataKeyStore, wrapping: FakeKeyWrapping, ticks: Ticks
) -> None:
    other = worker(store, wrapping, ticks)
    first, eve = await sealing(other), await sealing(other, "user:eve")
    await keys.retire("ada")
    await keys.destroy("ada", T0, "root")
    other.forget("ada")
    assert other.sealing_key(ADA) is None
    assert other.sealing_key("user:eve") is eve
    assert await opening(other, first.id) is Unopened.ERASED
    other.forget_all()
    assert other.sealing_key("user:eve") is None


async def test_a_key_that_is_forgotten_while_it_is_read_is_not_cached(
    wrapping: FakeKeyWrapping, ticks: Ticks
) -> None:
    class SlowStore(FakeDataKeyStore):
        """Reads when it may."""

        def __init__(self) -> None:
            super().__init__()
            self.reading, self.may_end = asyncio.Event(), asyncio.Event()

        async def load_many(self, owners: Sequence[str]) -> dict[str, DataKeyRing]:
            found = dict(await super().load_many(owners))
            self.reading.set()
            await self.may_end.wait()
            return found

    store = SlowStore()
    store.may_end.set()
    await sealing(worker(store, wrapping, ticks))
    store.may_end.clear()
    store.reading.clear()
    keys = worker(store, wrapping, ticks)
    loading = asyncio.create_task(sealing(keys))
    await store.reading.wait()
    keys.forget("ada")
    store.may_end.set()
    await loading
    assert keys.sealing_key(ADA) is None


async def test_an_unknown_key_is_damaged(keys: DataKeys) -> None:
    assert await opening(keys, b"8 bytes!") is Unopened.DAMAGED
    await sealing(keys)
    assert await opening(keys, b"8 bytes!") is Unopened.DAMAGED


async def test_a_key_that_another_worker_created_since_is_found(
    keys: DataKeys, store: FakeDataKeyStore, wrapping: FakeKeyWrapping, ticks: Ticks
) -> None:
    await sealing(keys)
    other = worker(store, wrapping, ticks)
    await other.retire("ada")
    created = await sealing(other)
    found = await opening(keys, created.id)
    assert isinstance(found, DataKey)
    assert keys.sealing_key(ADA) is found, "the key of this worker was retired"


@pytest.mark.expected_logs("data key damaged")
@pytest.mark.parametrize("member", ["wrapped", "commitment"])
async def test_a_changed_key_neither_seals_nor_opens(
    store: FakeDataKeyStore, wrapping: FakeKeyWrapping, ticks: Ticks, member: str
) -> None:
    key = await sealing(worker(store, wrapping, ticks))
    await sealing(worker(store, wrapping, ticks), "user:eve")
    mine, theirs = store.rings[ADA].current, store.rings["user:eve"].current
    assert mine is not None
    changed = structs.replace(mine, **{member: getattr(theirs, member)})
    store.rings[ADA] = DataKeyRing(ADA, changed)
    keys = worker(store, wrapping, ticks)
    assert await opening(keys, key.id) is Unopened.DAMAGED
    with pytest.raises(StoreUnavailableError, match="changed"):
        await sealing(keys)


@pytest.mark.expected_logs("wrapping key missing")
async def test_a_missing_wrapping_key_is_no_damage(store: FakeDataKeyStore, ticks: Ticks) -> None:
    key = await sealing(worker(store, FakeKeyWrapping("local:b"), ticks))
    keys = worker(store, FakeKeyWrapping("local:a"), ticks)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match="FLOW_ENCRYPTION_KEYS lacks the key local:b"):
            await opening(keys, key.id)
        with pytest.raises(StoreUnavailableError, match="local:b"):
            await sealing(keys)
    assert (await sealing(keys, "user:eve")).id != key.id


async def test_an_unavailable_store_or_key_service_is_an_outage(
    keys: DataKeys, store: FakeDataKeyStore, wrapping: FakeKeyWrapping
) -> None:
    store.broken = True
    with pytest.raises(StoreUnavailableError):
        await sealing(keys)
    store.broken, wrapping.broken = False, True
    with pytest.raises(StoreUnavailableError):
        await sealing(keys)
    assert store.rings == {}
