"""The contract of DefinitionStore."""

import asyncio

import pytest
from msgspec import structs

from app.contracts.definition import VersionInfo
from app.contracts.ports.definitions import DefinitionStore
from models.database import Database
from models.definition_store import MongoDefinitionStore
from tests.support.fakes import FakeDefinitionStore
from tests.support.samples import definition

PORTS = (DefinitionStore,)


@pytest.fixture
def store(database: Database | None) -> DefinitionStore:
    return FakeDefinitionStore() if database is None else MongoDefinitionStore(database)


async def test_what_is_published_is_read_exactly(store: DefinitionStore) -> None:
    whole = definition(title="Loop", meta={"a": [1]}, prefabs={"a": "token"}, config={"services": {"s": "t"}})
    assert await store.publish(whole)
    assert await store.get("loop", 1) == whole
    assert await store.latest("loop") == whole
    steps = (await store.latest("loop") or whole).flow.steps
    assert list(steps["a"].transitions) == ["jump", "again", "go"]


async def test_nothing_published(store: DefinitionStore) -> None:
    assert await store.get("loop", 1) is None
    assert await store.latest("loop") is None
    assert await store.versions("loop") == []
    assert (await store.list_latest(None, 10)).items == []


async def test_versions_newest_first(store: DefinitionStore) -> None:
    for version in (2, 10, 1):
        await store.publish(definition(version=version))
    known = await store.versions("loop")
    assert [version.version for version in known] == [10, 2, 1]
    made = definition(version=10)
    assert known[0] == VersionInfo(
        "loop", 10, made.published_at, made.published_by, made.source, made.retired
    )
    assert (await store.latest("loop") or definition()).version == 10


async def test_a_version_is_published_once(store: DefinitionStore) -> None:
    rivals = [structs.replace(definition(), published_by=str(n)) for n in range(5)]
    won = await asyncio.gather(*(store.publish(rival) for rival in rivals))
    assert sum(won) == 1
    assert (await store.get("loop", 1) or definition()).published_by == str(won.index(True))


async def test_list_has_the_newest_of_flows_that_are_not_retired(store: DefinitionStore) -> None:
    for slug in ("c", "a", "b"):
        await store.publish(definition(slug))
    await store.publish(definition("a", 2))
    await store.publish(structs.replace(definition("b", 2), retired=True))
    assert [(d.flow.flow, d.version) for d in (await store.list_latest(None, 10)).items] == [
        ("a", 2),
        ("c", 1),
    ]
    assert [d.flow.flow for d in (await store.list_latest("a", 10)).items] == ["c"]
    assert [d.flow.flow for d in (await store.list_latest(None, 1)).items] == ["a"]


async def test_flows_are_listed_once_also_retired_ones(store: DefinitionStore) -> None:
    assert await store.list_flow_ids() == []
    retired = structs.replace(definition("gone", 2), retired=True)
    for each in (definition("loop"), definition("loop", 2), definition("gone"), retired, definition("a")):
        await store.publish(each)
    assert await store.list_flow_ids() == ["a", "gone", "loop"]


async def test_pages_end_at_a_number_of_bytes_too(store: DefinitionStore) -> None:
    for n in range(6):
        await store.publish(definition(f"f{n}", meta={"text": "x" * 400_000}))
    found, after = [], None
    while (page := await store.list_latest(after, 100)).next is not None:
        assert 1 <= len(page.items) <= 2
        found += page.items
        after = page.next
    assert [d.flow.flow for d in [*found, *page.items]] == [f"f{n}" for n in range(6)]


async def test_versions_are_paged(store: DefinitionStore) -> None:
    for version in range(1, 13):
        await store.publish(definition(version=version))
    assert [v.version for v in await store.versions("loop", 11, 3)] == [10, 9, 8]
    assert [v.version for v in await store.versions("loop", 2)] == [1]
    assert await store.versions("loop", 1, 3) == []
    assert [v.version for v in await store.versions("loop", 10**30, 1)] == [12]
