"""The log of deliveries in MongoDB.

The ``_id`` of an entry is ``<alias>;<sequence>``. A writer inserts the number after the last one that it
knows; if another worker has used it, the insert fails and is repeated behind that one. Inserts of a command
are ordered. So the numbers have no gap, and none is visible before a lower one: entries are read by the
numbers that they must have. An entry whose data is removed stays as a blank until its age removes it.

The document ``<alias>`` has the first number that is left. There is no TTL: the embedded server reads a
whole collection each minute if it has one (docs/decisions/0020), and a TTL would also remove the last
number of a log, which would begin anew.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec import UNSET, convert
from pymongo.errors import BulkWriteError

from app.contracts.deliveries import LoggedDelivery
from app.contracts.state import StateId, id_from_key
from app.kit.casing import camel_case
from models.codec import Document
from models.database import Collection, Database, store_errors
from models.indexed import pipeline
from models.integrations.upserts import duplicates_in

MAX_ENTRIES_IN_COMMAND = 1000
LAST_NUMBER_SECONDS = 600.0
"""How long a worker relies on the last number that it used; much shorter than the life of an entry."""
_PROBED_BITS = 50

_FIELDS = {
    name: "eventId" if name == "id" else camel_case(name)
    for name in LoggedDelivery.__struct_fields__
    if name not in ("alias", "state_id", "sequence")
}
_BLANKED = {name: "" for name in ("stateKey", *_FIELDS.values()) if name != "deliveredAt"}


class MongoDeliveryLog:
    """The DeliveryLog port on MongoDB: point operations, and one insert for a batch."""

    def __init__(self, database: Database) -> None:
        self._log: Collection = database.collection("flow_delivery_log")
        self._lasts: dict[str, tuple[int, float]] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def append(self, alias: str, deliveries: Sequence[LoggedDelivery]) -> int:
        """Append deliveries in order, each with the next sequence number; return the last number."""
        async with self._locks[alias], store_errors():
            last = await self._known_last(alias)
            left = list(deliveries)
            while left:
                documents = [_to_document(alias, number, each) for number, each in enumerate(left, last + 1)]
                stored = await self._insert(documents)
                last += stored
                left = left[stored:]
                if left:  # the next number was used by another worker
                    last = await self._last_behind(alias, last + 1)
            self._lasts[alias] = last, time.monotonic()
        return last

    async def _insert(self, documents: Sequence[Document]) -> int:
        """Insert entries up to the first one whose number is used. Returns how many."""
        try:
            await self._log.insert_many(documents)
        except BulkWriteError as refusal:
            used = duplicates_in(refusal)
            if not used:
                raise
            return used[0]
        return len(documents)

    async def read(self, alias: str, after: int, limit: int) -> list[LoggedDelivery]:
        """Return deliveries after a sequence number, in order."""
        found: list[LoggedDelivery] = []
        start = max(after, 0) + 1
        while len(found) < limit:
            window = range(start, start + min(limit, MAX_ENTRIES_IN_COMMAND))
            first, entries = await self._entries(alias, window)
            found += [_from_document(document) for document in entries if "eventId" in document]
            if entries and entries[-1]["_id"] == _key(alias, window[-1]):
                start = window.stop
            elif not entries and first >= window.stop:
                start = first
            else:
                break
        return found[:limit]

    async def _entries(self, alias: str, window: range) -> tuple[int, list[Document]]:
        """Read the entries with numbers in ``window``, blank ones too.

        Returns:
            The first number that is left, and the entries up to the first one that is missing: a query is no
            snapshot, it may find a new entry after it has missed the one before.
        """
        keys = [alias, *(_key(alias, number) for number in window)]
        async with store_errors():
            found = await self._log.find({"_id": {"$in": keys}}).to_list(None)
        by_key = {document["_id"]: document for document in found}
        first = int(by_key.get(alias, {}).get("first", 1))
        entries = []
        for number in range(window.start if keys[1] in by_key else max(window.start, first), window.stop):
            document = by_key.get(_key(alias, number))
            if document is None:
                break
            entries.append(document)
        return first, entries

    async def first(self, alias: str) -> int:
        """Return the lowest number that age has not removed, one more than the last if there is none."""
        async with store_errors():
            return await self._read_first(alias)

    async def last(self, alias: str) -> int:
        """Return the highest number that was used, 0 if there is none."""
        async with store_errors():
            return await self._find_last(alias)

    async def find(self, event_id: str) -> LoggedDelivery | None:
        """Return the last delivery of an event."""
        stages = pipeline({"eventId": event_id}, sort=(("deliveredAt", -1), ("_id", -1)), limit=1)
        async with store_errors():
            found = await self._log.aggregate(stages).to_list(1)
        return _from_document(found[0]) if found else None

    async def delete_of_integration(self, alias: str) -> int:
        """Remove the data of the log of an integration, and return the number of entries.

        The numbers go on if it is registered again: another worker may be about to use the next one.
        """
        count = 0
        async with store_errors():
            first, last = await self._read_first(alias), await self._find_last(alias)
            for start in range(first, last + 1, MAX_ENTRIES_IN_COMMAND):
                numbers = range(start, min(last + 1, start + MAX_ENTRIES_IN_COMMAND))
                keys = [_key(alias, number) for number in numbers]
                answer = await self._log.update_many({"_id": {"$in": keys}}, {"$unset": _BLANKED})
                count += answer.modified_count
        return count

    async def delete_of_state(self, state_id: StateId) -> int:
        """Remove the data of the entries of a state, and return their number."""
        async with store_errors():
            answer = await self._log.update_many({"stateKey": state_id.key}, {"$unset": _BLANKED})
        return answer.modified_count

    async def remove_expired(self, before: datetime) -> int:
        """Remove the oldest entries of every log, up to the first one that was delivered later.

        Returns:
            The number of entries, blank ones too.
        """
        async with store_errors():
            heads = await self._log.find({"first": {"$gt": 0}}).to_list(None)
        return sum([await self._remove_expired(head["_id"], head["first"], before) for head in heads])

    async def _remove_expired(self, alias: str, first: int, before: datetime) -> int:
        count = 0
        while True:
            _, documents = await self._entries(alias, range(first, first + MAX_ENTRIES_IN_COMMAND))
            expired = []
            for document in documents:
                if document["deliveredAt"] >= before:
                    break
                expired.append(document["_id"])
            if not expired:
                return count
            first = _number(expired[-1]) + 1
            async with store_errors():
                # In this order, so that the last number is known when no entry is left.
                await self._log.update_one({"_id": alias}, {"$max": {"first": first}})
                await self._log.delete_many({"_id": {"$in": expired}})
            count += len(expired)

    async def _known_last(self, alias: str) -> int:
        """Return the last number, or one that was the last a short time ago."""
        last, at = self._lasts.get(alias, (0, -LAST_NUMBER_SECONDS))
        if time.monotonic() - at < LAST_NUMBER_SECONDS:
            return last
        last = await self._find_last(alias)
        if last == 0:
            await self._log.update_one({"_id": alias}, {"$setOnInsert": {"first": 1}}, upsert=True)
        return last

    async def _find_last(self, alias: str) -> int:
        """Find the last number by a few point reads, whatever the number of entries."""
        first = await self._read_first(alias)
        while True:
            last = await self._last_behind(alias, first - 1)
            now_first = await self._read_first(alias)
            if now_first == first:
                return last
            first = now_first  # entries were removed while they were looked for

    async def _last_behind(self, alias: str, known: int) -> int:
        """Return the last number, from one that is used, or from that before the first one.

        A step as long as possible, a power of two, is followed by shorter ones, as all numbers are used.
        """
        while True:
            probes = [_key(alias, known + (1 << bits)) for bits in range(_PROBED_BITS)]
            found = await self._log.find({"_id": {"$in": probes}}, {"_id": 1}).to_list(None)
            if not found:
                return known
            known = max(_number(document["_id"]) for document in found)

    async def _read_first(self, alias: str) -> int:
        head = await self._log.find_one({"_id": alias})
        return 1 if head is None else int(head["first"])


def _key(alias: str, number: int) -> str:
    return f"{alias};{number:016d}"


def _number(key: str) -> int:
    return int(key.rpartition(";")[2])


def _to_document(alias: str, number: int, delivery: LoggedDelivery) -> Document:
    document: Document = {"_id": _key(alias, number), "stateKey": delivery.state_id.key}
    for name, field in _FIELDS.items():
        value = getattr(delivery, name)
        if value is not UNSET:
            document[field] = list(value) if isinstance(value, tuple) else value
    return document


def _from_document(document: Document) -> LoggedDelivery:
    alias, _, number = document["_id"].rpartition(";")
    members: dict[str, Any] = {name: document[field] for name, field in _FIELDS.items() if field in document}
    place = {"alias": alias, "state_id": id_from_key(document["stateKey"]), "sequence": int(number)}
    return convert(members | place, LoggedDelivery)
