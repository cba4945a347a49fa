"""The fake of the audit log's store."""

import asyncio
from collections.abc import Sequence

from app.contracts.audit import AuditEntry, AuditFilter, UnreadableEntry
from app.contracts.errors import StoreUnavailableError

ALL = AuditFilter()


class FakeAuditStore:
    """Entries in memory. ``unavailable``: every call raises; ``loses_answers``: appends store, then raise."""

    def __init__(self) -> None:
        self.entries: list[AuditEntry | UnreadableEntry] = []
        self.unavailable = False
        self.loses_answers = False

    async def append(self, entries: Sequence[AuditEntry]) -> int:
        await self._answer()
        stored = 0
        used = {entry.sequence for entry in self.entries}
        for entry in entries:
            if entry.sequence in used:
                break
            self.entries.append(entry)
            stored += 1
        if self.loses_answers:
            raise StoreUnavailableError("the answer was lost")
        return stored

    async def last(self) -> AuditEntry | UnreadableEntry | None:
        await self._answer()
        return max(self.entries, key=lambda entry: entry.sequence, default=None)

    async def read(
        self, after: int, limit: int, only: AuditFilter = ALL
    ) -> Sequence[AuditEntry | UnreadableEntry]:
        await self._answer()
        found = sorted(self.entries, key=lambda entry: entry.sequence)
        return [entry for entry in found if entry.sequence > after and _is_selected(entry, only)][:limit]

    async def _answer(self) -> None:
        await asyncio.sleep(0)
        if self.unavailable:
            raise StoreUnavailableError("the audit log is away")


def _is_selected(entry: AuditEntry | UnreadableEntry, only: AuditFilter) -> bool:
    if isinstance(entry, UnreadableEntry):
        return only == ALL
    for name in ("target", "actor", "subject"):
        wanted = getattr(only, name)
        if wanted is not None and getattr(entry.act, name) != wanted:
            return False
    action, prefix = entry.act.action, (only.action or "*").removesuffix("*")
    if not (action.startswith(prefix) if prefix != only.action else action == prefix):
        return False
    return only.since is None or entry.at >= only.since
