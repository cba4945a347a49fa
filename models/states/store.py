"""States in MongoDB. The hot path consists of point reads and conditional updates by ``_id``."""

import math
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

from motor.core import AgnosticBaseCursor
from msgspec import UNSET

from app.contracts.people import Participant
from app.contracts.ports.states import (
    DamagedState,
    ListedStatus,
    RunningStates,
    StateFilter,
    StatePage,
    StoredState,
)
from app.contracts.record import HistoryRecord
from app.contracts.state import (
    TERMINAL_STATUSES,
    FlowState,
    StateId,
    StatePosition,
    id_from_key,
    instances_prefix,
)
from models.batching.adaptive_size import AdaptiveBatchSize
from models.batching.batcher import Batcher
from models.codec import Document, state_from_document
from models.database import ANSWER_SECONDS, Collection, Database, store_errors
from models.document_codec import DocumentCodec
from models.indexed import KeyRanges, behind_prefix, key_range, not_expired, pipeline, until
from models.listing import TERMS, waiting_place
from models.paging import BATCH_DOCUMENTS, DocumentPage
from models.sealed_fields import state_layout
from models.states.commits import CommitBatcher
from models.states.filters import keys_of, running
from models.states.sealing import SealedCommits
from models.states.state_document import (
    existing,
    present,
    readable,
    stored_or_damaged,
    stored_state,
)

MAX_LOADS_IN_COMMAND = 250
MAX_COMMANDS_IN_FLIGHT = 2
MAX_KEY_LENGTH = 1090
"""Longer than every key: a flow of 64 characters, a user of 256, each escaped as 3, and an entity of 256."""
_PRESENT = {"$nin": sorted(TERMINAL_STATUSES)}
_BY_KEY = (("_id", 1),)
_WITHOUT_LISTS = {"outbox": 0, "recent": 0}
_WITHOUT_PAYLOAD = {**_WITHOUT_LISTS, "payload": 0}


