"""States in MongoDB: point reads and conditional updates by ``_id``, nothing else on the hot path."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import structlog
from pymongo import UpdateOne
from pymongo.errors import DuplicateKeyError, PyMongoError

from app.contracts.errors import FlowStateCorruptionError, StoreUnavailableError
from app.contracts.ports import REMEMBERED, StoredState
from app.contracts.record import HistoryRecord, remembered
from app.contracts.state import ENDED, FlowState, state_key
from models.codec import (
    OPTIONAL_STATE_FIELDS,
    Document,
    record_from_document,
    record_to_document,
    remembered_from_document,
    remembered_to_document,
    state_from_document,
    state_to_document,
)
from models.database import ANSWER_SECONDS, Collection, Database, is_outage, store_errors

log = structlog.get_logger("store")

COMMIT_ATTEMPTS = 3
_PRESENT = {"$nin": sorted(ENDED)}


class MongoStateStore:
    """The StateStore port on MongoDB."""

    def __init__(self, database: Database) -> None:
        self._states: Collection = database.collection("flow_states")
        self._history: Collection = database.collection("flow_history")
        self._damaged: Collection = database.collection("flow_states_damaged")

    async def load(self, flow_id: str, user_id: str) -> StoredState | None:
        async with store_errors(ANSWER_SECONDS):
            document = await self._states.find_one({"_id": state_key(flow_id, user_id)})
        return None if document is None else _stored(document)

    async def commit(self, before: FlowState | None, record: HistoryRecord) -> bool:
        async with store_errors(ANSWER_SECONDS):
            sent_before = False
            for _ in range(COMMIT_ATTEMPTS):
                try:
                    made = await self._write(before, record)
                    if made or not sent_before:
                        return made
                except PyMongoError as error:
                    if not is_outage(error):
                        raise
                    sent_before = True
                # The connection broke: the update may have been made, or may be made still. Look for
                # it; when the state is as before, the same conditional update can be sent again: of
                # the two, only one can match. When the second does not, the first may have come late.
                known = await self._was_made(before, record)
                if known is not None:
                    return known
        raise StoreUnavailableError

    async def _write(self, before: FlowState | None, record: HistoryRecord) -> bool:
        after = _after(record)
        fields = state_to_document(after)
        waiting = record_to_document(record)
        request = remembered(record)
        recent = [] if request is None else [remembered_to_document(request)]
        if before is None:
            try:
                await self._states.insert_one(
                    {"_id": after.key, **fields, "outbox": [waiting], "recent": recent}
                )
            except DuplicateKeyError:
                return False
            return True
        update: Document = {"$set": fields, "$push": {"outbox": waiting}}
        if recent:
            update["$push"]["recent"] = {"$each": recent, "$slice": -REMEMBERED}
        gone = {field: "" for field in OPTIONAL_STATE_FIELDS if field not in fields}
        if gone:
            update["$unset"] = gone
        answer = await self._states.update_one(_at(before), update)
        return answer.matched_count == 1

    async def _was_made(self, before: FlowState | None, record: HistoryRecord) -> bool | None:
        """True or False when the outcome of a commit is certain, None when it can be tried again."""
        after = _after(record)
        document = await self._states.find_one({"_id": after.key})
        for waiting in (document or {}).get("outbox", ()):
            if waiting["_id"] == record.id:
                return bool(waiting["commitId"] == record.commit_id)
        delivered = await self._history.find_one({"_id": record.id}, {"commitId": 1})
        if delivered is not None:
            return bool(delivered["commitId"] == record.commit_id)
        if document is None:
            return None if before is None else False
        if before is None:
            return False
        as_before = (document.get("epoch"), document.get("revision")) == (before.epoch, before.revision)
        return None if as_before else False

    async def set_aside(self, flow_id: str, user_id: str) -> None:
        key = state_key(flow_id, user_id)
        async with store_errors():
            document = await self._states.find_one({"_id": key})
            if document is not None:
                await self._damaged.insert_one({"state": key, "document": document})
                await self._states.delete_one({"_id": key, "revision": document.get("revision")})

    async def list_by_user(
        self, user_id: str, after_flow: str | None, limit: int, now: datetime
    ) -> list[FlowState]:
        query: Document = {"userId": user_id, "status": _PRESENT, **_not_expired(now)}
        if after_flow is not None:
            query["flowId"] = {"$gt": after_flow}
        async with store_errors():
            documents = (
                await self._states.find(query, {"outbox": 0, "recent": 0})
                .sort("flowId", 1)
                .limit(limit)
                .to_list(limit)
            )
        return _readable(documents)

    async def list_expired(self, now: datetime, limit: int) -> list[FlowState]:
        query = {"expiresAt": {"$lte": now}, "status": _PRESENT}
        async with store_errors():
            documents = (
                await self._states.find(query, {"outbox": 0, "recent": 0})
                .sort("expiresAt", 1)
                .limit(limit)
                .to_list(limit)
            )
        return _readable(documents)

    async def list_undelivered(self, before: datetime, limit: int) -> list[StoredState]:
        query = {"outbox.0": {"$exists": True}, "updatedAt": {"$lt": before}}
        async with store_errors():
            documents = await self._states.find(query).sort("updatedAt", 1).limit(limit).to_list(limit)
        found = []
        for document in documents:
            with _skipping(document):
                found.append(_stored(document))
        return found

    async def release(self, records: Sequence[HistoryRecord]) -> None:
        delivered: dict[str, list[str]] = {}
        for record in records:
            delivered.setdefault(_after(record).key, []).append(record.id)
        operations = [
            UpdateOne({"_id": key}, {"$pull": {"outbox": {"_id": {"$in": ids}}}})
            for key, ids in delivered.items()
        ]
        if operations:
            async with store_errors():
                await self._states.bulk_write(operations, ordered=False)


def _readable(documents: list[Document]) -> list[FlowState]:
    found = []
    for document in documents:
        with _skipping(document):
            found.append(state_from_document(document))
    return found


@contextmanager
def _skipping(document: Document) -> Iterator[None]:
    """A damaged document must not hold up the others; who reads it alone is told."""
    try:
        yield
    except FlowStateCorruptionError as error:
        log.error("damaged state", state=document["_id"], reason=error.details["reason"])


def _at(before: FlowState) -> Document:
    return {"_id": before.key, "epoch": before.epoch, "revision": before.revision}


def _after(record: HistoryRecord) -> FlowState:
    if not isinstance(record.after, FlowState):
        raise TypeError(f"{record.kind} record {record.id} commits nothing")
    return record.after


def _not_expired(now: datetime) -> dict[str, Any]:
    return {"$or": [{"expiresAt": {"$exists": False}}, {"expiresAt": {"$gt": now}}]}


def _stored(document: Document) -> StoredState:
    return StoredState(
        state=state_from_document(document),
        pending=tuple(record_from_document(waiting) for waiting in document.get("outbox", ())),
        recent=tuple(remembered_from_document(request) for request in document.get("recent", ())),
    )
