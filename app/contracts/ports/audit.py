"""The port of the audit log."""

from collections.abc import Sequence
from typing import Protocol

from app.contracts.audit import AuditEntry, AuditFilter, UnreadableEntry


class AuditStore(Protocol):
    """Stores audit entries: they are appended, never changed, and have no end of life.

    Every method raises StoreUnavailableError.
    """

    async def append(self, entries: Sequence[AuditEntry]) -> int:
        """Store entries with consecutive sequences, in order, up to the first whose sequence is used.

        Returns:
            The number of entries that were stored, which are the first ones.
        """

    async def last(self) -> AuditEntry | UnreadableEntry | None:
        """Return the entry with the highest sequence."""

    async def read(
        self, after: int, limit: int, only: AuditFilter = ...
    ) -> Sequence[AuditEntry | UnreadableEntry]:
        """Return entries after a sequence that a filter selects, in order."""
