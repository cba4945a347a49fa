"""The port of sources of definitions, on files and on another server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.contracts.errors import DefinitionSourceError
from app.contracts.ports.sources import DefinitionSource
from app.sources import files, remote
from app.sources.files import FileSource
from app.sources.remote import RemoteSource
from tests.support.remotes import RemoteServer
from tests.support.samples import flow_dict

PORTS = (DefinitionSource,)


class Place:
    """A source, and a function that replaces its definitions; None removes the whole place."""

    def __init__(self, source: DefinitionSource, put: Callable[[list[Any] | None], None]) -> None:
        self.source = source
        self.put = put


@pytest.fixture(params=["files", "server"])
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    monkeypatch.setattr(files, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(remote, "MIN_INTERVAL_SECONDS", 0.05)
    if request.param == "files":
        folder = tmp_path / "flows"

        def write(values: list[Any] | None) -> None:
            for file in folder.iterdir() if folder.exists() else ():
                file.unlink()
            folder.mkdir(exist_ok=True)
            if values is None:
                folder.rmdir()
                return
            for number, value in enumerate(values):
                (folder / f"{number}.json").write_bytes(msgspec.json.encode(value))

        yield Place(FileSource(folder), write)
        return
    server = await RemoteServer().start()

    def give(values: list[Any] | None) -> None:
        server.gives(values, status=200 if values is not None else 503)

    yield Place(RemoteSource(server.url(), interval=0), give)
    await server.stop()


async def test_definitions_come_in_order_each_with_its_place_and_source(place: Place) -> None:
    place.put([flow_dict("b"), flow_dict("a"), {"flow": "odd", "steps": 1}])
    found = await place.source.load()
    assert [each.raw["flow"] for each in found] == ["b", "a", "odd"]
    assert [each.fault for each in found] == ["", "", ""]
    assert len({each.place for each in found}) == 3
    assert all(place.source.produced(each.source) for each in found)
    assert not place.source.produced("api")


async def test_a_digest_changes_with_its_definition_alone(place: Place) -> None:
    place.put([flow_dict("a"), flow_dict("b")])
    first = await place.source.load()
    assert await place.source.load() == first
    place.put([flow_dict("a"), flow_dict("b", title="new")])
    second = await place.source.load()
    assert [each.place for each in second] == [each.place for each in first]
    assert second[0] == first[0]
    assert second[1].digest != first[1].digest


async def test_a_place_that_is_away_and_back(place: Place) -> None:
    place.put(None)
    with pytest.raises(DefinitionSourceError):
        await place.source.load()
    place.put([])
    assert await place.source.load() == []
    place.put(None)
    with pytest.raises(DefinitionSourceError):
        await place.source.load()
    place.put([flow_dict("a")])
    assert len(await place.source.load()) == 1


async def test_what_changes_is_reported(place: Place) -> None:
    place.put([flow_dict("a")])
    await place.source.load()

    async def titles() -> list[str | None]:
        return [each.raw.get("title") for each in await place.source.load()]

    async with asyncio.timeout(20), aclosing(place.source.changes()) as changes:
        for values in ([flow_dict("a", title="1")], [flow_dict("a", title="2"), flow_dict("b")], []):
            place.put(values)
            async for _ in changes:
                if await titles() == [value.get("title") for value in values]:
                    break


async def test_the_name_is_for_people(place: Place) -> None:
    assert place.source.name
    assert isinstance(place.source.local, bool)
