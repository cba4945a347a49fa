"""History in MongoDB: appended once, read oldest first."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from app.contracts.errors import FlowStateCorruptionError
from app.contracts.pages import Page
from app.contracts.record import (
    EVERYTHING,
    HistoryFilter,
    HistoryPosition,
    HistoryRecord,
    UnreadableRecord,
    position_from_id,
)
from app.contracts.state import StateId, id_from_key, instances_prefix
from models.codec import ERASED_FIELDS, Document, record_from_document, record_to_document
from models.database import ANSWER_SECONDS, Collection, Database, store_errors
from models.document_codec import DocumentCodec
from models.indexed import behind_prefix, key_range, pipeline
from models.named_people import person_update
from models.paging import BATCH_DOCUMENTS, DocumentPage
from models.sealed_fields import WITHOUT_SEALED, record_layout, request_id_layout

MAX_ERASED_IN_COMMAND = 1000
MAX_RENAMED_IN_COMMAND = 200
_DUPLICATE_KEY = 11000


class MongoHistoryStore:
    """The HistoryStore port on MongoDB.

    Args:
        database: The database, prepared.
        retention: MongoDB itself removes records this long after their time. None: never.
        codec: Converts records to documents.
    """

    def __init__(
        self, database: Database, retention: timedelta | None = None, codec: DocumentCodec | None = None
    ) -> None:
        self._codec = (codec or DocumentCodec()).of(record_layout)
        self._request_ids = self._codec.of(request_id_layout)
        self._history: Collection = database.collection("flow_history")
        self._retention = retention

    async def append(self, records: Sequence[HistoryRecord]) -> set[str]:
        """Store records. Returns the ids of those whose place another commit has."""
        if not records:
            return set()
        documents = await self._codec.encode_many(self._document, records)
        async with store_errors():
            try:
                await self._history.insert_many(documents, ordered=False)
            except BulkWriteError as refusal:
                details = refusal.details or {}
                faults = details.get("writeErrors", ())
                if any(f.get("code") != _DUPLICATE_KEY for f in faults) or details.get("writeConcernErrors"):
                    raise
                # Delivered before by this worker or another: compare the commits.
                known = {records[f["index"]].id: records[f["index"]].commit_id for f in faults}
                found = self._history.find({"_id": {"$in": list(known)}}, {"commitId": 1})
                return {d["_id"] async for d in found if d.get("commitId") != known[d["_id"]]}
        return set()

    def _document(self, record: HistoryRecord) -> Document:
        document = record_to_document(record)
        if self._retention is not None:
            document["expiresAt"] = record.timestamp + self._retention
        return document

    async def read(
        self,
        state_id: StateId,
        after: HistoryPosition | None,
        limit: int,
        only: HistoryFilter = EVERYTHING,
    ) -> Page[HistoryRecord]:
        """Return records of one state over all its epochs, oldest first, after the position ``after``."""
        rest = _query(only)
        if after is not None:
            rest["$or"] = _beyond(after, "$gt")
        page = await self._of_state(state_id, rest, 1, limit)
        return Page(await self._codec.decode_many(record_from_document, page.documents), _next(page))

    async def scan(
        self,
        state_id: StateId,
        start: HistoryPosition | None,
        limit: int,
        *,
        backwards: bool = False,
    ) -> Page[HistoryRecord | UnreadableRecord]:
        """Return records from ``start`` on in either direction, with unreadable ones in their places."""
        rest = {} if start is None else {"$or": _beyond(start, "$lt" if backwards else "$gt")}
        page = await self._of_state(state_id, rest, -1 if backwards else 1, limit)
        return Page(await self._codec.decode_many(_record_or_unreadable, page.documents), _next(page))

    async def newest(self, state_id: StateId) -> HistoryRecord | UnreadableRecord | None:
        """Return the record of the last commit of a state, over all its epochs."""
        page = await self._of_state(state_id, {"success": True}, -1, 1)
        records = await self._codec.decode_many(_record_or_unreadable, page.documents)
        return records[0] if records else None

    async def ids_of_user(self, flow_id: str, user_id: str) -> list[StateId]:
        """Return the states of a user in a flow that have records, by key."""
        only = StateId(flow_id, user_id)
        first = instances_prefix(flow_id, user_id)
        async with store_errors():
            found = await self._history.aggregate(
                [
                    {"$match": {"stateId": key_range(first, behind_prefix(first))}},
                    {"$group": {"_id": "$stateId"}},
                ]
            ).to_list(None)
            has_one = await self._history.find_one({"stateId": only.key}, {"_id": 1}) is not None
        keys = sorted(document["_id"] for document in found)
        return [*([only] if has_one else []), *(id_from_key(key) for key in keys)]

    async def _of_state(self, state_id: StateId, rest: Document, direction: int, limit: int) -> DocumentPage:
        """Return records of one state that meet ``rest``, by position; ``direction`` is 1 or -1."""
        order = [(field, direction) for field in ("epoch", "revision", "_id")]
        stages = pipeline({"stateId": state_id.key}, rest, sort=order, limit=limit)
        page = DocumentPage(limit)
        async with store_errors():
            await page.read(self._history.aggregate(stages, batchSize=BATCH_DOCUMENTS))
        return page

    async def erase(self, state_id: StateId, until: HistoryPosition) -> int:
        """Erase the data that users entered before ``until``. Returns the number of records."""
        # "Not after" instead of "before", so that a record whose position is damaged is erased too.
        rest = {"_id": {"$ne": until.id}, "$nor": _beyond(until, "$gt")}
        stages = pipeline({"stateId": state_id.key}, rest, project={"_id": 1, "kind": 1})
        count = 0
        async with store_errors():
            found = await self._history.aggregate(stages).to_list(None)
            for first in range(0, len(found), MAX_ERASED_IN_COMMAND):
                part = found[first : first + MAX_ERASED_IN_COMMAND]
                refused = [document["_id"] for document in part if document.get("kind") == "refused"]
                others = [document["_id"] for document in part if document.get("kind") != "refused"]
                deleted = await self._history.delete_many({"_id": {"$in": refused}})
                answer = await self._history.update_many(
                    {"_id": {"$in": others}}, {"$unset": dict.fromkeys(ERASED_FIELDS, "")}
                )
                count += deleted.deleted_count + answer.matched_count
        return count

    async def ids_naming(self, user_id: str) -> list[StateId]:
        """Return the states with records that name a person beside the owner, by key."""
        stages: list[Document] = [{"$match": {"named": user_id}}, {"$group": {"_id": "$stateId"}}]
        async with store_errors():
            found = await self._history.aggregate(stages).to_list(None)
        return [id_from_key(key) for key in sorted(str(document["_id"]) for document in found)]

    async def replace_person(self, state_id: StateId, user_id: str, until: HistoryPosition) -> int:
        """Put the pseudonym of a person in the place of the id. Returns the number of records."""
        rest = {"named": user_id, "_id": {"$ne": until.id}, "$nor": _beyond(until, "$gt")}
        stages = pipeline({"stateId": state_id.key}, rest, project={"_id": 1})
        async with store_errors():
            found = await self._history.aggregate(stages).to_list(None)
            for first in range(0, len(found), MAX_RENAMED_IN_COMMAND):
                ids = [document["_id"] for document in found[first : first + MAX_RENAMED_IN_COMMAND]]
                documents = await self._history.find({"_id": {"$in": ids}}, WITHOUT_SEALED).to_list(None)
                # Only the fields about people: an erasure of the owner's data may remove others meanwhile.
                updates = [
                    UpdateOne({"_id": document["_id"]}, person_update(document, user_id))
                    for document in documents
                ]
                if updates:
                    await self._history.bulk_write(updates, ordered=False)
        return len(found)

    async def get(self, record_id: str) -> HistoryRecord | None:
        """Return one record."""
        async with store_errors():
            document = await self._history.find_one({"_id": record_id})
        if document is None:
            return None
        (record,) = await self._codec.decode_many(record_from_document, (document,))
        return record

    async def get_many(self, record_ids: Sequence[str]) -> list[HistoryRecord]:
        """Return the records with these ids that exist and can be read, in any order."""
        async with store_errors(ANSWER_SECONDS):
            documents = await self._history.find({"_id": {"$in": list(record_ids)}}).to_list(None)
        found = await self._codec.decode_many(_record_or_unreadable, documents)
        return [record for record in found if isinstance(record, HistoryRecord)]

    async def find_request(
        self, state_id: StateId, actor: str, request_id: str, since: datetime
    ) -> HistoryRecord | None:
        """Return the record of the change that a request made after ``since``."""
        clear = {"stateId": state_id.key, "requestId": request_id}
        sealed = {**clear, "userId": state_id.user_id}
        rest = {"actor": actor, "success": True, "timestamp": {"$gt": since}}
        wanted = [clear]  # as records of a time without encryption have it
        if await self._request_ids.seal([sealed]):
            wanted.insert(0, {**clear, "requestId": sealed["requestId"]})
        documents: list[Document] = []
        for served in wanted:
            if not documents:
                async with store_errors():
                    documents = await self._history.aggregate(pipeline(served, rest, limit=1)).to_list(1)
        records = await self._codec.decode_many(record_from_document, documents)
        return records[0] if records else None


def _next(page: DocumentPage) -> str | None:
    return str(page.documents[-1]["_id"]) if page.full else None


def _beyond(position: HistoryPosition, compare: str) -> list[Document]:
    epoch, revision = position.epoch, position.revision
    return [
        {"epoch": {compare: epoch}},
        {"epoch": epoch, "revision": {compare: revision}},
        {"epoch": epoch, "revision": revision, "_id": {compare: position.id}},
    ]


def _record_or_unreadable(document: Document) -> HistoryRecord | UnreadableRecord:
    try:
        return record_from_document(document)
    except FlowStateCorruptionError as damage:
        place = position_from_id(str(document.get("stateId")), str(document["_id"]))
        epoch, revision = document.get("epoch"), document.get("revision")
        if isinstance(epoch, str) and isinstance(revision, int):  # how the index sorts it
            return UnreadableRecord(str(document["_id"]), damage.details["reason"], epoch, revision)
        at = () if place is None else (place.epoch, place.revision)
        return UnreadableRecord(str(document["_id"]), damage.details["reason"], *at)


def _query(only: HistoryFilter) -> Document:
    query: Document = {
        name: value
        for name, value in (
            ("transition", only.transition),
            ("actor", only.actor),
            ("success", only.success),
        )
        if value is not None
    }
    bounds = {"$gte": only.since, "$lt": only.until}
    times = {bound: moment for bound, moment in bounds.items() if moment is not None}
    if times:
        query["timestamp"] = times
    return query
