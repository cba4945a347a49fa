"""The contract of ApiKeyStore."""

import asyncio
from datetime import timedelta

import pytest
from msgspec import UNSET, structs

from app.contracts.integration import ApiKey
from app.contracts.ports.integrations import ApiKeyStore
from models.database import Database
from models.integrations.api_keys import MongoApiKeyStore
from tests.support.fake_api_keys import FakeApiKeyStore
from tests.support.samples import T0

PORTS = (ApiKeyStore,)
MINUTE = timedelta(minutes=1)
KEY = ApiKey(id="k1", alias="payment", hashed="ab" * 32, name="ci", created_at=T0, created_by="root")


@pytest.fixture
def keys(database: Database | None) -> ApiKeyStore:
    return FakeApiKeyStore() if database is None else MongoApiKeyStore(database)


async def test_a_key_is_read_as_it_was_stored(keys: ApiKeyStore) -> None:
    whole = structs.replace(KEY, id="k2", expires_at=T0 + MINUTE)
    assert await keys.get("k1") is None
    for key in (KEY, whole):
        await keys.add(key)
        assert await keys.get(key.id) == key


async def test_keys_of_an_integration_are_listed_oldest_first(keys: ApiKeyStore) -> None:
    later = structs.replace(KEY, id="a", created_at=T0 + MINUTE)
    for key in (later, KEY, structs.replace(KEY, id="k3", alias="user")):
        await keys.add(key)
    await keys.revoke("payment", "k1", T0 + MINUTE)
    assert [key.id for key in await keys.of_integration("payment")] == ["k1", "a"]
    assert await keys.of_integration("nobody") == []


async def test_a_key_is_revoked_once_and_by_its_own_integration_alone(keys: ApiKeyStore) -> None:
    await keys.add(KEY)
    assert not await keys.revoke("user", "k1", T0)
    assert not await keys.revoke("payment", "k2", T0)
    assert await keys.get("k1") == KEY
    assert await keys.revoke("payment", "k1", T0)
    assert not await keys.revoke("payment", "k1", T0 + MINUTE)
    assert await keys.get("k1") == structs.replace(KEY, revoked_at=T0)


async def test_of_concurrent_revocations_one_is_first(keys: ApiKeyStore) -> None:
    await keys.add(structs.replace(KEY, expires_at=T0 + MINUTE))
    done = await asyncio.gather(*(keys.revoke("payment", "k1", T0) for _ in range(30)))
    assert done.count(True) == 1


async def test_the_latest_use_is_stored(keys: ApiKeyStore) -> None:
    await keys.add(KEY)
    for at, latest in ((T0 + MINUTE, T0 + MINUTE), (T0, T0 + MINUTE), (T0 + 2 * MINUTE, T0 + 2 * MINUTE)):
        await keys.note_use("k1", at)
        assert await keys.get("k1") == structs.replace(KEY, last_used_at=latest)
    await keys.note_use("k2", T0)
    assert await keys.get("k2") is None, "a use makes no key"


async def test_a_use_does_not_undo_a_revocation(keys: ApiKeyStore) -> None:
    await keys.add(KEY)
    await keys.revoke("payment", "k1", T0)
    await keys.note_use("k1", T0)
    found = await keys.get("k1")
    assert found is not None
    assert (found.revoked_at, found.expires_at) == (T0, UNSET)


async def test_all_keys_of_an_integration_are_removed(keys: ApiKeyStore) -> None:
    other = structs.replace(KEY, id="k3", alias="user")
    for key in (KEY, structs.replace(KEY, id="k2"), other):
        await keys.add(key)
    assert await keys.delete_of("payment") == 2
    assert await keys.delete_of("payment") == 0
    assert await keys.of_integration("user") == [other]
