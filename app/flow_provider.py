"""Flow providers: definitions by slug, for Python programs that need nothing else of the service."""

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
    DefinitionSourceError,
    Fault,
    FlowNotFoundError,
    InvalidRequestError,
    StoreUnavailableError,
)
from app.contracts.flow import Flow
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
MAX_CACHED = 10_000
RETRY_AFTER_SECONDS = 1.0
"""Pause after a source could not be read."""
_MONGO_URL = re.compile(r"mongodb(?:\+srv)?://[^/?]+(?:/(?P<database>[A-Za-z0-9_-]{0,38})(?:\?.*)?)?\Z")
_CREDENTIALS = {
    "bearer": "a token, in characters that a header may have",
    "basic": "USER:PASSWORD",
    "apikey": "HEADER:VALUE, with no standard header of HTTP, in characters that a header may have",
}
_ALLOWED_VALUES = {
    "/source": "must be database, file, remote or hybrid",
    "/authentication/type": "must be bearer, basic or apikey",
}
_SAFE_MESSAGE = re.compile(
    r'"\w{1,20}" is a required property\Z|Additional properties are not allowed|'
    r"-?[\d.e+]{1,30} is (?:less|greater)"
)
_MEMBERS = {"database": "connectionString", "file": "filePath", "remote": "remoteUrl"}


class DefinitionLookup(Protocol):
    """A place where a provider finds definitions."""

    async def find(self, flow_id: str) -> Flow | None:
        """Return the flow; None if there is none.

        Raises:
            FlowNotFoundError: The flow was retired, so other places must not be searched.
            StoreUnavailableError, DefinitionSourceError: The place is unavailable, and the flow not cached.
        """

    async def aclose(self) -> None:
        """Close connections."""


class FlowProvider:
    """Returns flows: ``await provider(slug)``.

    An async context manager; without one, call ``aclose``. It can be used in one event loop after another,
    but not in two at a time.
    """

    def __init__(self, lookups: Sequence[DefinitionLookup]) -> None:
        self._lookups = lookups

    async def __call__(self, flow_id: str) -> Flow:
        """Return the flow of the first place that has it.

        Raises:
            FlowNotFoundError: No place has the flow, or it was retired.
            StoreUnavailableError, DefinitionSourceError: A place is unavailable, and the flow not cached.
        """
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
    """Create a provider from its configuration, a value or a mapping of JSON. Nothing is read yet.

    Raises:
        InvalidRequestError: The configuration is invalid; with every fault.
    """
    checked = check_provider_config(config)
    max_age = checked.cache_timeout / 1000
    lookups: list[DefinitionLookup] = []
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
    """Return the configuration as a value. Raises InvalidRequestError with every fault."""
    raw: object = config
    if isinstance(config, FlowProviderConfig):
        try:
            raw = to_builtins(config)
        except TypeError:  # the type of a member does not exist in JSON
            raise InvalidRequestError([Fault("", "must contain only values of JSON")]) from None
    elif isinstance(config, Mapping):
        raw = dict(config)
    faults = [_without_secrets(fault) for fault in faults_of(raw, FlowProviderConfig)]
    if not faults:
        checked = convert_json(raw, FlowProviderConfig)
        faults = list(_config_faults(checked))
    if faults:
        raise InvalidRequestError(faults)
    return checked


def _config_faults(config: FlowProviderConfig) -> Iterator[Fault]:
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
            yield Fault("", f"hybrid requires at least one of {', '.join(_MEMBERS.values())}")
    else:
        needed = _MEMBERS[config.source]
        if needed not in given:
            yield Fault(f"/{needed}", f"is required for the source {config.source!r}")
        for name in given.keys() - {needed}:
            yield Fault(
                f"/{name}", f"is not allowed for the source {config.source!r}; hybrid accepts several"
            )
    if config.connection_string is not None and not _MONGO_URL.match(config.connection_string):
        yield Fault("/connectionString", "must be mongodb://HOST/DATABASE")
    if config.file_path == "":
        yield Fault("/filePath", "must be a file or a folder")
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
        yield Fault("/authentication/credentials", f"must be {form}")
    if config.remote_url is None:
        yield Fault("/authentication", "requires a remoteUrl")
    elif url is not None:
        try:
            check_auth_use([url])
        except ValueError as refusal:
            yield Fault("/authentication", str(refusal))


