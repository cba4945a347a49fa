"""Flow providers over a real database, real files and a real server."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pytest

from app import flow_provider
from app.contracts.errors import DefinitionSourceError, FlowNotFoundError, StoreUnavailableError
from app.flow_provider import FlowProvider, make_flow_provider
from app.main import Backend
from config.settings import Settings
from models.database import connect
from tests.support.databases import SentCommands
from tests.support.definition_files import write
from tests.support.remotes import RemoteServer, giving
from tests.support.samples import flow_dict


@pytest.fixture
async def server() -> AsyncIterator[RemoteServer]:
    server = await RemoteServer().start()
    yield server
    await server.stop()


def database_url(settings: Settings) -> str:
    assert settings.mongo_url is not None
    parts = urlsplit(settings.mongo_url.get_secret_value())
    query = urlencode({"authSource": "admin", **dict(parse_qsl(parts.query))})
    return urlunsplit(parts._replace(path=f"/{settings.mongo_database}", query=query))


async def title(provider: FlowProvider, slug: str = "loop") -> str | None:
    return (await provider(slug)).title


async def test_of_a_database_the_newest_version(parts: Backend, settings: Settings) -> None:
    service = parts.service
    flows = service.as_trusted()
    config = {"source": "database", "connectionString": database_url(settings)}
    cached = make_flow_provider(config)
    async with make_flow_provider({**config, "cacheTimeout": 0}) as provider:
        with pytest.raises(FlowNotFoundError):
            await provider("loop")
        await service.create_flow(flow_dict(title="one"))
        assert (await title(provider), await title(cached)) == ("one", "one")
        await service.update_flow("loop", {"title": "two"})
        assert (await title(provider), await title(cached)) == ("two", "one")
        await flows.delete_flow("loop")
        with pytest.raises(FlowNotFoundError):
            await provider("loop")
    await cached.aclose()


async def test_a_hundred_that_miss_at_once_make_one_load(parts: Backend, settings: Settings) -> None:
    await parts.service.create_flow(flow_dict())
    sent = SentCommands()
    database = connect(database_url(settings), settings.mongo_database, [sent])
    lookup = flow_provider._DatabaseLookup(lambda: database, 300.0)
    found = await asyncio.gather(*(lookup.find("loop") for _ in range(100)))
    assert all(flow is not None for flow in found)
    assert sent.names == ["find"]
    await database.close()


async def test_in_a_program_of_its_own(parts: Backend, settings: Settings) -> None:
    """Such a program has nothing else of the service: nobody has prepared the database there."""
    await parts.service.create_flow(flow_dict(title="one"))
    program = (
        "import asyncio, sys; from app.flow_provider import make_flow_provider\n"
        "async def main():\n"
        "    config = {'source': 'database', 'connectionString': sys.argv[1]}\n"
        "    async with make_flow_provider(config) as flows:\n"
        "        print((await flows('loop')).title)\n"
        "asyncio.run(main())"
    )
    done = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, database_url(settings), stdout=PIPE, stderr=PIPE
    )
    out, err = await done.communicate()
    assert (done.returncode, out.decode(), err.decode()) == (0, "one\n", "")


def test_after_one_event_loop_another(settings: Settings) -> None:
    """As in a program that calls ``asyncio.run`` now and then."""

    async def publish() -> None:
        async with Backend(settings).running() as service:
            for slug in ("loop", "other"):
                await service.create_flow(flow_dict(slug))

    asyncio.run(publish())
    provider = make_flow_provider({"source": "database", "connectionString": database_url(settings)})

    async def slugs(*wanted: str) -> list[str]:
        return [(await provider(slug)).flow for slug in wanted]

    assert asyncio.run(slugs("loop")) == ["loop"]
    assert asyncio.run(slugs("loop", "other")) == ["loop", "other"]
    asyncio.run(provider.aclose())


def test_files_in_one_event_loop_after_another(tmp_path: Path) -> None:
    write(tmp_path / "loop.json", flow_dict())
    provider = make_flow_provider({"source": "file", "filePath": str(tmp_path), "cacheTimeout": 0})

    async def at_once() -> set[str]:
        return {flow.flow for flow in await asyncio.gather(*(provider("loop") for _ in range(3)))}

    assert [asyncio.run(at_once()) for _ in range(3)] == [{"loop"}] * 3


@pytest.mark.expected_logs("MongoDB refused access")
async def test_a_database_that_is_away(
    parts: Backend, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = make_flow_provider({"source": "database", "connectionString": "mongodb://127.0.0.1:1/x"})
    with pytest.raises(StoreUnavailableError):
        await nowhere("loop")
    await nowhere.aclose()
    wrong = database_url(settings).replace("://flow:", "://flow:x", 1)
    async with make_flow_provider({"source": "database", "connectionString": wrong}) as stranger:
        with pytest.raises(DefinitionSourceError, match=r"connectionString: MongoDB refuses \(code 18\)"):
            await stranger("loop")

    async def away(_: object, __: str) -> Any:
        raise StoreUnavailableError

    await parts.service.create_flow(flow_dict(title="one"))
    config = {"source": "database", "connectionString": database_url(settings), "cacheTimeout": 0}
    async with make_flow_provider(config) as provider:
        assert await title(provider) == "one"
        monkeypatch.setattr("models.definition_store.MongoDefinitionStore.latest", away)
        assert await title(provider) == "one"
        with pytest.raises(StoreUnavailableError):
            await provider("other")


@pytest.mark.expected_logs(
    "invalid definition, last valid one stays in use",
    "invalid definition, no valid one yet",
)
async def test_of_files(tmp_path: Path) -> None:
    write(tmp_path / "loop.json", flow_dict(title="one"))
    write(tmp_path / "bad.yaml", b"a: [")
    config = {"source": "file", "filePath": str(tmp_path)}
    cached = make_flow_provider(config)
    async with make_flow_provider({**config, "cacheTimeout": 0}) as provider:
        assert (await title(provider), await title(cached)) == ("one", "one")
        with pytest.raises(DefinitionSourceError, match=r"bad\.yaml: line 1"):
            await provider("other")
        (tmp_path / "bad.yaml").unlink()
        with pytest.raises(FlowNotFoundError):
            await provider("other")
        write(tmp_path / "loop.json", flow_dict(title="two"))
        assert (await title(provider), await title(cached)) == ("two", "one")
        write(tmp_path / "loop.json", b"{")
        assert await title(provider) == "two"
        write(tmp_path / "loop.json", flow_dict(title="three"))
        assert await title(provider) == "three"


@pytest.mark.expected_logs("definition source unavailable, last valid definitions stay in use")
async def test_of_a_server(server: RemoteServer) -> None:
    good = giving([flow_dict(title="one")])

    async def guarded(request: Any) -> Any:
        assert request.headers["X-Key"] == "k"
        return await good(request)

    server.answers["/flows"] = guarded
    config = {
        "source": "remote",
        "remoteUrl": server.url(),
        "authentication": {"type": "apikey", "credentials": "X-Key:k"},
    }
    async with make_flow_provider(config) as provider:
        assert await asyncio.gather(*(title(provider) for _ in range(5))) == ["one"] * 5
        with pytest.raises(FlowNotFoundError):
            await provider("other")
        assert len(server.requests) == 1
    async with make_flow_provider({**config, "cacheTimeout": 0}) as provider:
        assert await title(provider) == "one"
        server.gives(b"", status=500)
        assert await title(provider) == "one"
        with pytest.raises(FlowNotFoundError):
            await provider("other")
    async with make_flow_provider(config) as provider:
        with pytest.raises(DefinitionSourceError, match="answers 500"):
            await provider("loop")


@pytest.mark.expected_logs("definition source unavailable, last valid definitions stay in use")
async def test_a_server_that_fails_is_left_alone_for_a_moment(server: RemoteServer) -> None:
    server.gives(b"", status=500)
    async with make_flow_provider({"source": "remote", "remoteUrl": server.url()}) as provider:
        for _ in range(3):
            with pytest.raises(DefinitionSourceError):
                await provider("loop")
    assert len(server.requests) == 1


@pytest.mark.expected_logs(  # which of them, the moment of the first look decides
    "invalid definition, last valid one stays in use",
    "invalid definition, no valid one yet",
    optional=True,
)
async def test_hybrid_looks_in_the_database_then_in_files_then_at_the_server(
    parts: Backend, settings: Settings, tmp_path: Path, server: RemoteServer
) -> None:
    service = parts.service
    flows = service.as_trusted()
    for slug in ("a", "r"):
        await service.create_flow(flow_dict(slug, title="database"))
    await flows.delete_flow("r")
    for slug in ("a", "b", "r"):
        write(tmp_path / f"{slug}.json", flow_dict(slug, title="file"))
    server.gives([flow_dict(slug, title="remote") for slug in "abcr"])
    config = {
        "source": "hybrid",
        "connectionString": database_url(settings),
        "filePath": str(tmp_path),
        "remoteUrl": server.url(),
        "cacheTimeout": 0,
    }
    async with make_flow_provider(config) as provider:
        assert [await title(provider, slug) for slug in "abc"] == ["database", "file", "remote"]
        for slug in ("r", "d"):  # retired, and nowhere
            with pytest.raises(FlowNotFoundError):
                await provider(slug)
        write(tmp_path / "b.json", b"{")
        assert await title(provider, "b") == "file"
    async with make_flow_provider(config) as provider:
        with pytest.raises(DefinitionSourceError):
            await provider("b")  # what the file has, nobody knows; the server's is not it
