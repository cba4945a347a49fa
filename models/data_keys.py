"""The data keys of users and of the service in MongoDB, one document for each owner.

Each change of an existing document is a compare-and-set of its ``revision``. ``wrappedBy`` has the ids of the
keys that wrap its usable keys, separated by commas: a single value, so that a range of an index finds it.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import TypeVar

import structlog
from msgspec import Struct, ValidationError, convert, structs, to_builtins
from pymongo.errors import BulkWriteError

from app.contracts.errors import StoreUnavailableError
from app.contracts.ports.keys import DataKeyRing, DestroyedKey, WrappedKey
from app.kit.casing import camel_case, snake_case
from models.batching.adaptive_size import AdaptiveBatchSize
from models.batching.batcher import Batcher
from models.codec import Document
from models.database import ANSWER_SECONDS, Database, store_errors
from models.database import Collection as MongoCollection
from models.integrations.upserts import duplicates_in

log = structlog.get_logger("encryption")

T = TypeVar("T", WrappedKey, DestroyedKey)

MAX_OWNERS_IN_COMMAND = 250
MAX_COMMANDS_IN_FLIGHT = 2
MAX_CHANGE_ATTEMPTS = 20
SCANNED_DOCUMENTS = 1000

_KEY_ID = re.compile(r"[0-9a-f]{16}\Z")
_Creation = tuple[str, WrappedKey]


class MongoDataKeyStore:
    """The DataKeyStore port on MongoDB."""

    def __init__(self, database: Database) -> None:
        self._keys: MongoCollection = database.collection("flow_data_keys")
        self._loads: Batcher[str, DataKeyRing | None] = Batcher(
            self._load_all,
            batch_size=AdaptiveBatchSize(MAX_OWNERS_IN_COMMAND, ANSWER_SECONDS),
            max_in_flight=MAX_COMMANDS_IN_FLIGHT,
            timeout=ANSWER_SECONDS,
        )
        self._creations: Batcher[_Creation, DataKeyRing] = Batcher(
            self._create_all,
            batch_size=AdaptiveBatchSize(MAX_OWNERS_IN_COMMAND, ANSWER_SECONDS),
            max_in_flight=MAX_COMMANDS_IN_FLIGHT,
            timeout=ANSWER_SECONDS,
        )

    async def load_many(self, owners: Sequence[str]) -> dict[str, DataKeyRing]:
        """Return the keys of owners; those without keys are left out."""
        async with store_errors():
            if len(owners) == 1:
                found = await self._loads.submit(owners[0])
                return {} if found is None else {found.owner: found}
            rings: dict[str, DataKeyRing] = {}
            for start in range(0, len(owners), MAX_OWNERS_IN_COMMAND):
                for ring in await self._load_all(owners[start : start + MAX_OWNERS_IN_COMMAND]):
                    if isinstance(ring, DataKeyRing):
                        rings[ring.owner] = ring
        return rings

    async def create_many(self, keys: Mapping[str, WrappedKey]) -> dict[str, DataKeyRing]:
        """Store a current key for each owner that has none, and return what is stored of each then."""
        created = list(keys.items())
        async with store_errors():
            if len(created) == 1:
                return {created[0][0]: await self._creations.submit(created[0])}
            rings: dict[str, DataKeyRing] = {}
            for start in range(0, len(created), MAX_OWNERS_IN_COMMAND):
                for ring in await self._create_all(created[start : start + MAX_OWNERS_IN_COMMAND]):
                    rings[ring.owner] = ring
        return rings

    async def retire(self, owner: str) -> DataKeyRing | None:
        """Make the current key a retired one, and return the keys; None if the owner never had one."""

        def retired(ring: DataKeyRing) -> DataKeyRing:
            if ring.current is None:
                return ring
            return structs.replace(ring, current=None, retired=(ring.current, *ring.retired))

        async with store_errors(ANSWER_SECONDS):
            return await self._change(owner, retired, drop_unreadable=True)

    async def destroy_retired(self, owner: str, at: datetime, by: str) -> list[str]:
        """Remove the retired keys, and return the ids of all that were ever destroyed."""

        def destroyed(ring: DataKeyRing) -> DataKeyRing:
            ended = tuple(DestroyedKey(key.id, at, by) for key in ring.retired)
            return structs.replace(ring, retired=(), destroyed=(*ring.destroyed, *ended))

        async with store_errors(ANSWER_SECONDS):
            ring = await self._change(owner, destroyed, drop_unreadable=True)
        return [] if ring is None else [key.id for key in ring.destroyed]

    async def rewrap(self, owner: str, before: WrappedKey, after: WrappedKey) -> bool:
        """Replace the wrapping of a key, current or retired, if it is still ``before``."""
        replaced = False

        def rewrapped(ring: DataKeyRing) -> DataKeyRing:
            nonlocal replaced
            replaced = before in ring.usable
            return structs.replace(
                ring,
                current=after if ring.current == before else ring.current,
                retired=tuple(after if key == before else key for key in ring.retired),
            )

        async with store_errors(ANSWER_SECONDS):
            await self._change(owner, rewrapped)
        return replaced

    async def wrapped_by_others(self, wrapping: str, after: str, limit: int) -> list[DataKeyRing]:
        """Return owners, by name after ``after``, with a usable key that another key than this one wraps."""
        found: list[DataKeyRing] = []
        async with store_errors():
            while True:
                cursor = self._keys.find({"_id": {"$gt": after}}, sort=[("_id", 1)], limit=SCANNED_DOCUMENTS)
                documents = await cursor.to_list(SCANNED_DOCUMENTS)
                for document in documents:
                    if document.get("wrappedBy", wrapping) != wrapping:
                        found.append(_ring(document))
                    if len(found) == limit:
                        return found
                if len(documents) < SCANNED_DOCUMENTS:
                    return found
                after = documents[-1]["_id"]

    async def other_wrappings(self, known: Collection[str]) -> list[str]:
        """Return the ids of all keys but these that wrap a usable data key. Quick if there are none."""
        others: set[str] = set()
        # Between the known ids, as the embedded server reads a range to its end.
        bounds: list[str | None] = ["", *sorted(known), None]
        async with store_errors():
            for start, end in pairwise(bounds):
                place = start
                while place is not None:
                    between = {"$gt": place, **({} if end is None else {"$lt": end})}
                    found = await self._keys.find_one({"wrappedBy": between}, sort=[("wrappedBy", 1)])
                    place = None if found is None else found["wrappedBy"]
                    others.update(() if place is None else place.split(","))
        return sorted(others - set(known))

    async def count_by_wrapping(self) -> dict[str, int]:
        """Count the owners with usable data keys, by the ids of the keys that wrap those."""
        stages: list[Document] = [
            {"$match": {"wrappedBy": {"$gt": ""}}},
            {"$group": {"_id": "$wrappedBy", "n": {"$sum": 1}}},
        ]
        counts: Counter[str] = Counter()
        async with store_errors():
            async for group in self._keys.aggregate(stages):
                counts.update(dict.fromkeys(group["_id"].split(","), group["n"]))
        return dict(counts)

    async def _load_all(self, owners: Sequence[str]) -> list[DataKeyRing | Exception | None]:
        wanted = list(dict.fromkeys(owners))
        only = wanted[0] if len(wanted) == 1 else {"$in": wanted}
        documents = await self._keys.find({"_id": only}).to_list(len(wanted))
        found = {document["_id"]: _ring(document) for document in documents}
        return [found.get(owner) for owner in owners]

    async def _create_all(self, keys: Sequence[_Creation]) -> list[DataKeyRing]:
        wanted: dict[str, WrappedKey] = {}
        for owner, key in keys:
            wanted.setdefault(owner, key)
        rings = {owner: DataKeyRing(owner, key) for owner, key in wanted.items()}
        try:
            documents = [{"_id": owner, **_document(ring), "revision": 1} for owner, ring in rings.items()]
            await self._keys.insert_many(documents, ordered=False)
        except BulkWriteError as refusal:
            existing = duplicates_in(refusal)
            if existing is None:
                raise
            owners = list(wanted)
            for owner in (owners[n] for n in existing):
                rings[owner] = await self._complete(owner, wanted[owner])
        return [rings[owner] for owner, _ in keys]

    async def _complete(self, owner: str, key: WrappedKey) -> DataKeyRing:
        """Give an owner with keys a current one, if there is none, and return the keys."""

        def completed(ring: DataKeyRing) -> DataKeyRing:
            return ring if ring.current is not None else structs.replace(ring, current=key)

        return await self._change(owner, completed) or DataKeyRing(owner)

    async def _change(
        self, owner: str, change: Callable[[DataKeyRing], DataKeyRing], *, drop_unreadable: bool = False
    ) -> DataKeyRing | None:
        """Change the keys of an owner, and return them; None if there is no document.

        ``drop_unreadable``: for an erasure; otherwise a document with unreadable keys stays as it is.
        """
        for _ in range(MAX_CHANGE_ATTEMPTS):
            document = await self._keys.find_one({"_id": owner})
            if document is None:
                return None
            ring = _ring(document)
            changed = change(ring)
            readable = _is_readable(document, ring)
            if (changed == ring and readable) or not (readable or drop_unreadable):
                return ring
            revision = document.get("revision")
            following = {**_document(changed), "revision": revision + 1 if isinstance(revision, int) else 1}
            as_read = {"_id": owner, "revision": revision}
            if (await self._keys.replace_one(as_read, following)).matched_count:
                return changed
        raise StoreUnavailableError("a document of data keys changes all the time")


def _document(ring: DataKeyRing) -> Document:
    document: Document = {
        "retired": list(map(_members, ring.retired)),
        "destroyed": list(map(_members, ring.destroyed)),
    }
    if ring.current is not None:
        document["current"] = _members(ring.current)
    if ring.usable:
        document["wrappedBy"] = ",".join(sorted({key.wrapped_by for key in ring.usable}))
    return document


def _members(key: Struct) -> Document:
    members = to_builtins(key, builtin_types=(bytes, datetime))
    return {camel_case(name): value for name, value in members.items()}


def _ring(document: Document) -> DataKeyRing:
    """Return the keys of a document. Unreadable ones are logged and left out."""
    owner = document["_id"]
    current = _keys_in(document, [document.get("current")], WrappedKey)
    return DataKeyRing(
        owner,
        next(current, None),
        tuple(_keys_in(document, document.get("retired"), WrappedKey)),
        tuple(_keys_in(document, document.get("destroyed"), DestroyedKey)),
    )


def _keys_in(document: Document, stored: object, shape: type[T]) -> Iterator[T]:
    for each in stored if isinstance(stored, list) else ():
        if each is None:
            continue
        try:
            members = {snake_case(name): value for name, value in each.items()}
            key = convert(members, shape)
            if not _KEY_ID.match(key.id):
                raise ValidationError("its id is none")
            yield key
        except (AttributeError, ValidationError):  # without the reason, which can quote the document
            log.error("stored data key unreadable", revision=document.get("revision"))


def _is_readable(document: Document, ring: DataKeyRing) -> bool:
    """Return whether nothing of a document was left out, which a change would remove."""
    lists = [document.get("retired"), document.get("destroyed")]
    stored = sum(len(each) for each in lists if isinstance(each, list)) + (
        document.get("current") is not None
    )
    return stored == len(ring.usable) + len(ring.destroyed)
