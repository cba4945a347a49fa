"""Sources of definitions, followed while a service runs: real files, real servers, a real database."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.contracts.errors import DefinitionSourceError, FlowNotFoundError, NotOutrankedError
from app.contracts.events import DefinitionChanged, Event, Topic
from app.contracts.ports.sources import DefinitionSource
from app.main import Backend, definition_sources, follow_sources, open_service
from app.services.definitions.source_mirror import SourceMirror
from app.services.definitions.source_sync import Sources
from app.sources.files import POLL_SECONDS, FileSource
from app.sources.remote import MAX_BACKOFF_SECONDS, MIN_INTERVAL_SECONDS, RemoteSource
from config.settings import Settings
from models.definition_store import MongoDefinitionStore
from tests.support.definition_files import write
from tests.support.log_events import LogEvents
from tests.support.long_form import form
from tests.support.remotes import RemoteServer
from tests.support.samples import PROGRAM, flow_dict

INTERVAL = form("remote sources: seconds between requests", short=0.1, long=MIN_INTERVAL_SECONDS)
BACKOFF = form("remote sources: most seconds after failures", short=0.2, long=MAX_BACKOFF_SECONDS)
POLL = form("folders of definitions: seconds between polls", short=0.3, long=POLL_SECONDS)


@pytest.fixture(autouse=True)
def intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.sources.remote.MIN_INTERVAL_SECONDS", INTERVAL)
    monkeypatch.setattr("app.sources.remote.MAX_BACKOFF_SECONDS", BACKOFF)
    monkeypatch.setattr("app.sources.files.POLL_SECONDS", POLL)


@pytest.fixture
async def server() -> AsyncIterator[RemoteServer]:
    server = await RemoteServer().start()
    yield server
    await server.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "flows"
    folder.mkdir()
    return folder


class Copy(SourceMirror):
    """A copy that counts its refreshes."""

    def __init__(self, source: DefinitionSource, *, overrides: bool = False) -> None:
        super().__init__(source, overrides=overrides)
        self._looked = asyncio.Condition()
        self.looks = 0

    async def refresh(self, *, report: bool = True, advise: bool = True) -> None:
        await super().refresh(report=report, advise=advise)
        async with self._looked:
            self.looks += 1
            self._looked.notify_all()

    async def until(self, done: Callable[[], bool], seconds: float = 20) -> None:
        async with self._looked:
            await asyncio.wait_for(self._looked.wait_for(done), seconds)

    async def until_title(self, number: int) -> None:
        """Wait until a definition has this number as its title."""
        await self.until(lambda: f"title='{number}'" in str(self.flows))


class Published:
    """Publications, as every worker receives them."""

    def __init__(self, parts: Backend) -> None:
        self._definitions = parts.service.definitions
        self._published = asyncio.Event()
        parts.bus.subscribe(self._on_event)

    def _on_event(self, _: Topic, event: Event) -> None:
        if isinstance(event, DefinitionChanged):
            self._published.set()

    async def until(self, done: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
        async with asyncio.timeout(seconds):
            while not await done():
                self._published.clear()
                if not await done():
                    await self._published.wait()

    async def until_title(self, title: str | None, slug: str = "loop") -> None:
        async def has_it() -> bool:
            try:
                return (await self._definitions.current(slug, PROGRAM)).flow.title == title
            except FlowNotFoundError:
                return False

        await self.until(has_it)

    async def until_title_is_not(self, title: str, slug: str = "loop") -> None:
        async def has_another() -> bool:
            return (await self._definitions.current(slug, PROGRAM)).flow.title != title

        await self.until(has_another)


@pytest.fixture
def published(parts: Backend) -> Published:
    return Published(parts)


@asynccontextmanager
async def followed(parts: Backend, *copies: SourceMirror, prepared: bool = False) -> AsyncIterator[Sources]:
    """Sources that are followed; ``prepared``: by a worker of which another process took them up."""
    sources = Sources(parts.service.definitions, copies)
    if not prepared:
        await sources.publish_all()
    async with follow_sources(sources):
        yield sources


async def titles(parts: Backend, slug: str = "loop") -> list[str | None]:
    """Of all versions, oldest first."""
    definitions = parts.service.definitions
    numbers = [known.version for known in await definitions.versions(slug, PROGRAM)]
    return [(await definitions.version(slug, number, PROGRAM)).flow.title for number in reversed(numbers)]


async def test_each_format_of_a_folder_and_a_single_file(folder: Path) -> None:
    write(folder / "b.json", flow_dict("b"))
    write(folder / "a.yaml", b"flow: a\n")
    write(folder / "c.toml", b'flow = "c"\n')
    write(folder / "d.yml", b"flow: d\n")
    for passed_over in (".hidden.json", "notes.txt", "x.json.bak", ".x.json.swp"):
        write(folder / passed_over, b"{")
    (folder / "z.json").mkdir()
    source = FileSource(folder)
    assert [found.raw["flow"] for found in await source.load()] == ["a", "b", "c", "d"]
    assert list(source.read()) == [str(folder / name) for name in ("a.yaml", "b.json", "c.toml", "d.yml")]
    (single,) = await FileSource(folder / "c.toml").load()
    assert (single.place, single.source) == (str(folder / "c.toml"), "file:c.toml")


async def test_every_broken_file_is_named(folder: Path) -> None:
    write(folder / "a.yaml", b"a: [")
    write(folder / "b.json", b"{}")
    (folder / "c.json").symlink_to("nowhere")
    with pytest.raises(DefinitionSourceError) as refusal:
        FileSource(folder).read()
    assert "a.yaml: line 1, column " in str(refusal.value)
    assert "c.json: No such file" in str(refusal.value)
    assert [bool(found.fault) for found in await FileSource(folder).load()] == [True, False, True]
    with pytest.raises(DefinitionSourceError, match="no such file or folder"):
        await FileSource(folder / "d.json").load()
    write(folder / "e.ini", b"")
    (found,) = await FileSource(folder / "e.ini").load()
    assert "its name ends in .ini, not in .json, .yaml, .yml, .toml" in found.fault


async def test_a_file_that_changes_is_published(parts: Backend, published: Published, folder: Path) -> None:
    write(folder / "loop.json", flow_dict(title="one"))
    async with followed(parts, SourceMirror(FileSource(folder))):
        assert await titles(parts) == ["one"]
        write(folder / "loop.json", flow_dict(title="two"))
        await published.until_title("two")
        (folder / "loop.json").write_bytes(msgspec.json.encode(flow_dict(title="three")))
        await published.until_title("three")
        write(folder / "more.yaml", b"flow: more\n" + msgspec.json.encode(flow_dict("more"))[15:-1] + b"")
        write(folder / "more.yaml", msgspec.json.encode(flow_dict("more", title="added")))
        await published.until_title("added", "more")
    newest = await parts.service.definitions.current("loop", PROGRAM)
    assert (newest.source, newest.published_by) == ("file:loop.json", "server-flow")
    assert await titles(parts) == ["one", "two", "three"]


async def test_a_single_file_that_is_exchanged(parts: Backend, published: Published, folder: Path) -> None:
    write(folder / "loop.json", flow_dict(title="one"))
    async with followed(parts, SourceMirror(FileSource(folder / "loop.json"))):
        (folder / "loop.json").unlink()  # as some editors do
        write(folder / "loop.json", flow_dict(title="two"))
        await published.until_title("two")
        write(folder / "loop.json", flow_dict(title="three"))
        await published.until_title("three")


@pytest.mark.parametrize("single", [False, True])
async def test_a_folder_as_kubernetes_mounts_it(
    parts: Backend, published: Published, folder: Path, single: bool
) -> None:
    def mount(name: str, title: str) -> None:
        data = folder / name
        data.mkdir()
        write(data / "loop.json", flow_dict(title=title))
        (folder / "..data_tmp").symlink_to(name)
        (folder / "..data_tmp").replace(folder / "..data")

    mount("..2026_01", "one")
    (folder / "loop.json").symlink_to("..data/loop.json")
    async with followed(parts, SourceMirror(FileSource(folder / "loop.json" if single else folder))):
        assert await titles(parts) == ["one"]
        mount("..2026_02", "two")
        await published.until_title("two")
        mount("..2026_03", "three")
        await published.until_title("three")


async def test_a_folder_that_is_exchanged_whole(parts: Backend, published: Published, tmp_path: Path) -> None:
    for number, title in ((1, "one"), (2, "two")):
        (tmp_path / f"release{number}").mkdir()
        write(tmp_path / f"release{number}" / "loop.json", flow_dict(title=title))
    current = tmp_path / "current"
    current.symlink_to("release1")
    async with followed(parts, SourceMirror(FileSource(current))):
        (tmp_path / "next").symlink_to("release2")
        (tmp_path / "next").replace(current)
        await published.until_title("two")
        write(current / "loop.json", flow_dict(title="three"))
        await published.until_title("three")


@pytest.mark.expected_logs("invalid definition, last valid one stays in use")
async def test_a_broken_file_is_reported_once_and_the_last_good_one_stays(
    parts: Backend, published: Published, folder: Path, log_events: LogEvents
) -> None:
    write(folder / "loop.json", flow_dict(title="one"))
    write(folder / "other.json", flow_dict("other", title="one"))
    copy = Copy(FileSource(folder))
    async with followed(parts, copy):
        write(folder / "loop.json", b'{"flow": "loop",\n "steps": [}')
        await copy.until(lambda: bool(copy.faults))
        looks = copy.looks
        write(folder / "other.json", flow_dict("other", title="two"))
        await published.until_title("two", "other")
        await copy.until(lambda: copy.looks > looks)
        assert copy.flows["loop"].flow.title == "one"
        write(folder / "loop.json", flow_dict(title="one", initialStep="nowhere"))
        await copy.until(lambda: "nowhere" in str(copy.faults))
        write(folder / "loop.json", flow_dict(title="two"))
        await published.until_title("two")
        assert copy.faults == []
    logged = [entry["fault"] for entry in log_events.entries if "last valid one stays" in entry["event"]]
    assert len(logged) == 2
    assert logged[0] == f"{folder}/loop.json: line 2, column 12: is not JSON: Expecting value"
    assert logged[1].startswith(f"{folder}/loop.json: initialStep: ")
    assert sum(entry["event"] == "definition valid again" for entry in log_events.entries) == 1
    assert await titles(parts) == ["one", "two"]


@pytest.mark.expected_logs(
    "flow missing from its source, stays published until it is deleted",
    "definition source unavailable, last valid definitions stay in use",
)
async def test_a_file_or_folder_that_goes_away_is_reported_and_flows_stay(
    parts: Backend, published: Published, folder: Path, log_events: LogEvents
) -> None:
    write(folder / "loop.json", flow_dict(title="one"))
    write(folder / "other.json", flow_dict("other"))
    copy = Copy(FileSource(folder))
    async with followed(parts, copy):
        (folder / "other.json").unlink()
        await copy.until(lambda: "other" not in copy.flows)
        assert (await parts.service.definitions.current("other", PROGRAM)).version == 1
        (folder / "loop.json").replace(folder / "renamed.json")
        await copy.until(lambda: copy.flows["loop"].source == "file:renamed.json")
        folder.rename(folder.with_name("away"))
        await copy.until(lambda: bool(copy.unavailable_reason))
        assert "no such file or folder" in copy.unavailable_reason
        assert "loop" in copy.flows
        folder.with_name("away").rename(folder)
        await copy.until(lambda: not copy.unavailable_reason)
        write(folder / "renamed.json", flow_dict(title="two"))
        await published.until_title("two")
    gone = [entry["flow"] for entry in log_events.entries if "missing from its source" in entry["event"]]
    assert gone == ["other"]
    assert sum(entry["event"] == "definition source available again" for entry in log_events.entries) == 1


@pytest.mark.expected_logs("duplicate definition ignored")
async def test_two_definitions_of_one_flow_are_reported_and_the_first_counts(
    parts: Backend, folder: Path, log_events: LogEvents
) -> None:
    write(folder / "a.json", flow_dict(title="a"))
    write(folder / "b.json", flow_dict(title="b"))
    copy = Copy(FileSource(folder))
    async with followed(parts, copy):
        assert await titles(parts) == ["a"]
        write(folder / "c.json", flow_dict("other"))
        await copy.until(lambda: "other" in copy.flows)
    logged = [
        (entry["used"], entry["ignored"])
        for entry in log_events.entries
        if "duplicate definition" in entry["event"]
    ]
    assert logged == [(f"{folder}/a.json", f"{folder}/b.json")]


# The order of sources


@pytest.mark.expected_logs(
    "flow missing from its source, stays published until it is deleted",
    "definition source unavailable, last valid definitions stay in use",
)
async def test_of_several_sources_the_first_counts(
    parts: Backend, published: Published, tmp_path: Path, server: RemoteServer, log_events: LogEvents
) -> None:
    low = tmp_path / "low.json"
    write(low, flow_dict(title="low 1"))
    server.gives(flow_dict(title="high 1"))
    high = Copy(RemoteSource(server.url(), interval=0))
    lower = Copy(FileSource(low))
    async with followed(parts, high, lower):
        assert await titles(parts) == ["high 1"]
        write(low, flow_dict(title="low 2"))
        await lower.until(lambda: lower.flows["loop"].flow.title == "low 2")
        server.gives(b"", status=503)
        await high.until(lambda: bool(high.unavailable_reason))
        write(low, flow_dict(title="low 3"))
        await lower.until(lambda: lower.flows["loop"].flow.title == "low 3")
        server.gives(flow_dict(title="high 2"))
        await published.until_title("high 2")
        server.gives([])
        await published.until_title("low 3")
    assert await titles(parts) == ["high 1", "high 2", "low 3"]
    assert sum("source unavailable" in entry["event"] for entry in log_events.entries) == 1


@pytest.mark.expected_logs(
    "invalid definition, no valid one yet",
    "definition source unavailable, last valid definitions stay in use",
)
async def test_a_lower_source_does_not_take_over_for_one_that_a_new_worker_cannot_read(
    parts: Backend, published: Published, tmp_path: Path, server: RemoteServer
) -> None:
    low = tmp_path / "low.json"
    write(low, flow_dict(title="low 1"))
    server.gives([flow_dict(title="high"), flow_dict("other")])

    def copies() -> tuple[Copy, Copy]:
        return Copy(RemoteSource(server.url(), interval=0)), Copy(FileSource(low))

    async with followed(parts, *copies()):
        assert await titles(parts) == ["high"]
    server.gives(b"", status=500)
    high, lower = copies()
    async with followed(parts, high, lower, prepared=True):
        await high.until(lambda: high.looks > 0)
        write(low, flow_dict(title="low 2"))
        await lower.until(lambda: "low 2" in str(lower.flows))
        server.gives([flow_dict("other", title="back"), {"flow": "loop"}])
        await published.until_title("back", "other")
        assert await titles(parts) == ["high"]  # the faulty one is still the one that counts
        server.gives(flow_dict("other"))
        await published.until_title("low 2")


OUTRANKED = "definition outranked by a caller's version"


@pytest.mark.expected_logs(OUTRANKED)
async def test_behind_the_database_a_source_leaves_alone_what_callers_published(
    parts: Backend, published: Published, folder: Path, log_events: LogEvents
) -> None:
    service = parts.service
    flows = service.as_trusted()
    write(folder / "loop.json", flow_dict(title="file 1"))
    write(folder / "other.json", flow_dict("other", title="file 1"))
    async with followed(parts, SourceMirror(FileSource(folder))):
        await service.update_flow("loop", {"title": "caller"})
        await flows.delete_flow("other")
        write(folder / "loop.json", flow_dict(title="file 2"))
        write(folder / "other.json", flow_dict("other", title="file 2"))
        write(folder / "third.json", flow_dict("third", title="third"))
        await published.until_title("third", "third")
    assert await titles(parts) == ["file 1", "caller"]
    assert await titles(parts, "other") == ["file 1", "file 1"]
    logged = [(e["flow"], e["place"], e["version"], e["retired"]) for e in log_events.named(OUTRANKED)]
    assert logged == [
        ("loop", str(folder / "loop.json"), 2, False),
        ("other", str(folder / "other.json"), 2, True),
    ]
    assert all(e["log_level"] == "warning" for e in log_events.named(OUTRANKED))


@pytest.mark.expected_logs(OUTRANKED)
async def test_what_a_caller_outranks_is_reported_at_each_start_and_can_be_handed_back(
    parts: Backend, published: Published, folder: Path, log_events: LogEvents
) -> None:
    definitions = parts.service.definitions
    write(folder / "loop.json", flow_dict(title="file 1"))
    write(folder / "other.json", flow_dict("other", title="file 1"))
    await definitions.put(flow_dict(title="file 1"), actor="ops", source="import")
    for _ in range(2):
        log_events.entries.clear()
        async with followed(parts, SourceMirror(FileSource(folder))):
            (logged,) = log_events.named(OUTRANKED)
    assert (logged["flow"], logged["source"], logged["by"]) == ("loop", "import", "ops")
    assert logged["hand_back"] == "server-flow flows hand-back loop"
    log_events.entries.clear()
    async with followed(parts, SourceMirror(FileSource(folder))):
        write(folder / "loop.json", flow_dict(title="file 2"))
        write(folder / "other.json", flow_dict("other", title="file 2"))
        await published.until_title("file 2", "other")
        assert [e["log_level"] for e in log_events.named(OUTRANKED)] == ["info", "warning"]
        made = await definitions.hand_back("loop")
        assert (made.version, made.flow.title, made.source) == (2, "file 2", "file:loop.json")
        write(folder / "loop.json", flow_dict(title="file 3"))
        await published.until_title("file 3")
        for flow_id in ("loop", "other"):
            with pytest.raises(NotOutrankedError, match="newest version is of file:"):
                await definitions.hand_back(flow_id)
        await parts.service.create_flow(flow_dict("alone"))
        with pytest.raises(NotOutrankedError, match="newest version is of python"):
            await definitions.hand_back("alone")
        with pytest.raises(FlowNotFoundError):
            await definitions.hand_back("nowhere")


async def test_a_flow_that_a_caller_retired_is_handed_back(
    parts: Backend, published: Published, folder: Path
) -> None:
    write(folder / "loop.json", flow_dict(title="file"))
    async with followed(parts, SourceMirror(FileSource(folder))):
        await parts.service.as_trusted().delete_flow("loop")
    async with followed(parts, SourceMirror(FileSource(folder))):
        assert not (await parts.service.definitions.hand_back("loop")).retired
        await published.until_title("file")


async def test_before_the_database_a_source_comes_back_over_what_callers_published(
    parts: Backend, published: Published, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.definitions.source_sync.SYNC_EVERY_SECONDS", 0.1)
    service = parts.service
    flows = service.as_trusted()
    write(folder / "loop.json", flow_dict(title="file"))
    async with followed(parts, SourceMirror(FileSource(folder), overrides=True)):
        await service.update_flow("loop", {"title": "caller"})
        await published.until_title("file")
        await flows.delete_flow("loop")
        await published.until_title("file")
    assert await titles(parts) == ["file", "caller", "file", "file", "file"]


# Several hosts


async def test_hosts_with_different_files_do_not_publish_back_and_forth(
    parts: Backend, published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.definitions.source_sync.SYNC_EVERY_SECONDS", 0.05)
    old, new = tmp_path / "old" / "loop.json", tmp_path / "new" / "loop.json"
    for path, title in ((old, "old"), (new, "new")):
        path.parent.mkdir()
        write(path, flow_dict(title=title))
        write(path.with_name("more.json"), flow_dict("more"))
    first, second = Copy(FileSource(old.parent), overrides=True), Copy(FileSource(new.parent), overrides=True)
    async with followed(parts, first), followed(parts, second):
        assert await titles(parts) == ["old", "new"]
        async with followed(
            parts, Copy(FileSource(old.parent)), prepared=True
        ):  # a worker that took one's place
            for number in range(3):  # so that each of them was there again
                for path in (old, new):
                    write(
                        path.with_name("more.json"), flow_dict("more", title=f"{path.parent.name} {number}")
                    )
                    await published.until_title(f"{path.parent.name} {number}", "more")
            assert await titles(parts) == ["old", "new"]
            await parts.service.update_flow("loop", {"title": "caller"})
            await published.until_title_is_not("caller")  # both come before the database; either may win
            versions = await titles(parts)
            for path in (old, new):
                write(path.with_name("more.json"), flow_dict("more", title=path.parent.name))
                await published.until_title(path.parent.name, "more")
            assert await titles(parts) == versions
        write(old, flow_dict(title="newest"))
        await published.until_title("newest")
    assert await titles(parts) == [*versions, "newest"]


async def test_a_new_worker_takes_up_what_was_never_published(
    parts: Backend, published: Published, folder: Path
) -> None:
    for title in ("one", "two"):
        write(folder / "loop.json", flow_dict(title=title))
        await Sources(parts.service.definitions, [SourceMirror(FileSource(folder))]).publish_all()
    write(folder / "loop.json", flow_dict(title="one"))
    copy = Copy(FileSource(folder))
    async with followed(parts, copy, prepared=True):
        write(folder / "other.json", flow_dict("other", title="never"))
        await published.until_title("never", "other")
        assert await titles(parts) == ["one", "two"]
    write(folder / "loop.json", flow_dict(title="three"))
    async with followed(parts, Copy(FileSource(folder)), prepared=True):
        await published.until_title("three")


async def test_many_workers_publish_a_change_once(parts: Backend, published: Published, folder: Path) -> None:
    write(folder / "loop.json", flow_dict(title="0"))
    copies = [Copy(FileSource(folder)) for _ in range(5)]
    async with (
        followed(parts, copies[0]),
        followed(parts, copies[1], prepared=True),
        followed(parts, copies[2], prepared=True),
        followed(parts, copies[3], prepared=True),
        followed(parts, copies[4], prepared=True),
    ):
        for number in range(1, 6):
            write(folder / "loop.json", flow_dict(title=str(number)))
            for copy in copies:
                await copy.until_title(number)
            await published.until_title(str(number))
    assert await titles(parts) == [str(number) for number in range(6)]


# Remote


@pytest.mark.expected_logs("definition source unavailable, last valid definitions stay in use")
async def test_an_unavailable_remote_does_not_stop_the_start_and_is_published_later(
    parts: Backend, published: Published, server: RemoteServer, log_events: LogEvents
) -> None:
    server.gives(b"", status=500)
    async with followed(parts, SourceMirror(RemoteSource(server.url(), interval=0))):
        server.gives(flow_dict(title="there"))
        await published.until_title("there")
        (newest,) = await parts.service.definitions.versions("loop", PROGRAM)
        assert newest.source == f"remote:127.0.0.1:{server.port}/flows"
    events = [entry["event"] for entry in log_events.entries if entry["log_level"] in ("warning", "info")]
    assert events.count("definition source unavailable, last valid definitions stay in use") == 1
    assert events.count("definition source available again") == 1


@pytest.mark.expected_logs(
    "invalid definition, last valid one stays in use",
    "invalid definition, no valid one yet",
)
async def test_valid_definitions_are_published_beside_faulty_ones(
    parts: Backend, published: Published, server: RemoteServer, log_events: LogEvents
) -> None:
    server.gives([flow_dict("bad", initialStep="nowhere"), flow_dict(title="good"), 7])
    copy = Copy(RemoteSource(server.url(), interval=0))
    async with followed(parts, copy):
        assert await titles(parts) == ["good"]
        server.gives([flow_dict("bad", title="mended"), flow_dict(title="good", steps={})])
        await published.until_title("mended", "bad")
        assert await titles(parts) == ["good"]
        looks = copy.looks
        await copy.until(lambda: copy.looks > looks + 1)
    logged = [entry["fault"] for entry in log_events.entries if "invalid definition" in entry["event"]]
    assert [fault.split(": ")[0] for fault in logged] == [
        f"{server.url()}#{name}" for name in ("bad", "2", "loop")
    ]


@pytest.mark.expected_logs("definition source unavailable, last valid definitions stay in use")
async def test_failures_of_one_kind_are_reported_once(
    parts: Backend, server: RemoteServer, log_events: LogEvents
) -> None:
    server.gives(flow_dict())
    copy = Copy(RemoteSource(server.url(), interval=0))
    async with followed(parts, copy):
        server.gives(b"", status=503)
        await copy.until(lambda: "503" in copy.unavailable_reason)
        looks = copy.looks
        await copy.until(lambda: copy.looks >= looks + 2)
        server.gives(b"nonsense")
        await copy.until(lambda: "is not JSON" in copy.unavailable_reason)
        assert "loop" in copy.flows
    assert [entry["fault"].split(": ", 1)[1] for entry in log_events.entries if "fault" in entry] == [
        "answers 503",
        "line 1, column 1: is not JSON: Expecting value",
    ]


# Settings


async def test_the_settings_name_the_sources_of_a_service(
    settings: Settings, folder: Path, server: RemoteServer
) -> None:
    write(folder / "file.json", flow_dict("file"))
    server.gives(flow_dict("remote"))
    own = settings.model_copy(
        update={"definitions": [server.url(), "database", f"file:{folder}"], "definition_cache_ms": 0}
    )
    async with open_service(own) as service:
        flows = service.as_trusted()
        assert [flow.flow for flow in await flows.list_flows()] == ["file", "remote"]
        changed = asyncio.Event()
        service.definitions._publication._bus.subscribe(lambda *_: changed.set())
        changes: list[Callable[[], None]] = [
            lambda: server.gives(flow_dict("remote", title="new")),
            lambda: write(folder / "file.json", flow_dict("file", title="new")),
        ]
        for change in changes:
            changed.clear()
            change()
            await asyncio.wait_for(changed.wait(), 20)
        assert {flow.title for flow in await flows.list_flows()} == {"new"}


async def test_a_broken_file_stops_the_start_with_every_fault(settings: Settings, folder: Path) -> None:
    write(folder / "a.yaml", b"a: [")
    write(folder / "b.json", flow_dict(initialStep="nowhere"))
    own = settings.model_copy(update={"definitions": [f"file:{folder}"]})
    with pytest.raises(DefinitionSourceError) as refusal:
        async with open_service(own):
            pass
    assert f"{folder}/a.yaml: line 1" in str(refusal.value)
    assert f"{folder}/b.json: initialStep: " in str(refusal.value)


@pytest.mark.expected_logs("definitions not published yet")
async def test_a_store_that_is_away_is_waited_for(
    parts: Backend, published: Published, folder: Path, monkeypatch: pytest.MonkeyPatch, log_events: LogEvents
) -> None:
    from app.contracts.errors import StoreUnavailableError

    monkeypatch.setattr("app.services.definitions.source_sync.SYNC_EVERY_SECONDS", 0.05)
    write(folder / "loop.json", flow_dict(title="one"))
    failed = asyncio.Event()
    latest = MongoDefinitionStore.latest

    async def away(*_: object) -> Any:
        failed.set()
        raise StoreUnavailableError

    async with followed(parts, SourceMirror(FileSource(folder))):
        monkeypatch.setattr(MongoDefinitionStore, "latest", away)
        write(folder / "loop.json", flow_dict(title="two"))
        await asyncio.wait_for(failed.wait(), 20)
        monkeypatch.setattr(MongoDefinitionStore, "latest", latest)
        await published.until_title("two")
    assert any(entry["event"] == "definitions not published yet" for entry in log_events.entries)


async def test_a_process_with_other_settings_is_not_needed_to_end_in_time(
    parts: Backend, folder: Path
) -> None:
    write(folder / "loop.json", flow_dict())
    own = parts_settings(folder)
    began = asyncio.get_running_loop().time()
    async with follow_sources(definition_sources(parts.service, own)):
        await asyncio.sleep(0)
    assert asyncio.get_running_loop().time() - began < 5


def parts_settings(folder: Path) -> Settings:
    return Settings(_env_file=None, definitions=["database", f"file:{folder}"])


def test_a_file_that_cannot_be_opened_is_reported(folder: Path) -> None:
    (folder / "loop.json").symlink_to("loop.json")
    with pytest.raises(DefinitionSourceError, match="symbolic links"):
        FileSource(folder).read()
