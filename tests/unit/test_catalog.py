"""Definitions in memory: what is asked of the store, and how often."""

import asyncio
from datetime import timedelta

import pytest

from app.contracts.definition import FlowDefinition
from app.contracts.errors import FlowNotFoundError, StoreUnavailableError
from app.contracts.events import EVERYONE, DefinitionChanged, Gap
from app.services.definitions import catalog as module
from app.services.definitions.catalog import DefinitionCatalog
from tests.support.fakes import FakeDefinitionStore
from tests.support.samples import T0, definition


class SlowStore(FakeDefinitionStore):
    """Answers when it is let go; ``away``: it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.go.set()
        self.away = False

    async def latest(self, flow_id: str) -> FlowDefinition | None:
        found = await super().latest(flow_id)
        await self.go.wait()
        if self.away:
            raise StoreUnavailableError
        return found

    async def get(self, flow_id: str, version: int) -> FlowDefinition | None:
        found = await super().get(flow_id, version)
        await self.go.wait()
        return found


async def made(max_age: timedelta = timedelta(minutes=5)) -> tuple[SlowStore, DefinitionCatalog]:
    store = SlowStore()
    await store.publish(definition())
    return store, DefinitionCatalog(store, max_age)


async def test_a_hundred_that_miss_at_once_make_one_load() -> None:
    for ask in ("current", "version"):
        store, catalog = await made()
        store.go.clear()
        asked = [
            asyncio.ensure_future(catalog.current("loop") if ask == "current" else catalog.version("loop", 1))
            for _ in range(100)
        ]
        while not store.reads:
            await asyncio.sleep(0)
        store.go.set()
        assert len(set(map(id, await asyncio.gather(*asked)))) == 1
        assert store.reads == 1


async def test_a_version_is_never_read_twice_also_when_nothing_else_is_cached() -> None:
    store, catalog = await made(max_age=timedelta(0))
    for _ in range(10):
        await catalog.version("loop", 1)
        await catalog.current("loop")
    assert store.reads == 11, "the newest each time, the version once"


async def test_the_newest_is_read_again_after_the_cache_time_or_a_change() -> None:
    store, catalog = await made(max_age=timedelta(milliseconds=20))
    await catalog.current("loop")
    await catalog.current("loop")
    assert store.reads == 1
    await store.publish(definition(version=2))
    async with asyncio.timeout(10):
        while (await catalog.current("loop")).version == 1:
            await asyncio.sleep(0.005)

    store, catalog = await made()
    await catalog.current("loop")
    await store.publish(definition(version=2))
    assert (await catalog.current("loop")).version == 1
    catalog.on_event(EVERYONE, DefinitionChanged(flow_id="other"))
    assert (await catalog.current("loop")).version == 1
    catalog.on_event(EVERYONE, DefinitionChanged(flow_id="loop"))
    assert (await catalog.current("loop")).version == 2
    await store.publish(definition(version=3))
    catalog.on_gap(Gap(T0))
    assert (await catalog.current("loop")).version == 3


async def test_what_was_published_while_it_was_read_is_not_missed() -> None:
    store, catalog = await made()
    store.go.clear()
    early = asyncio.ensure_future(catalog.current("loop"))
    while not store.reads:
        await asyncio.sleep(0)
    await store.publish(definition(version=2))
    catalog.on_event(EVERYONE, DefinitionChanged(flow_id="loop"))
    store.go.set()
    assert (await early).version == 1
    assert (await catalog.current("loop")).version == 2


async def test_a_version_stays_the_one_that_it_was_when_the_newest_is_read_again() -> None:
    """Compiled guards and schemas are found by the identity of the definition."""
    store, catalog = await made(max_age=timedelta(0))
    first = await catalog.current("loop")
    store.published["loop", 1] = definition()
    assert store.published["loop", 1] is not first
    assert await catalog.current("loop") is first


async def test_while_the_store_is_away_the_newest_that_is_known_stays() -> None:
    store, catalog = await made(max_age=timedelta(0))
    first = await catalog.current("loop")
    store.away = True
    before = store.reads
    assert [await catalog.current("loop") for _ in range(5)] == [first] * 5
    assert store.reads == before + 1, "not everybody waits for it"


async def test_neither_a_failure_nor_a_miss_is_retained() -> None:
    store, catalog = await made()
    with pytest.raises(FlowNotFoundError):
        await catalog.current("late")
    await store.publish(definition("late"))
    assert (await catalog.current("late")).version == 1
    store.away = True
    with pytest.raises(StoreUnavailableError):
        await catalog.current("loop")
    store.away = False
    assert (await catalog.current("loop")).version == 1


async def test_who_gives_up_does_not_take_the_load_from_the_others() -> None:
    store, catalog = await made()
    store.go.clear()
    first, second = (asyncio.ensure_future(catalog.current("loop")) for _ in range(2))
    while not store.reads:
        await asyncio.sleep(0)
    first.cancel()
    store.go.set()
    assert (await second).version == 1
    assert store.reads == 1


async def test_what_is_retained_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_VERSIONS", 3)
    store, catalog = await made()
    for number in range(2, 12):
        await store.publish(definition(version=number))
        assert await catalog.version("loop", number) is not None
    before = store.reads
    await catalog.version("loop", 11)
    assert store.reads == before
    await catalog.version("loop", 2)
    assert store.reads == before + 1, "it had to go, and is there again"
