"""The connections of one server, with the limit of their number."""

import time
from typing import Protocol

import structlog

from app.kit.descriptors import UNLIMITED

log = structlog.get_logger("http")

MAX_SPARE_CONNECTIONS = 8
"""Connections beyond the limit; they are answered on the paths of probes alone."""
LOG_EVERY_SECONDS = 60.0
LOWERED_SECONDS = 10.0
"""How long a limit stays lowered after file descriptors were short."""


class LimitedConnection(Protocol):
    """A connection that can be ended in favour of another."""

    @property
    def has_unread_data(self) -> bool:
        """True while the service has not read all that the client sent."""

    def give_way(self) -> None:
        """End the connection in favour of another one."""


class ConnectionRegistry:
    """The connections that wait for their clients, the longest waiting first, and the spare ones.

    Args:
        limit: The largest number of connections, None for no limit.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = UNLIMITED if limit is None else limit
        self._lowered_limit, self._lowered_at = self._limit, 0.0
        self.waiting: dict[LimitedConnection, None] = {}
        self.spare: dict[LimitedConnection, None] = {}
        self._logged_at = -LOG_EVERY_SECONDS

    @property
    def limit(self) -> int:
        """The present limit."""
        is_lowered = time.monotonic() - self._lowered_at < LOWERED_SECONDS
        return self._lowered_limit if is_lowered else self._limit

    def lower_limit(self, limit: int) -> None:
        """Lower the limit for a while."""
        self._lowered_limit, self._lowered_at = min(self._limit, max(1, limit)), time.monotonic()

    def make_room(self) -> bool:
        """End the connection that has waited longest for its client; return false if all are at work."""
        if time.monotonic() - self._logged_at >= LOG_EVERY_SECONDS:
            self._logged_at = time.monotonic()
            log.warning("connection limit reached", limit=self.limit, setting="FLOW_MAX_CONNECTIONS")
        for connection in self.waiting:
            if connection not in self.spare and not connection.has_unread_data:
                connection.give_way()
                return True
        return False

    def add_spare(self, connection: LimitedConnection) -> None:
        """Admit a connection beyond the limit; if there are too many of these, end the first one."""
        self.spare[connection] = None
        if len(self.spare) > MAX_SPARE_CONNECTIONS:
            next(iter(self.spare)).give_way()

    def remove(self, connection: LimitedConnection) -> None:
        """Remove a connection that has ended or become a WebSocket."""
        self.waiting.pop(connection, None)
        self.spare.pop(connection, None)
