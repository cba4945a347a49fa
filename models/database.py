"""The connection to MongoDB. Only this module makes a client."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import structlog
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection, AsyncIOMotorDatabase
from pymongo import MongoClient, WriteConcern
from pymongo import timeout as pymongo_timeout
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    InvalidURI,
    OperationFailure,
    PyMongoError,
)
from pymongo.read_preferences import ReadPreference
from uuid_utils import uuid7

from app.contracts.errors import DatabaseRefusedError, StoreUnavailableError
from models.indexes import (
    EMBEDDED_INDEXES,
    INDEXES,
    RETAINED_COLLECTIONS,
    RETENTION_INDEX,
    RETIRED_INDEXES,
    has_indexes,
)
from models.write_failures import LAST_FAILURE, failures_in, storage_failure

log = structlog.get_logger("store")

Client = AsyncIOMotorClient[dict[str, Any]]
Collection = AsyncIOMotorCollection[dict[str, Any]]

SERVER_SELECTION_MS = 2000
SOCKET_TIMEOUT_MS = 10_000
CLOSE_SECONDS = 0.5
PROBE_BYTES = 4096
ANSWER_SECONDS = 2.5
"""Timeout of a point read, a commit or a check, so that a hanging server does not hang callers."""

_ANY_DATE = {"$gt": datetime(1970, 1, 1, tzinfo=UTC)}
USABLE = (
    "mongodb://USER:PASSWORD@HOST:27017,HOST:27017/?replicaSet=NAME or mongodb+srv://USER:PASSWORD@NAME "
    "(a name that DNS knows), with user and password percent-encoded"
)

IMPORT_LEASE = "import"
"""The lease of an unfinished import; its holder is the checksum of the file."""

_GOING_AWAY = {89, 91, 189, 262, 11600, 11602, 13435, 13436, 10107, 64}
"""Error codes of a server that shuts down, steps down or cannot confirm a write in time."""


_USER_EXISTS = 51003
_COLLECTION_EXISTS = 48
_NOT_ALLOWED = {13, 18, 8000}
"""Error codes for missing rights, for a wrong user or password, and for both (some hosted servers)."""


def connect(url: str, name: str, listeners: Sequence[Any] = ()) -> "Database":
    """Make the client of a database; nothing is sent yet.

    Args:
        url: The URL of the servers.
        name: The name of the database.
        listeners: Listeners of PyMongo, called for every command.

    Raises:
        DatabaseRefusedError: The URL is wrong.
    """
    try:
        client: Client = AsyncIOMotorClient(
            url,
            tz_aware=True,
            datetime_conversion="DATETIME_AUTO",  # an invalid date must not fail the read of other documents
            serverSelectionTimeoutMS=SERVER_SELECTION_MS,
            connectTimeoutMS=SERVER_SELECTION_MS,
            socketTimeoutMS=SOCKET_TIMEOUT_MS,
            appname="server-flow",
            event_listeners=list(listeners),
        )
    except (InvalidURI, ConfigurationError, ValueError):  # their messages may contain the password
        raise DatabaseRefusedError(f"The URL of MongoDB is not valid; it must look like {USABLE}") from None
    return Database(client, name)


class Database:
    """A client and its database. Writes wait for a majority and the journal; reads go to the primary."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._database: AsyncIOMotorDatabase[dict[str, Any]] = self._client.get_database(
            name,
            write_concern=WriteConcern("majority", j=True),
            read_preference=ReadPreference.PRIMARY,
        )

    def collection(self, name: str) -> Collection:
        """Return a collection."""
        return self._database[name]

    async def ping(self) -> None:
        """Check that the server answers and, after a failed write, that it writes again.

        Raises:
            StoreUnavailableError: It does not, or not in ``ANSWER_SECONDS``.
        """
        async with store_errors(ANSWER_SECONDS):
            await self._client.admin.command("ping")
            if LAST_FAILURE.reason is not None:
                probe = {"_id": f"probe {uuid7()}", "holder": "x" * PROBE_BYTES}
                await self.collection("flow_leases").insert_one(probe)
                await self.collection("flow_leases").delete_one({"_id": probe["_id"]})
                LAST_FAILURE.reason = None

    async def server_time(self) -> datetime:
        """Return the time of the server's clock, in UTC.

        Raises:
            StoreUnavailableError: The server does not answer.
        """
        async with store_errors():
            answer = await self._client.admin.command("hello")
        found: datetime = answer["localTime"]
        return found if found.tzinfo is not None else found.replace(tzinfo=UTC)

    async def prepare(self, *, retention: bool = False, importing: bool = False) -> None:
        """Create the declared indexes that do not exist.

        Args:
            retention: Records of the history are deleted at the end of their retention.
            importing: Prepare also a database whose import has not finished.

        Raises:
            DatabaseRefusedError: The server refuses, or an import into the database has not finished.
            StoreUnavailableError: The server does not answer.
        """
        try:
            async with store_errors():
                found = {name: await self.collection(name).index_information() for name in INDEXES}
                for name, retired in RETIRED_INDEXES.items():
                    for index in set(retired) & set(found[name]):
                        await self.collection(name).drop_index(index)
                if "secantusVersion" in await self._client.admin.command("buildInfo"):
                    await self._prepare_embedded(found)
                if not all(has_indexes(found[name], declared) for name, declared in INDEXES.items()):
                    await self._create_indexes()
                for name in RETAINED_COLLECTIONS:
                    await self._prepare_retention(name, found[name], wanted=retention or importing)
                if not importing and await self.collection("flow_leases").find_one({"_id": IMPORT_LEASE}):
                    raise DatabaseRefusedError(
                        "An import into this database has not finished: repeat 'server-flow data import'"
                    )
        except OperationFailure as refusal:
            raise _refused(refusal) from None

    async def _create_indexes(self) -> None:
        """Have Beanie create the declared indexes; a database that has them all need not load it."""
        from beanie import init_beanie  # noqa: PLC0415

        from models.documents import DOCUMENTS  # noqa: PLC0415

        await init_beanie(database=self._database, document_models=DOCUMENTS)

    async def _prepare_retention(
        self, collection_name: str, found: Mapping[str, Any], *, wanted: bool
    ) -> None:
        """Create the TTL of a collection, or drop it when none of its documents has an end."""
        retained = self.collection(collection_name)
        name = RETENTION_INDEX.document["name"]
        if wanted and not has_indexes(found, [RETENTION_INDEX]):
            await retained.create_indexes([RETENTION_INDEX])
        elif not wanted and name in found and await retained.find_one({"expiresAt": _ANY_DATE}) is None:
            await retained.drop_index(name)

    async def _prepare_embedded(self, found: Mapping[str, Mapping[str, Any]]) -> None:
        """Create the collections and indexes that the embedded server also needs (docs/decisions/0020).

        The Rust server fails when documents are deleted by ``_id`` from a collection that does not exist.
        """
        for name in (name for name, indexes in found.items() if not indexes):
            try:
                await self._database.create_collection(name, check_exists=False)
            except OperationFailure as refusal:
                if refusal.code != _COLLECTION_EXISTS:  # another worker created it first
                    raise
        for name, declared in EMBEDDED_INDEXES.items():
            if not has_indexes(found[name], declared):
                await self.collection(name).create_indexes(list(declared))

    async def drop(self) -> None:
        """Remove the database with all its data (for tests)."""
        await self._client.drop_database(self._database.name)

    async def close(self) -> None:
        """Close all connections, without waiting for a server that does not answer."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with pymongo_timeout(CLOSE_SECONDS):
            self._client.close()


def is_outage(error: PyMongoError) -> bool:
    """Return whether an error means that the server is unavailable, not that the command was wrong."""
    if isinstance(error, ConnectionFailure) or _storage_failure(error) is not None:
        return True
    if isinstance(error, BulkWriteError):
        details = error.details or {}
        faults = [*details.get("writeErrors", ()), *details.get("writeConcernErrors", ())]
        return any(fault.get("code") in _GOING_AWAY for fault in faults)
    return isinstance(error, OperationFailure) and (
        error.code in _GOING_AWAY or error.has_error_label("RetryableWriteError")
    )


def _storage_failure(error: PyMongoError) -> str | None:
    """Return why the database could not write, if that is the error, and store it for the readiness check."""
    if not isinstance(error, OperationFailure):
        return None
    reason = next(iter(failures_in(error.details)), None) or storage_failure(error.code, str(error))
    if reason is not None:
        LAST_FAILURE.reason = reason
    return reason


@asynccontextmanager
async def store_errors(seconds: float | None = None) -> AsyncIterator[None]:
    """Raise errors of the driver as errors of the interface.

    Args:
        seconds: The timeout of the block; None for none.

    Raises:
        StoreUnavailableError: The server does not answer, not in time, or cannot write.
        DatabaseRefusedError: The server refuses the user, the password or the operation.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except PyMongoError as error:
        if (reason := _storage_failure(error)) is not None:
            raise StoreUnavailableError(reason) from None
        if is_outage(error):
            raise StoreUnavailableError from None
        if isinstance(error, ConfigurationError):  # the driver queries DNS only now
            raise StoreUnavailableError("DNS does not know the servers of MongoDB's URL") from None
        if isinstance(error, OperationFailure) and error.code in _NOT_ALLOWED:
            log.error("MongoDB refused access", code=error.code)
            raise _refused(error) from None
        raise
    except TimeoutError:
        raise StoreUnavailableError from None


def _refused(error: OperationFailure) -> DatabaseRefusedError:
    is_not_allowed = error.code in _NOT_ALLOWED
    advice = ": check the user, the password and the rights of its URL" if is_not_allowed else ""
    return DatabaseRefusedError(
        f"MongoDB refuses (code {error.code}){advice}",
        wrong_credentials=is_not_allowed,
        failed=not is_not_allowed,
    )


def create_first_user(url: str, user: str, password: str) -> None:
    """Create ``user`` with all rights, unless it exists.

    Raises:
        StoreUnavailableError: The server does not answer or refuses.
    """
    client: MongoClient[dict[str, Any]] = MongoClient(url, serverSelectionTimeoutMS=10_000)
    try:
        client.admin.command("createUser", user, pwd=password, roles=["root"])
    except OperationFailure as refusal:
        if refusal.code != _USER_EXISTS:
            raise StoreUnavailableError from None
    except PyMongoError:
        raise StoreUnavailableError from None
    finally:
        client.close()
