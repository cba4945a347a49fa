"""Dead letters in MongoDB."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from motor.core import AgnosticBaseCursor
from msgspec import UNSET, Struct, json
from pymongo import ReplaceOne

from app.contracts.deliveries import DeadLetter, DeadLetterFilter
from app.contracts.pages import Page
from app.contracts.state import StateId, id_from_key
from models.codec import Document
from models.database import Collection, Database, store_errors
from models.document_codec import DocumentCodec
from models.indexed import KeyRanges, behind_prefix, key_range, pipeline
from models.integrations.lane_updates import attempts_from_text, attempts_text
from models.integrations.places import time_text
from models.integrations.upserts import upsert_all
from models.paging import BATCH_DOCUMENTS, DocumentPage
from models.sealed_fields import letter_layout

MAX_LETTERS_IN_COMMAND = 500


class MongoDeadLetters:
    """The DeadLetters port on MongoDB.

    A letter has two places: ``place`` among those of its integration, ``died`` among all. There is no TTL,
    as the embedded server reads a whole collection each minute if it has one (docs/decisions/0020).

    Args:
        database: The database, prepared.
        codec: Seals events, attempts, and the texts of failures.
    """

    def __init__(self, database: Database, codec: DocumentCodec | None = None) -> None:
        self._letters: Collection = database.collection("flow_dead_letters")
        self._codec = (codec or DocumentCodec()).of(letter_layout)
        self._ranges = {field: KeyRanges(field) for field in ("place", "died")}

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        """Store letters; one that exists is replaced."""
        if not letters:
            return
        documents = await self._codec.encode_many(_to_document, letters)
        statements = [ReplaceOne({"_id": each["_id"]}, each, upsert=True) for each in documents]
        async with store_errors():
            await upsert_all(self._letters, statements)

    async def get(self, alias: str, event_id: str) -> DeadLetter | None:
        """Return a letter."""
        async with store_errors():
            found = await self._letters.find_one({"_id": _key(alias, event_id)})
        return None if found is None else (await self._codec.decode_many(_from_document, [found]))[0]

    async def find(self, only: DeadLetterFilter, after: str | None, limit: int) -> Page[DeadLetter]:
        """Return the letters that match, those that died first first; ``next`` is the place of the last."""
        chosen = _selection(only)
        start = max(after or "", chosen.start)
        async with store_errors():
            if chosen.ids is None:
                page = await self._ranges[chosen.field].page(
                    start, chosen.end, limit, lambda places, up_to: self._cursor(chosen, places, up_to)
                )
            else:
                page = DocumentPage(limit)
                await page.read(self._cursor(chosen, key_range(start, chosen.end), limit))
        letters = await self._codec.decode_many(_from_document, page.documents)
        return Page(letters, str(page.documents[-1][chosen.field]) if page.full else None)

    async def find_of_state(self, state_id: StateId, after: str | None, limit: int) -> Page[DeadLetter]:
        """Return the letters of a state, by alias and id; ``next`` is the key of the last."""
        rest = {"_id": {"$gt": after or ""}}
        stages = pipeline({"stateKey": state_id.key}, rest, sort=(("_id", 1),), limit=limit)
        async with store_errors():
            documents = await self._letters.aggregate(stages).to_list(limit)
        letters = await self._codec.decode_many(_from_document, documents)
        return Page(letters, documents[-1]["_id"] if len(documents) == limit else None)

    async def count(self, only: DeadLetterFilter) -> int:
        """Count the letters that match."""
        chosen = _selection(only)
        stages = chosen.stages(key_range(chosen.start, chosen.end))
        async with store_errors():
            found = await self._letters.aggregate([*stages, {"$count": "letters"}]).to_list(1)
        return int(found[0]["letters"]) if found else 0

    def _cursor(self, chosen: "_Selection", places: Document, limit: int) -> AgnosticBaseCursor[Any]:
        stages = [*chosen.stages(places), {"$sort": {chosen.field: 1}}, {"$limit": limit}]
        return self._letters.aggregate(stages, batchSize=BATCH_DOCUMENTS)

    async def replace(self, letter: DeadLetter) -> bool:
        """Replace a letter. Returns false if there is none."""
        (document,) = await self._codec.encode_many(_to_document, [letter])
        async with store_errors():
            answer = await self._letters.replace_one({"_id": document["_id"]}, document)
        return answer.matched_count == 1

    async def delete(self, alias: str, event_ids: Sequence[str]) -> int:
        """Remove letters, and return their number."""
        return await self._delete([_key(alias, event_id) for event_id in event_ids])

    async def delete_of_integration(self, alias: str) -> int:
        """Remove all letters of an integration, and return their number."""
        return await self._delete_range("place", f"{alias};", behind_prefix(f"{alias};"))

    async def delete_of_state(self, state_id: StateId) -> int:
        """Remove all letters of a state, and return their number."""
        async with store_errors():
            return (await self._letters.delete_many({"stateKey": state_id.key})).deleted_count

    async def remove_expired(self, before: datetime) -> int:
        """Remove all letters that were given up before a time, and return their number."""
        return await self._delete_range("died", "", time_text(before))

    async def _delete_range(self, field: str, start: str, end: str | None) -> int:
        async with store_errors():
            found = await self._letters.find({field: key_range(start, end)}, {"_id": 1}).to_list(None)
        return await self._delete([document["_id"] for document in found])

    async def _delete(self, keys: Sequence[str]) -> int:
        count = 0
        async with store_errors():
            for first in range(0, len(keys), MAX_LETTERS_IN_COMMAND):
                part = list(keys[first : first + MAX_LETTERS_IN_COMMAND])
                count += (await self._letters.delete_many({"_id": {"$in": part}})).deleted_count
        return count


class _Selection(Struct, frozen=True):
    """The letters of a filter: a range of places that an index serves, or ids, and conditions on the rest.

    Lists and counts are both made from it, so that they agree.
    """

    field: str
    start: str
    end: str | None
    ids: Document | None
    rest: Document

    def stages(self, places: Document) -> list[Document]:
        """Return the stages that find the letters in a range of places."""
        if self.ids is not None:
            return pipeline(self.ids, self.rest | {self.field: places})
        return pipeline({self.field: places}, self.rest)


def _selection(only: DeadLetterFilter) -> _Selection:
    field, prefix = ("died", "") if only.service is None else ("place", f"{only.service};")
    ids: Document | None = None
    if only.ids is not None and only.service is not None:
        ids = {"_id": {"$in": [_key(only.service, event_id) for event_id in only.ids]}}
    elif only.ids is not None:
        ids = {"eventId": {"$in": list(only.ids)}}
    wanted = {
        "reason": only.reason,
        "type": only.type,
        "flowId": only.flow_id,
        "userId": only.user_id,
        "entityId": only.entity_id,
    }
    return _Selection(
        field=field,
        start=prefix if only.since is None else prefix + time_text(only.since),
        end=(behind_prefix(prefix) if prefix else None)
        if only.until is None
        else prefix + time_text(only.until),
        ids=ids,
        rest={name: value for name, value in wanted.items() if value is not None},
    )


def _key(alias: str, event_id: str) -> str:
    return f"{alias};{event_id}"


def _to_document(letter: DeadLetter) -> Document:
    state_id, died = letter.state_id, time_text(letter.died_at)
    document: Document = {
        "_id": _key(letter.alias, letter.id),
        "eventId": letter.id,
        "alias": letter.alias,
        "stateKey": state_id.key,
        "flowId": state_id.flow_id,
        "userId": state_id.user_id,
        "epoch": letter.epoch,
        "revision": letter.revision,
        "type": letter.type,
        "at": letter.at,
        "diedAt": letter.died_at,
        "reason": letter.reason,
        "detail": letter.detail,
        "attempts": attempts_text(letter.attempts),
        "redelivering": letter.redelivering,
        "place": f"{letter.alias};{died};{letter.id}",
        "died": f"{died};{letter.alias};{letter.id}",
    }
    if state_id.instance_id is not None:
        document["entityId"] = state_id.instance_id
    if letter.event is not UNSET:
        document["event"] = json.encode(letter.event).decode()
    if letter.edited_by is not UNSET:
        document["editedBy"] = letter.edited_by
    return document


def _from_document(document: Document) -> DeadLetter:
    return DeadLetter(
        id=document["eventId"],
        alias=document["alias"],
        state_id=id_from_key(document["stateKey"]),
        epoch=document["epoch"],
        revision=document["revision"],
        type=document["type"],
        at=document["at"],
        died_at=document["diedAt"],
        reason=document["reason"],
        detail=detail if isinstance(detail := document.get("detail"), str) else "",
        event=json.decode(document["event"]) if isinstance(document.get("event"), str) else UNSET,
        edited_by=document.get("editedBy", UNSET),
        attempts=attempts_from_text(document.get("attempts")),
        redelivering=document["redelivering"],
    )
