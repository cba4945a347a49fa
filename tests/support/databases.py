"""Test databases: the commands sent to them, and their removal."""

import os
from typing import Any

from pymongo import monitoring

from models.database import Database

MONGO_URL = os.environ.get("FLOW_TEST_MONGO_URL")
REDIS_URL = os.environ.get("FLOW_TEST_REDIS_URL")


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


async def discard(database: Database) -> None:
    """Close a test database, and drop it on a server that outlives the tests.

    The embedded servers are removed with their data; dropping a database there takes seconds.
    """
    if MONGO_URL and REDIS_URL:
        await database.drop()
    await database.close()
