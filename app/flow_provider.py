"""Flow providers: definitions by their slugs, for Python programs that need nothing else of the service."""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import structlog
from msgspec import to_builtins

from app.contracts.definition import FlowDefinition
from app.contracts.errors import (
    DatabaseRefusedError,
    Fault,
    FlowNotFoundError,
    InvalidRequestError,
    StoreUnavailableError,
)
from app.contracts.flow import Flow
from app.contracts.ports.sources import DefinitionSourceError
from app.contracts.provider import FlowProviderConfig
from app.flow.values.struct_errors import faults_of
from app.kit.integers import convert_json
from app.services.definitions.source_mirror import SourceMirror
from app.sources.files import FileSource
from app.sources.remote import RemoteSource
from config.log import configure_own_logs
from config.sources import auth_header, check_auth_use, check_remote
from models.database import Database, connect
from models.definition_store import MongoDefinitionStore

DEFAULT_DATABASE = "server_flow"
CACHE_LIMIT = 10_000
AGAIN_AFTER_SECONDS = 1.0
"""How long a source that could not be read is left alone."""
_MONGO_URL = re.compile(r"mongodb(?:\+srv)?://[^/?]+(?:/(?P<database>[A-Za-z0-9_-]{0,38})(?:\?.*)?)?\Z")
_CREDENTIALS = {
    "bearer": "a token, in characters that a header may have",
    "basic": "USER:PASSWORD",
    "apikey": "HEADER:VALUE, of no header that is HTTP's own, in characters that a header may have",
}
_CHOICES = {
    "/source": "takes database, file, remote or hybrid",
    "/authentication/type": "takes bearer, basic or apikey",
}
_QUOTES_NO_VALUE = re.compile(
    r'"\w{1,20}" is a required property\Z|Additional properties are not allowed|'
    r"-?[\d.e+]{1,30} is (?:less|greater)"
)
_MEMBERS = {"database": "connectionString", "file": "filePath", "remote": "remoteUrl"}


class Lookup(Protocol):
    """One place where a provider looks."""

    async def find(self, flow_id: str) -> Flow | None:
        """The flow, None when there is none. Raises FlowNotFoundError when it was retired: no other place is
        looked at. Raises StoreUnavailableError or DefinitionSourceError when nothing is known of it."""

    async def aclose(self) -> None:
        """Close connections."""


