"""Lanes of integrations in MongoDB."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, TypeVar

from motor.core import AgnosticBaseCursor
from pymongo.errors import BulkWriteError

from app.contracts.deliveries import Lane, LaneId, LaneUpdate, Mark, WaitingState
from app.contracts.pages import Page
from app.contracts.state import StateId, id_from_key
from models.codec import Document
from models.database import Collection, Database, store_errors
from models.document_codec import DocumentCodec
from models.indexed import KeyRanges, behind_prefix, key_range, pipeline
from models.integrations.lane_updates import (
    ENDED,
    attempts_text,
    claimed,
    lane_from_document,
    lane_to_document,
    marked,
    new_lane,
    released,
    returned,
)
from models.integrations.places import lane_id_from_key, next_time_text, time_from_text
from models.integrations.upserts import duplicates_in
from models.paging import BATCH_DOCUMENTS
from models.sealed_fields import lane_layout

MAX_LANES_IN_COMMAND = 200
"""Each document looks for its change in a list of all changes of the command."""

T = TypeVar("T")


class MongoDeliveryLanes:
    """The DeliveryLanes port on MongoDB: one document for each lane, changed by its ``_id`` alone.

    Args:
        database: The database, prepared.
        codec: Seals the attempts.
        retention: MongoDB itself removes lanes that had no work for so long, and whose states do not wait:
            the history has nothing of them any more. None: never.
    """

    def __init__(
        self, database: Database, codec: DocumentCodec | None = None, *, retention: timedelta | None = None
    ) -> None:
        self._retention = retention
        self._lanes: Collection = database.collection("flow_delivery_lanes")
        self._codec = (codec or DocumentCodec()).of(lane_layout)
        self._due_ranges = KeyRanges("due")
        self._failing_ranges = KeyRanges("failing")
        self._waiting_ranges = KeyRanges("waits")
        self._key_ranges = KeyRanges()

    async def mark(self, marks: Sequence[Mark], now: datetime) -> None:
        """Note that lanes have work; create those that are missing.

        Mostly one command for new lanes, and one for the others.
        """
        by_lane: dict[str, list[Mark]] = {}
        for mark in sorted(marks, key=attrgetter("position")):
            own = by_lane.setdefault(LaneId(mark.alias, mark.state_id).key, [])
            if not mark.stays:
                own.clear()  # the newest mark of a lane says all, unless the state goes on waiting
            own.append(mark)
        async with store_errors():
            while by_lane:  # mostly once
                marks_of_lanes = {key: own.pop(0) for key, own in by_lane.items()}
                by_lane = {key: own for key, own in by_lane.items() if own}
                for keys in _parts(list(marks_of_lanes)):
                    await self._mark({key: marks_of_lanes[key] for key in keys}, now)

    async def _mark(self, marks: Mapping[str, Mark], now: datetime) -> None:
        """Mark lanes, which are by key: a start mostly needs a new one, any other change has one."""
        known = [key for key, mark in marks.items() if mark.position.revision]
        known += await self._create([key for key in marks if key not in known], marks, now)
        if known and await self._change(known, marks, now) < len(known):
            found = await self._lanes.find({"_id": {"$in": known}}, {"_id": 1}).to_list(None)
            present = {document["_id"] for document in found}
            missing = [key for key in known if key not in present]
            lost = await self._create(missing, marks, now)
            # Others may have created lanes between the change and the search; a repeated change is harmless.
            again = [*present, *lost]
            if again:
                await self._change(again, marks, now)

    async def _create(self, keys: Sequence[str], marks: Mapping[str, Mark], now: datetime) -> list[str]:
        """Create lanes. Returns those that exist."""
        try:
            if keys:
                await self._lanes.insert_many([new_lane(marks[key], now) for key in keys], ordered=False)
        except BulkWriteError as refusal:
            existing = duplicates_in(refusal)
            if existing is None:
                raise
            return [keys[n] for n in existing]
        return []

    async def _change(self, keys: Sequence[str], marks: Mapping[str, Mark], now: datetime) -> int:
        """Mark lanes that exist. Returns their number."""
        change = marked({key: marks[key] for key in keys}, now)
        return (await self._lanes.update_many({"_id": {"$in": list(keys)}}, change)).matched_count

    async def add_jobs(self, lanes: Sequence[Lane]) -> None:
        """Store lanes of replays and redeliveries; existing ones are not changed."""
        if not lanes:
            return
        documents = await self._codec.encode_many(lane_to_document, lanes)
        async with store_errors():
            try:
                await self._lanes.insert_many(documents, ordered=False)
            except BulkWriteError as refusal:
                if duplicates_in(refusal) is None:
                    raise

    async def list_due(self, alias: str, now: datetime, limit: int) -> list[LaneId]:
        """Return lanes of an integration that are due, those that are due for the longest time first."""
        async with store_errors():
            page = await self._due_ranges.page(
                f"{alias};",
                f"{alias};{next_time_text(now)}",
                limit,
                self._finder("due", {"due": 1}),
                max_bytes=math.inf,
                subject=alias,
            )
        return [lane_id_from_key(document["_id"]) for document in page.documents]

    async def claim(self, ids: Sequence[LaneId], holder: str, now: datetime, until: datetime) -> list[Lane]:
        """Claim those of the lanes that are due at ``now``, until a time at which they are due again."""
        if not ids:
            return []
        wanted = {"_id": {"$in": [lane_id.key for lane_id in ids]}}
        async with store_errors():
            answer = await self._lanes.update_many(wanted, claimed(ids[0].alias, holder, now, until))
            if not answer.modified_count:
                return []
            found = await self._lanes.find(wanted).to_list(None)
        held = [document for document in found if document.get("holder") == holder]
        return await self._codec.decode_many(lane_from_document, held)

    async def release(self, updates: Sequence[LaneUpdate], now: datetime) -> None:
        """Store the results of claimed lanes, and end their claims, in one command; remove ended jobs."""
        if not updates:
            return
        attempts = await self._codec.encode_many(_attempts_document, updates)
        results = [(update, stored["attempts"]) for update, stored in zip(updates, attempts, strict=True)]
        expires_at = None if self._retention is None else now + self._retention
        async with store_errors():
            for part in _parts(results):
                keys = [update.lane.id.key for update, _ in part]
                await self._lanes.update_many({"_id": {"$in": keys}}, released(part, now, expires_at))
            if any(update.lane.id.job and update.due_at is None for update in updates):
                await self._lanes.delete_many({"due": key_range(ENDED, behind_prefix(ENDED))})

    async def get(self, lane_id: LaneId) -> Lane | None:
        """Return a lane."""
        async with store_errors():
            found = await self._lanes.find_one({"_id": lane_id.key})
        return None if found is None else (await self._codec.decode_many(lane_from_document, [found]))[0]

    async def list_failing(self, alias: str, after: str | None, limit: int) -> Page[Lane]:
        """Return the lanes of an integration with failed attempts, by key; ``next`` is a key."""
        return await self._page(self._failing_ranges, "failing", f"{alias};", after, limit)

    async def list_lanes(self, alias: str, after: str | None, limit: int) -> Page[Lane]:
        """Return the lanes of an integration without those of jobs, by key; ``next`` is a key."""
        return await self._page(self._key_ranges, "_id", f"{alias};;", after, limit)

    async def _page(
        self, ranges: KeyRanges, field: str, prefix: str, after: str | None, limit: int
    ) -> Page[Lane]:
        async with store_errors():
            page = await ranges.page(
                max(after or "", prefix), behind_prefix(prefix), limit, self._finder(field)
            )
        lanes = await self._codec.decode_many(lane_from_document, page.documents)
        return Page(lanes, lanes[-1].id.key if page.full else None)

    async def count_due(self, alias: str, limit: int) -> int:
        """Count the lanes of an integration with work, at most ``limit``."""
        stages = pipeline({"due": _of(alias)}, limit=limit)
        async with store_errors():
            found = await self._lanes.aggregate([*stages, {"$count": "lanes"}]).to_list(1)
        return int(found[0]["lanes"]) if found else 0

    async def list_waiting(self, alias: str, after: str | None, limit: int) -> list[WaitingState]:
        """Return the states that wait at a step of an integration, oldest first."""
        prefix = f"{alias};"
        async with store_errors():
            page = await self._waiting_ranges.page(
                max(after or "", prefix),  # a place of another integration must not show its states
                behind_prefix(prefix),
                limit,
                self._finder("waits", {"waits": 1}),
                max_bytes=math.inf,
            )
        return [_waiting(document["waits"]) for document in page.documents]

    async def end_waiting(self, alias: str, waiting: Sequence[WaitingState]) -> None:
        """Remove states from the list of waiting ones, if their lanes still have these places."""
        places = [one.place for one in waiting if one.place.startswith(f"{alias};")]
        if places:
            async with store_errors():
                await self._lanes.update_many({"waits": {"$in": places}}, {"$unset": {"waits": ""}})

    async def make_due(self, alias: str, now: datetime) -> None:
        """Make all lanes due that back off, as the integration has returned."""
        later = key_range(f"{alias};{next_time_text(now)}", behind_prefix(f"{alias};"))
        stages = pipeline({"due": later}, {"holder": {"$exists": False}}, project={"_id": 1})
        async with store_errors():
            found = await self._lanes.aggregate(stages).to_list(None)
            for part in _parts(found):
                keys = [document["_id"] for document in part]
                await self._lanes.update_many({"_id": {"$in": keys}}, returned(alias, now))

    async def delete_of_integration(self, alias: str) -> int:
        """Remove all lanes of an integration, and return their number."""
        count = 0
        async with store_errors():
            found = await self._lanes.find({"_id": _of(alias)}, {"_id": 1}).to_list(None)
            for part in _parts(found):
                keys = [document["_id"] for document in part]
                count += (await self._lanes.delete_many({"_id": {"$in": keys}})).deleted_count
        return count

    async def delete_of_state(self, state_id: StateId) -> int:
        """Remove all lanes of a state, and return their number."""
        async with store_errors():
            return (await self._lanes.delete_many({"stateKey": state_id.key})).deleted_count

    def _finder(
        self, field: str, project: Document | None = None
    ) -> Callable[[Document, int], AgnosticBaseCursor[Any]]:
        def find(places: Document, up_to: int) -> AgnosticBaseCursor[Any]:
            stages = pipeline({field: places}, sort=((field, 1),), limit=up_to, project=project)
            return self._lanes.aggregate(stages, batchSize=BATCH_DOCUMENTS)

        return find


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Return the items in parts of a command."""
    for first in range(0, len(items), MAX_LANES_IN_COMMAND):
        yield items[first : first + MAX_LANES_IN_COMMAND]


def _of(alias: str) -> Document:
    """Return a condition for texts of an integration."""
    return key_range(f"{alias};", behind_prefix(f"{alias};"))


def _attempts_document(update: LaneUpdate) -> Document:
    """Return the attempts of a result with what a cipher needs to know of their owner."""
    lane_id = update.lane.id
    attempts = attempts_text(update.attempts)
    return {"_id": lane_id.key, "stateKey": lane_id.state_id.key, "attempts": attempts}


def _waiting(place: str) -> WaitingState:
    _, since, key = place.split(";", 2)
    return WaitingState(id_from_key(key), time_from_text(since), place)
