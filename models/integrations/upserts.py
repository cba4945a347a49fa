"""Statements that may find that a document exists already."""

from collections.abc import Sequence
from typing import Any

from pymongo import ReplaceOne
from pymongo.errors import BulkWriteError

from models.database import Collection

DUPLICATE_KEY = 11000


async def upsert_all(collection: Collection, statements: Sequence[ReplaceOne[dict[str, Any]]]) -> None:
    """Apply statements by ``_id`` in any order; those that lost a race to create a document, again."""
    try:
        await collection.bulk_write(list(statements), ordered=False)
    except BulkWriteError as refusal:
        lost = duplicates_in(refusal)
        if lost is None:
            raise
        await collection.bulk_write([statements[n] for n in lost], ordered=False)


def duplicates_in(refusal: BulkWriteError) -> list[int] | None:
    """Return the statements that failed because a document exists; None if one failed for another reason."""
    details = refusal.details or {}
    faults = details.get("writeErrors", ())
    if details.get("writeConcernErrors") or any(fault.get("code") != DUPLICATE_KEY for fault in faults):
        return None
    return [fault["index"] for fault in faults]