class FlowProvider:
    """``await provider(slug)`` is the flow. An async context manager; outside of one, ``aclose`` it. It may
    be used in one event loop after another, not in two at a time."""

    def __init__(self, lookups: Sequence[Lookup]) -> None:
        self._lookups = lookups

    async def __call__(self, flow_id: str) -> Flow:
        """The flow of the first place that has it. Raises FlowNotFoundError; StoreUnavailableError or
        DefinitionSourceError when a place is away of which nothing is known."""
        for lookup in self._lookups:
            flow = await lookup.find(flow_id)
            if flow is not None:
                return flow
        raise FlowNotFoundError(flow_id)

    async def __aenter__(self) -> "FlowProvider":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close connections."""
        for lookup in self._lookups:
            await lookup.aclose()


def make_flow_provider(config: FlowProviderConfig | Mapping[str, Any]) -> FlowProvider:
    """A provider by its configuration, also as JSON has it. Nothing is read yet. Raises InvalidRequestError
    with every fault."""
    checked = check_provider_config(config)
    max_age = checked.cache_timeout / 1000
    lookups: list[Lookup] = []
    if checked.connection_string is not None:
        lookups.append(_DatabaseLookup(partial(_connect, checked.connection_string), max_age))
    if checked.file_path is not None:
        lookups.append(_SourceLookup(SourceMirror(FileSource(Path(checked.file_path))), max_age))
    if checked.remote_url is not None:
        source = RemoteSource(checked.remote_url, _auth(checked))
        lookups.append(_SourceLookup(SourceMirror(source), max_age))
    if not structlog.is_configured():
        configure_own_logs("info", "console")
    return FlowProvider(lookups)


def check_provider_config(config: FlowProviderConfig | Mapping[str, Any]) -> FlowProviderConfig:
    """The configuration as a value. Raises InvalidRequestError with every fault."""
    raw: object = config
    if isinstance(config, FlowProviderConfig):
        try:
            raw = to_builtins(config)
        except TypeError:  # a member is of a type that JSON has not
            raise InvalidRequestError([Fault("", "takes text, numbers and what JSON has")]) from None
    elif isinstance(config, Mapping):
        raw = dict(config)
    faults = [_without_secrets(fault) for fault in faults_of(raw, FlowProviderConfig)]
    if not faults:
        checked = convert_json(raw, FlowProviderConfig)
        faults = list(_faults(checked))
    if faults:
        raise InvalidRequestError(faults)
    return checked


def _faults(config: FlowProviderConfig) -> Iterator[Fault]:
    given = {
        name: value
        for name, value in (
            ("connectionString", config.connection_string),
            ("filePath", config.file_path),
            ("remoteUrl", config.remote_url),
        )
        if value is not None
    }
    if config.source == "hybrid":
        if not given:
            yield Fault("", f"hybrid needs at least one of {', '.join(_MEMBERS.values())}")
    else:
        needed = _MEMBERS[config.source]
        if needed not in given:
            yield Fault(f"/{needed}", f"the source {config.source!r} needs it")
        for name in given.keys() - {needed}:
            yield Fault(f"/{name}", f"is not for the source {config.source!r}; hybrid takes several")
    if config.connection_string is not None and not _MONGO_URL.match(config.connection_string):
        yield Fault("/connectionString", "takes mongodb://HOST/DATABASE")
    if config.file_path == "":
        yield Fault("/filePath", "takes a file or a folder")
    yield from _remote_faults(config)


def _remote_faults(config: FlowProviderConfig) -> Iterator[Fault]:
    url, auth = config.remote_url, _auth(config)
    if url is not None:
        try:
            check_remote(url)
        except ValueError as refusal:
            yield Fault("/remoteUrl", str(refusal))
            url = None
    if auth is None:
        return
    try:
        auth_header(auth)
    except ValueError:
        form = _CREDENTIALS[config.authentication.type] if config.authentication else ""
        yield Fault("/authentication/credentials", f"takes {form}")
    if config.remote_url is None:
        yield Fault("/authentication", "is for a remoteUrl")
    elif url is not None:
        try:
            check_auth_use([url])
        except ValueError as refusal:
            yield Fault("/authentication", str(refusal))


def _without_secrets(fault: Fault) -> Fault:
    """JSON Schema quotes what is wrong, which may be a password."""
    if _QUOTES_NO_VALUE.match(fault.message):
        return fault
    return Fault(fault.pointer, _CHOICES.get(fault.pointer, "is not of the right type"))


def _auth(config: FlowProviderConfig) -> str | None:
    given = config.authentication
    return None if given is None else f"{given.type}:{given.credentials}"


def _connect(url: str) -> Database:
    match = _MONGO_URL.match(url)
    name = (match["database"] if match else None) or DEFAULT_DATABASE
    try:
        return connect(url, name)
    except DatabaseRefusedError:
        raise InvalidRequestError([Fault("/connectionString", "is no URL of a MongoDB")]) from None


class _DatabaseLookup:
    """The newest versions of flows in a database."""

    def __init__(self, connect: Callable[[], Database], max_age: float) -> None:
        self._connect = connect
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open()
        self._max_age = max_age
        self._kept: dict[str, tuple[FlowDefinition, float]] = {}
        self._reading: dict[str, asyncio.Task[tuple[FlowDefinition, float] | None]] = {}

    def _open(self) -> None:
        self._database = self._connect()
        self._store = MongoDefinitionStore(self._database)

    async def find(self, flow_id: str) -> Flow | None:
        await self._begin()
        now = asyncio.get_running_loop().time()
        kept = self._kept.get(flow_id)
        if kept is None or now >= kept[1]:
            reading = self._reading.get(flow_id)
            if reading is None:  # who misses at the same time waits for the same
                under_way = self._reading
                reading = under_way[flow_id] = asyncio.ensure_future(self._read(flow_id, now, kept))
                reading.add_done_callback(lambda _: under_way.pop(flow_id, None))
            kept = await asyncio.shield(reading)
        if kept is None:
            return None
        if kept[0].retired:
            raise FlowNotFoundError(flow_id)
        return kept[0].flow

    async def _begin(self) -> None:
        """Connections are of one event loop: a program may run another after it."""
        loop, before = asyncio.get_running_loop(), self._loop
        if before in (None, loop):
            self._loop = loop
            return
        of_before = self._database
        self._open()
        self._loop, self._reading = loop, {}
        await of_before.close()

    async def _read(
        self, flow_id: str, now: float, kept: tuple[FlowDefinition, float] | None
    ) -> tuple[FlowDefinition, float] | None:
        try:
            newest = await self._store.latest(flow_id)
        except StoreUnavailableError as failure:
            if kept is not None:
                return kept
            if isinstance(failure, DatabaseRefusedError):
                raise DefinitionSourceError(f"connectionString: {failure.advice}") from None
            raise
        self._kept.pop(flow_id, None)
        if newest is None:
            return None
        if len(self._kept) >= CACHE_LIMIT:
            del self._kept[next(iter(self._kept))]
        fresh = self._kept[flow_id] = (newest, now + self._max_age)
        return fresh

    async def aclose(self) -> None:
        await self._database.close()


class _SourceLookup:
    """The flows of files or of another server."""

    def __init__(self, copy: SourceMirror, max_age: float) -> None:
        self._copy = copy
        self._max_age = max_age
        self._until = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    async def find(self, flow_id: str) -> Flow | None:
        if self._loop is not (loop := asyncio.get_running_loop()):
            self._loop, self._reading = loop, asyncio.Lock()
        async with self._reading:
            now = asyncio.get_running_loop().time()
            if now >= self._until:
                await self._copy.refresh()
                pause = (
                    min(AGAIN_AFTER_SECONDS, self._max_age)
                    if self._copy.unavailable_reason
                    else self._max_age
                )
                self._until = asyncio.get_running_loop().time() + pause
        found = self._copy.flows.get(flow_id)
        if found is None and self._copy.is_missing(flow_id):
            raise DefinitionSourceError("; ".join(self._copy.faults))
        return None if found is None else found.flow

    async def aclose(self) -> None:
        """There is nothing to close: connections are of one reading."""
