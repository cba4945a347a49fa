"""The cache of API keys: bounded reads, and keys that are read again."""

import asyncio
from datetime import timedelta

import pytest
from msgspec import UNSET

from app.contracts.errors import RateLimitedError
from app.contracts.integration import ApiKey
from app.services.integrations.key_cache import (
    FRESH_SECONDS,
    MISSING_SECONDS,
    UNKNOWN_READS_BURST,
    KeyCache,
)
from tests.support.fake_api_keys import FakeApiKeyStore
from tests.support.samples import T0


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_unknown_ids_are_read_at_a_bounded_rate_and_known_keys_always() -> None:
    store, clock = FakeApiKeyStore(), _Clock()
    cache = KeyCache(store, clock)
    key = ApiKey(id="known", alias="payment", hashed="", created_at=T0, created_by="root")
    await store.add(key)
    assert await cache.find("known") == key
    reads = store.reads
    for n in range(int(UNKNOWN_READS_BURST) - 1):
        assert await cache.find(f"id-{n}") is None
        assert await cache.find(f"id-{n}") is None
    assert store.reads == reads + UNKNOWN_READS_BURST - 1
    with pytest.raises(RateLimitedError):
        await cache.find("one too many")
    clock.now += FRESH_SECONDS
    cache.invalidate()
    for n in range(int(UNKNOWN_READS_BURST)):
        assert await cache.find(f"later-{n}") is None
    with pytest.raises(RateLimitedError):
        await cache.find("again too many")
    assert await cache.find("known") == key


async def test_keys_and_missing_ids_are_read_again_after_their_time() -> None:
    store, clock = FakeApiKeyStore(), _Clock()
    cache = KeyCache(store, clock)
    assert await cache.find("k") is None
    clock.now += MISSING_SECONDS
    assert await cache.find("k") is None
    assert store.reads == 2
    await store.add(ApiKey(id="known", alias="payment", hashed="", created_at=T0, created_by="root"))
    for _ in range(2):
        await cache.find("known")
        await cache.find("known")
        clock.now += FRESH_SECONDS
    assert store.reads == 4


async def test_a_read_that_a_revocation_overtook_is_not_cached() -> None:
    store = FakeApiKeyStore()
    cache = KeyCache(store)
    key = ApiKey(id="k", alias="payment", hashed="", created_at=T0, created_by="root")
    await store.add(key)
    began, go_on = asyncio.Event(), asyncio.Event()
    read = store.get

    async def slow_read(key_id: str) -> ApiKey | None:
        found = await read(key_id)
        began.set()
        await go_on.wait()
        return found

    store.get = slow_read  # type: ignore[method-assign]
    first = asyncio.ensure_future(cache.find("k"))
    await began.wait()
    await store.revoke("payment", "k", T0 + timedelta(seconds=1))
    cache.invalidate("payment")
    go_on.set()
    await first
    found = await cache.find("k")
    assert found is not None
    assert found.revoked_at is not UNSET
