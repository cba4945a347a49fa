"""The audit log in MongoDB: documents that are inserted, and never updated or deleted."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from msgspec import ValidationError, convert, to_builtins
from pymongo.errors import BulkWriteError

from app.contracts.audit import AuditEntry, AuditFilter, UnreadableEntry
from app.contracts.wire.audit import AuditEntryView, audit_entry, audit_entry_view
from app.contracts.wire.times import iso
from models.database import Collection, Database, store_errors
from models.integrations.upserts import duplicates_in

ALL = AuditFilter()


class MongoAuditStore:
    """The AuditStore port on MongoDB.

    ``_id`` is the hash. The index of the sequences is unique, so that each is used once.
    """

    def __init__(self, database: Database) -> None:
        self._entries: Collection = database.collection("flow_audit")

    async def append(self, entries: Sequence[AuditEntry]) -> int:
        """Store entries in order, up to the first whose sequence is used; returns the number of stored."""
        async with store_errors():
            try:
                await self._entries.insert_many([_document(entry) for entry in entries], ordered=True)
            except BulkWriteError as refusal:
                used = duplicates_in(refusal)
                if used is None:
                    raise
                return used[0]
        return len(entries)

    async def last(self) -> AuditEntry | UnreadableEntry | None:
        """Return the entry with the highest sequence."""
        async with store_errors():
            found = (
                await self._entries.find({"sequence": {"$gt": 0}}).sort("sequence", -1).limit(1).to_list(1)
            )
        return _entry(found[0]) if found else None

    async def read(
        self, after: int, limit: int, only: AuditFilter = ALL
    ) -> Sequence[AuditEntry | UnreadableEntry]:
        """Return entries after a sequence that a filter selects, in order."""
        wanted = {"sequence": {"$gt": after}, **_conditions(only)}
        async with store_errors():
            found = await self._entries.find(wanted).sort("sequence", 1).limit(limit).to_list(limit)
        return [_entry(document) for document in found]


def _conditions(only: AuditFilter) -> dict[str, Any]:
    wanted: dict[str, Any] = {"target": only.target, "actor": only.actor, "subject": only.subject}
    if only.action is not None:
        prefix = only.action.removesuffix("*")
        wanted["action"] = prefix if prefix == only.action else {"$regex": f"^{re.escape(prefix)}"}
    if only.since is not None:
        wanted["at"] = {"$gte": only.since}
    return {name: value for name, value in wanted.items() if value is not None}


def _document(entry: AuditEntry) -> dict[str, Any]:
    members: dict[str, Any] = to_builtins(audit_entry_view(entry))
    return {"_id": members.pop("hash"), **members, "at": entry.at}


def _entry(document: Mapping[str, Any]) -> AuditEntry | UnreadableEntry:
    members = dict(document)
    members["hash"], sequence, at = members.pop("_id"), members.get("sequence"), members.pop("at", None)
    try:
        if not isinstance(at, datetime):
            raise ValueError("its time is missing")  # noqa: TRY004 - one of the ways to be unreadable
        at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        return audit_entry(convert({**members, "at": iso(at)}, AuditEntryView))
    except (ValidationError, ValueError, OverflowError) as fault:
        number = int(sequence) if isinstance(sequence, int | float) and isfinite(sequence) else 0
        return UnreadableEntry(number, f"it cannot be read ({fault})")