def _without_secrets(fault: Fault) -> Fault:
    """Replace a message that may quote a value, which may be a password."""
    if _SAFE_MESSAGE.match(fault.message):
        return fault
    return Fault(fault.pointer, _ALLOWED_VALUES.get(fault.pointer, "has the wrong type"))


def _auth(config: FlowProviderConfig) -> str | None:
    given = config.authentication
    return None if given is None else f"{given.type}:{given.credentials}"


def _connect(url: str) -> Database:
    match = _MONGO_URL.match(url)
    name = (match["database"] if match else None) or DEFAULT_DATABASE
    try:
        return connect(url, name)
    except DatabaseRefusedError:
        raise InvalidRequestError([Fault("/connectionString", "is not a URL of MongoDB")]) from None


class _DatabaseLookup:
    """Finds the newest versions of flows in a database."""

    def __init__(self, connect: Callable[[], Database], max_age: float) -> None:
        self._connect = connect
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open()
        self._max_age = max_age
        self._cache: dict[str, tuple[FlowDefinition, float]] = {}
        self._reading: dict[str, asyncio.Task[tuple[FlowDefinition, float] | None]] = {}

    def _open(self) -> None:
        self._database = self._connect()
        self._store = MongoDefinitionStore(self._database)

    async def find(self, flow_id: str) -> Flow | None:
        await self._reconnect_in_new_loop()
        now = asyncio.get_running_loop().time()
        cached = self._cache.get(flow_id)
        if cached is None or now >= cached[1]:
            reading = self._reading.get(flow_id)
            if reading is None:  # concurrent misses share one read
                under_way = self._reading
                reading = under_way[flow_id] = asyncio.ensure_future(
                    self._read_definition(flow_id, now, cached)
                )
                reading.add_done_callback(lambda _: under_way.pop(flow_id, None))
            cached = await asyncio.shield(reading)
        if cached is None:
            return None
        if cached[0].retired:
            raise FlowNotFoundError(flow_id)
        return cached[0].flow

    async def _reconnect_in_new_loop(self) -> None:
        """Replace connections that belong to an earlier event loop of the program."""
        loop, before = asyncio.get_running_loop(), self._loop
        if before in (None, loop):
            self._loop = loop
            return
        earlier = self._database
        self._open()
        self._loop, self._reading = loop, {}
        await earlier.close()

    async def _read_definition(
        self, flow_id: str, now: float, cached: tuple[FlowDefinition, float] | None
    ) -> tuple[FlowDefinition, float] | None:
        try:
            newest = await self._store.latest(flow_id)
        except StoreUnavailableError as failure:
            if cached is not None:
                return cached
            if isinstance(failure, DatabaseRefusedError):
                raise DefinitionSourceError(f"connectionString: {failure.advice}") from None
            raise
        self._cache.pop(flow_id, None)
        if newest is None:
            return None
        if len(self._cache) >= MAX_CACHED:
            del self._cache[next(iter(self._cache))]
        fresh = self._cache[flow_id] = (newest, now + self._max_age)
        return fresh

    async def aclose(self) -> None:
        await self._database.close()


class _SourceLookup:
    """Finds the flows of files or of another server."""

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
                    min(RETRY_AFTER_SECONDS, self._max_age)
                    if self._copy.unavailable_reason
                    else self._max_age
                )
                self._until = asyncio.get_running_loop().time() + pause
        found = self._copy.flows.get(flow_id)
        if found is None and self._copy.is_missing(flow_id):
            raise DefinitionSourceError("; ".join(self._copy.faults))
        return None if found is None else found.flow

    async def aclose(self) -> None:
        """Do nothing: connections are closed after each read."""
