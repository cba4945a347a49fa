"""The ports of registered integrations, their health, and their API keys."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from app.contracts.integration import ApiKey, Heartbeat, Integration, IntegrationHealth


class IntegrationStore(Protocol):
    """Registrations and the health of integrations. Every method raises StoreUnavailableError."""

    async def list_all(self) -> list[Integration]:
        """Return all registrations, by alias."""

    async def get(self, alias: str) -> Integration | None:
        """Return a registration, None if there is none."""

    async def put(self, integration: Integration, expected_revision: int | None) -> bool:
        """Store a registration with its health record. The stored heartbeat of an existing one stays.

        Args:
            integration: The registration.
            expected_revision: The revision that it replaces; None: there must be none.

        Returns:
            False if the stored revision is another one; nothing is changed then.
        """

    async def put_heartbeat(self, alias: str, heartbeat: Heartbeat) -> bool:
        """Store the last report of an integration; its revision stays. Returns false if there is none."""

    async def delete(self, alias: str) -> bool:
        """Remove a registration and its health. Returns false if there was none."""

    async def list_health(self) -> list[IntegrationHealth]:
        """Return the health of all integrations, by alias."""

    async def put_health(self, health: IntegrationHealth) -> bool:
        """Replace breaker members of a health record whose revision is ``health.revision - 1``.

        The counts and the rate window are not replaced.

        Returns:
            False if another worker was first.
        """

    async def count(self, alias: str, *, delivered: int = 0, failed: int = 0, internal: int = 0) -> None:
        """Add to the counts of an integration."""

    async def take_rate(self, alias: str, second: int, wanted: int, limit: int) -> int:
        """Take requests from the rate of a second, of all workers together.

        Args:
            alias: The integration.
            second: The present second, since 1970.
            wanted: The number of requests.
            limit: The largest number of a second.

        Returns:
            The number of requests that may be sent now, at most ``wanted``.
        """


class ApiKeyStore(Protocol):
    """API keys of integrations. Every method raises StoreUnavailableError.

    Revoked and expired keys may be removed after 90 days.
    """

    async def add(self, key: ApiKey) -> None:
        """Store a new key."""

    async def get(self, key_id: str) -> ApiKey | None:
        """Return a key, None if there is none."""

    async def of_integration(self, alias: str) -> Sequence[ApiKey]:
        """Return the keys of an integration, oldest first, revoked ones too."""

    async def revoke(self, alias: str, key_id: str, at: datetime) -> bool:
        """Revoke a key of an integration. Returns false if it has none by this id, or revoked it before."""

    async def note_use(self, key_id: str, at: datetime) -> None:
        """Store the time of the last use, unless a later one is stored."""

    async def delete_of(self, alias: str) -> int:
        """Remove all keys of an integration, and return their number."""
