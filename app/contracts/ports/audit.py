"""The port of the audit log."""

from collections.abc import Sequence
from typing import Protocol

from app.contracts.audit import AuditEntry


class AuditStore(Protocol):
    """Stores audit entries: they are appended, never changed, and have no end of life.

    Every method raises StoreUnavailableError.
    """

    async def append(self, entry: AuditEntry) -> bool:
        """Store an entry; returns false if its sequence is used."""

    async def last(self) -> AuditEntry | None:
        """Return the entry with the highest sequence."""

    async def read(self, after: int, limit: int) -> Sequence[AuditEntry]:
        """Return entries after a sequence, in order."""