class MongoStateStore:
    """The StateStore port on MongoDB.

    Args:
        database: The database, prepared.
        codec: Converts states and records to documents.
    """

    def __init__(self, database: Database, codec: DocumentCodec | None = None) -> None:
        self._codec = (codec or DocumentCodec()).of(state_layout)
        self._states: Collection = database.collection("flow_states")
        self._damaged: Collection = database.collection("flow_states_damaged")
        self._loads: Batcher[str, Document | None] = Batcher(
            self._load_all,
            batch_size=AdaptiveBatchSize(MAX_LOADS_IN_COMMAND, ANSWER_SECONDS),
            max_in_flight=MAX_COMMANDS_IN_FLIGHT,
            timeout=ANSWER_SECONDS,
        )
        self._commits = CommitBatcher(self._states, database.collection("flow_history"))
        self._sealed = SealedCommits(self._states, self._commits, self._codec)
        self._key_ranges = KeyRanges()
        self._instance_ranges = KeyRanges("listed")

    @property
    def busy(self) -> bool:
        """True while callers wait for commits."""
        return self._commits.busy

    async def load(self, state_id: StateId) -> StoredState | None:
        """Return the stored state, also a cleared or expired one; None if there is none."""
        key = state_id.key
        async with store_errors():
            document = await self._loads.submit(key)
        if document is None:
            return None
        return (await self._codec.decode_many(stored_state, (document,)))[0]

    async def _load_all(self, keys: Sequence[str]) -> list[Document | Exception | None]:
        if len(keys) == 1:
            return [await self._states.find_one({"_id": keys[0]})]
        wanted = list(dict.fromkeys(keys))
        found = await self._states.find({"_id": {"$in": wanted}}).to_list(len(wanted))
        by_key = {document["_id"]: document for document in found}
        return [by_key.get(key) for key in keys]

    async def commit(self, before: StatePosition | None, record: HistoryRecord) -> bool:
        """Make ``record.after`` the state if it still stands at ``before``. Returns False otherwise."""
        return await self._sealed.make(before, record)

    async def load_or_salvage(self, state_id: StateId) -> StoredState | DamagedState | None:
        """Return the stored state, or the readable parts of a damaged one; None if there is none."""
        async with store_errors(ANSWER_SECONDS):
            document = await self._states.find_one({"_id": state_id.key})
        if document is None:
            return None
        (found,) = await self._codec.decode_many(stored_or_damaged, (document,))
        return found

    async def replace(self, damaged: DamagedState, record: HistoryRecord) -> bool:
        """Replace a damaged state, and set its document aside. Returns False if it has changed."""
        as_read = {
            "_id": damaged.position.key,
            "epoch": {"$eq": damaged.position.epoch},
            "revision": {"$eq": damaged.position.revision},
        }
        rebuilt = await self._sealed.document(record, damaged.recent, fresh=True)
        async with store_errors():
            document = await self._states.find_one(as_read)
            answer = await self._states.replace_one(as_read, rebuilt)
            if document is None or not answer.matched_count:
                return False
            aside = {"state": damaged.position.key, "foundAt": datetime.now(UTC), "document": document}
            await self._damaged.insert_one(aside)
        return True

    async def drop_damaged(self, state_id: StateId) -> None:
        """Remove the damaged documents of a state that were set aside."""
        async with store_errors():
            await self._damaged.delete_many({"state": state_id.key})

    async def find(self, only: StateFilter, after: str | None, limit: int, now: datetime) -> StatePage:
        """Return the states that exist at ``now``, by key, after the key ``after``."""
        rest: Document = {"status": only.status or _PRESENT, **not_expired(now)}
        if only.step is not None:
            rest["step"] = only.step
        if only.entity_id is not None:
            rest["instanceId"] = only.entity_id
        async with store_errors():
            if only.user_id is None:
                page = await self._find_by_key(only.flow_id, after, rest, limit)
            else:
                page = await self._find_of_user(only.user_id, only.flow_id, after, rest, limit)
        more = page.documents[-1]["_id"] if page.full else None
        states = await self._codec.decode_many(readable(state_from_document), page.documents)
        return StatePage(existing(states), more)

    async def _find_by_key(
        self, flow_id: str | None, after: str | None, rest: Document, limit: int
    ) -> DocumentPage:
        first, end = ("", None) if flow_id is None else keys_of(flow_id)

        def find(keys: Document, up_to: int) -> AgnosticBaseCursor[Any]:
            return self._cursor(
                pipeline({"_id": keys}, rest, sort=_BY_KEY, limit=up_to, project=_WITHOUT_LISTS)
            )

        # No key is longer, so the shortened key has the same keys behind it.
        return await self._key_ranges.page(max((after or "")[:MAX_KEY_LENGTH], first), end, limit, find)

    async def _find_of_user(
        self, user_id: str, flow_id: str | None, after: str | None, rest: Document, limit: int
    ) -> DocumentPage:
        served = {"userId": user_id} if flow_id is None else {"userId": user_id, "flowId": flow_id}
        if after is not None:
            rest = {**rest, "_id": {"$gt": after}}
        page = DocumentPage(limit)
        await page.read(
            self._cursor(pipeline(served, rest, sort=_BY_KEY, limit=limit, project=_WITHOUT_LISTS))
        )
        return page

    async def list_instances(
        self,
        flow_id: str,
        user_id: str,
        *,
        status: ListedStatus | None,
        after: str | None,
        limit: int,
        now: datetime,
    ) -> StatePage:
        """Return the states with an entity that a user has in a flow at ``now``, the newest start first."""
        first = instances_prefix(flow_id, user_id)
        end = behind_prefix(first)
        rest: Document = {"status": status or _PRESENT, **not_expired(now)}
        start = first if after is None else max(first, min(after, end or after))

        def find(places: Document, up_to: int) -> AgnosticBaseCursor[Any]:
            return self._cursor(
                pipeline({"listed": places}, rest, sort=(("listed", 1),), limit=up_to, project=_WITHOUT_LISTS)
            )

        async with store_errors():
            page = await self._instance_ranges.page(start, end, limit, find)
        more = page.documents[-1]["listed"] if page.full else None
        states = await self._codec.decode_many(readable(state_from_document), page.documents)
        return StatePage(existing(states), more)

    async def list_awaiting(
        self, roles: Sequence[Participant], *, after: str | None, limit: int, now: datetime
    ) -> StatePage:
        """Return the active states that wait for one of ``roles``, by key, after the key ``after``."""
        served = {"waitsFor": {"$in": [waiting_place(one) for one in roles]}}
        return await self._listed(served, {"status": "active", **not_expired(now)}, after, limit)

    async def find_by_terms(
        self, terms: Sequence[str], *, after: str | None, limit: int, now: datetime
    ) -> StatePage:
        """Return the states that exist at ``now`` with one of ``terms``, by key, after the key ``after``."""
        rest = {"status": _PRESENT, **not_expired(now)}
        return await self._listed({TERMS: {"$in": list(terms)}}, rest, after, limit)

    async def _listed(self, served: Document, rest: Document, after: str | None, limit: int) -> StatePage:
        """Return the states that an index serves, by key, after the key ``after``."""
        rest = {**rest, "_id": {"$gt": after or ""}}
        page = DocumentPage(limit)
        async with store_errors():
            await page.read(
                self._cursor(pipeline(served, rest, sort=_BY_KEY, limit=limit, project=_WITHOUT_LISTS))
            )
        more = page.documents[-1]["_id"] if page.full else None
        states = await self._codec.decode_many(readable(state_from_document), page.documents)
        return StatePage(existing(states), more)

    async def ids_of_user(self, user_id: str) -> list[StateId]:
        """Return the stored states of a user, ended ones too, by key."""
        return await self._ids_with({"userId": user_id})

    async def ids_naming(self, user_id: str) -> list[StateId]:
        """Return the stored states that name a person beside their owner, ended ones too, by key."""
        return await self._ids_with({"people.userId": user_id})

    async def _ids_with(self, served: Document) -> list[StateId]:
        stages = pipeline(served, sort=_BY_KEY, project={"_id": 1})
        async with store_errors():
            return [id_from_key(document["_id"]) async for document in self._states.aggregate(stages)]

    def _cursor(self, stages: list[Document]) -> AgnosticBaseCursor[Any]:
        return self._states.aggregate(stages, batchSize=BATCH_DOCUMENTS)

    async def count_running_by_step(
        self, flow_id: str, version: int, shown: int, now: datetime
    ) -> list[RunningStates]:
        """Count the active and paused states on a version of a flow at ``now``, by their positions."""
        alike = {"step": "$step", "status": "$status", "previous": "$previous"}
        first = {"$firstN": {"input": "$_id", "n": shown}}
        stages = [
            *pipeline({"_id": key_range(*keys_of(flow_id))}, running(version, now), sort=_BY_KEY),
            {"$group": {"_id": alike, "count": {"$sum": 1}, "first": first}},
        ]
        async with store_errors():
            found = await self._states.aggregate(stages).to_list(None)
        return [
            RunningStates(
                step=str(place.get("step")),
                status=place["status"],
                previous=UNSET if place.get("previous") is None else str(place["previous"]),
                count=group["count"],
                state_ids=tuple(id_from_key(key) for key in group["first"]),
            )
            for group in found
            for place in [group["_id"]]
        ]

    async def list_running(
        self, flow_id: str, version: int, without: Sequence[str], limit: int, now: datetime
    ) -> list[StateId]:
        """Return the states that ``count_running_by_step`` counts, by key."""
        rest = running(version, now)
        if without:
            rest["step"] = {"$nin": list(without)}

        def find(keys: Document, up_to: int) -> AgnosticBaseCursor[Any]:
            return self._cursor(pipeline({"_id": keys}, rest, sort=_BY_KEY, limit=up_to, project={"_id": 1}))

        async with store_errors():
            page = await self._key_ranges.page(*keys_of(flow_id), limit, find)
        return [id_from_key(document["_id"]) for document in page.documents]

    async def expired(self, now: datetime) -> AsyncIterator[FlowState]:
        """Return the expired states that were not ended yet, oldest first."""
        async for state in self._due("expiresAt", now, {"status": _PRESENT}):
            yield state

    async def timed_out(self, now: datetime) -> AsyncIterator[FlowState]:
        """Return the active states whose step's timeout is due, oldest first."""
        async for state in self._due("timeoutAt", now, {"status": "active"}):
            yield state

    async def _due(self, field: str, now: datetime, rest: Document) -> AsyncIterator[FlowState]:
        """Return the states whose time in ``field`` has come, oldest first."""
        stages = pipeline({field: until(now)}, rest, sort=((field, 1),), project=_WITHOUT_LISTS)
        async with store_errors():
            async for document in self._states.aggregate(stages):
                (state,) = await self._codec.decode_many(readable(state_from_document), (document,))
                if state is not None:
                    yield state

    async def changed_since(self, user_ids: Sequence[str], since: datetime) -> list[FlowState]:
        """Return the states of users that changed at ``since`` or later, without payloads."""
        stages = pipeline(
            {"userId": {"$in": list(user_ids)}}, {"updatedAt": {"$gte": since}}, project=_WITHOUT_PAYLOAD
        )
        async with store_errors():
            documents = await self._states.aggregate(stages).to_list(None)
        return present(await self._codec.decode_many(readable(state_from_document), documents))

    async def list_undelivered(
        self, before: datetime, limit: int, without: Sequence[str] = ()
    ) -> list[StoredState]:
        """Return the states with records older than ``before`` in the outbox, oldest first."""
        query: Document = {"outbox.timestamp": {"$lt": before}}
        if without:
            query["_id"] = {"$nin": list(without)}
        waiting = self._states.find(query)
        async with store_errors():
            documents = await waiting.sort("outbox.timestamp", 1).limit(limit).to_list(limit)
        return present(await self._codec.decode_many(readable(stored_state), documents))

    async def random_key(self) -> str | None:
        """Return the key of a random stored state; None if there is none."""
        async with store_errors():
            found = await self._states.aggregate(
                [{"$sample": {"size": 1}}, {"$project": {"_id": 1}}]
            ).to_list(1)
        return next((document["_id"] for document in found), None)

    async def walk(self, after: str, limit: int) -> list[StoredState | DamagedState]:
        """Return stored states after the key ``after``, by key; fewer than ``limit`` at the end."""

        def find(keys: Document, up_to: int) -> AgnosticBaseCursor[Any]:
            return self._cursor(pipeline({"_id": keys}, sort=_BY_KEY, limit=up_to))

        async with store_errors():
            page = await self._key_ranges.page(after, None, limit, find, max_bytes=math.inf)
        return await self._codec.decode_many(stored_or_damaged, page.documents)

    async def release(self, records: Sequence[HistoryRecord]) -> None:
        """Remove delivered records from the outboxes."""
        if records:
            async with store_errors():
                await self._commits.release(records)
