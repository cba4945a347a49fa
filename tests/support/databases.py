"""Test databases: the commands sent to them, and their removal."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from pymongo import MongoClient, monitoring

from models.database import Collection, Database
from models.indexes import EMBEDDED_INDEXES, INDEXES
from tests.support.environment import MONGO_URL, REDIS_URL

_HANDSHAKE = {"saslStart", "saslContinue"}


class SentCommands(monitoring.CommandListener):
    """Records the commands sent, except those for the lease and of a connection's handshake."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.commands: list[dict[str, Any]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Record a command."""
        if event.command.get(event.command_name) != "flow_leases" and event.command_name not in _HANDSHAKE:
            self.names.append(event.command_name)
            self.commands.append(dict(event.command))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Ignore the reply."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Ignore the failure: the caller sees it."""


class InterceptedDatabase(Database):
    """The database of another one, with calls of some methods of a collection going through a function.

    ``around`` gets the call, which it can make, repeat or replace by an exception.
    """

    def __init__(self, database: Database, name: str, **around: Callable[[Callable[..., Any]], Any]) -> None:
        self._intercepted = database
        self._name = name
        self._around = around

    def collection(self, name: str) -> Collection:
        """Return a collection, intercepted if it is the one."""
        collection = self._intercepted.collection(name)
        if name != self._name:
            return collection
        return cast(Collection, _InterceptedCollection(collection, self._around))


class _InterceptedCollection:
    def __init__(
        self, collection: Collection, around: dict[str, Callable[[Callable[..., Any]], Any]]
    ) -> None:
        self._collection = collection
        self._around = around

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._collection, name)
        if name not in self._around:
            return method
        return lambda *given, **named: self._around[name](partial(method, *given, **named))


def prepare_cheaply(client: MongoClient[dict[str, Any]], name: str) -> None:
    """Create the declared collections and indexes of a test database.

    The service finds nothing to create then; with Beanie it takes ten times the CPU.
    """
    is_embedded = "secantusVersion" in client.admin.command("buildInfo")
    for collection, declared in INDEXES.items():
        indexes = [*declared, *(EMBEDDED_INDEXES.get(collection, ()) if is_embedded else ())]
        if indexes:
            client[name][collection].create_indexes(indexes)
        else:
            client[name].create_collection(collection, check_exists=False)


async def discard(database: Database) -> None:
    """Close a test database, and drop it on a server that outlives the tests.

    The embedded servers are removed with their data; dropping a database there takes seconds.
    """
    if MONGO_URL and REDIS_URL:
        await database.drop()
    await database.close()
