"""Commits: conditional updates of one document each; concurrent ones share a command."""

from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

from msgspec import UNSET, Struct
from pymongo import InsertOne, UpdateOne
from pymongo.errors import BulkWriteError, PyMongoError

from app.contracts.errors import StoreUnavailableError
from app.contracts.ports.states import REMEMBERED_REQUESTS
from app.contracts.record import (
    HistoryRecord,
    state_after,
)
from app.contracts.state import FlowState, StatePosition
from models.batching.adaptive_size import AdaptiveBatchSize
from models.batching.batcher import Batcher
from models.codec import (
    OPTIONAL_STATE_FIELDS,
    PAYLOAD_PLACE_FIELDS,
    Document,
)
from models.database import ANSWER_SECONDS, Collection, is_outage
from models.listing import LISTING_FIELDS, TERMS
from models.sealed_fields import KEY_CHECK

MAX_COMMIT_ATTEMPTS = 3
MAX_WRITES_IN_COMMAND = 100
"""Small enough that a single request behind a full command does not wait long."""
MAX_COMMANDS_IN_FLIGHT = 2
PEOPLE_FIELDS = ("participants", "awaits", "claims", "votes", "runs", "people")
_STATE_FIELDS = tuple(field for field in OPTIONAL_STATE_FIELDS if field not in (*PEOPLE_FIELDS, "instanceId"))
"""A part of the identity never goes."""
_DUPLICATE_KEY = 11000


class ConditionalWrite(Struct, frozen=True):
    """A commit: ``record.after`` becomes the state if it still stands at ``before``.

    Args:
        before: The position of the state; None if there must be none.
        record: The record of the commit.
        operation: The command's part of it (``operation_of``); a second attempt sends the same.
    """

    before: StatePosition | None
    record: HistoryRecord
    operation: InsertOne[Document] | UpdateOne

    @property
    def after(self) -> FlowState:
        """The state after the commit."""
        return state_after(self.record)


class CommitBatcher:
    """Writes commits, and removes their delivered records from the outboxes."""

    def __init__(self, states: Collection, history: Collection) -> None:
        self._states = states
        self._history = history
        # Separate, because an update takes a server many times as long as an insert.
        self._update_size = AdaptiveBatchSize(MAX_WRITES_IN_COMMAND, ANSWER_SECONDS)
        self._starts = self._make_batcher(AdaptiveBatchSize(MAX_WRITES_IN_COMMAND, ANSWER_SECONDS))
        self._moves = self._make_batcher(self._update_size)

    @property
    def busy(self) -> bool:
        """True while commits are waiting or in flight."""
        return self._starts.busy or self._moves.busy

    async def submit(self, commit: ConditionalWrite) -> bool:
        """Write a commit. Returns False if another commit was first."""
        return await (self._starts if commit.before is None else self._moves).submit(commit)

    async def release(self, records: Sequence[HistoryRecord]) -> None:
        """Remove delivered records from the outboxes."""
        delivered: dict[str, list[str]] = {}
        for record in records:
            delivered.setdefault(state_after(record).key, []).append(record.id)
        keys = list(delivered)
        while keys:  # not all at once: commits wait behind them
            batch, keys = keys[: self._update_size.size], keys[self._update_size.size :]
            ids = [record_id for key in batch for record_id in delivered[key]]
            sent_at = monotonic()
            try:
                # One update of many documents costs a fraction of as many updates. Ids are unique, so every
                # document loses only its own records.
                await self._states.update_many(
                    {"_id": {"$in": batch}}, {"$pull": {"outbox": {"_id": {"$in": ids}}}}
                )
            except PyMongoError:
                self._update_size.record_failure()
                raise
            self._update_size.record(len(batch), monotonic() - sent_at)

    def _make_batcher(self, batch_size: AdaptiveBatchSize) -> Batcher[ConditionalWrite, bool]:
        return Batcher(
            self._make_all,
            batch_size=batch_size,
            max_in_flight=MAX_COMMANDS_IN_FLIGHT,
            timeout=ANSWER_SECONDS,
        )

    async def _make_all(self, commits: Sequence[ConditionalWrite]) -> list[bool | Exception]:
        outcomes: dict[int, bool | Exception] = {}
        left = dict(enumerate(commits))
        sent_before = False

        def record_outcomes(found: Sequence[bool | Exception | None]) -> None:
            for n, outcome in zip([*left], found, strict=True):
                if outcome is not None:
                    outcomes[n] = outcome
                    del left[n]

        for _ in range(MAX_COMMIT_ATTEMPTS):
            try:
                record_outcomes(await self._write(list(left.values()), sent_before=sent_before))
                if left:
                    record_outcomes(await self._were_made(list(left.values())))
            except PyMongoError as error:
                if not is_outage(error):
                    record_outcomes([error] * len(left))
                sent_before = True
                # The connection broke, so the write may have been made or may still be made. Look it up.
                # If a state has not changed, the same conditional write can be sent again, because only
                # one of the two can match. If the second does not match, the first may have been late.
                with suppress(PyMongoError):
                    record_outcomes(await self._were_made(list(left.values())))
            if not left:
                break
        return [outcomes.get(n, StoreUnavailableError()) for n in range(len(commits))]

    async def _write(
        self, commits: Sequence[ConditionalWrite], *, sent_before: bool
    ) -> list[bool | Exception | None]:
        """Return the outcome of each commit; None if it is not certain."""
        updates = sum(commit.before is not None for commit in commits)
        faults: dict[int, dict[str, Any]] = {}
        try:
            answer = await self._states.bulk_write([commit.operation for commit in commits], ordered=False)
            matched = answer.matched_count
        except BulkWriteError as refusal:
            details = refusal.details or {}
            if is_outage(refusal) or details.get("writeConcernErrors"):
                raise
            matched = details.get("nMatched", 0)
            faults = {fault["index"]: fault for fault in details.get("writeErrors", ())}
        updates -= sum(commits[n].before is not None for n in faults)
        outcomes: list[bool | Exception | None] = []
        for n, commit in enumerate(commits):
            fault = faults.get(n)
            if fault is not None and fault.get("code") != _DUPLICATE_KEY:
                outcomes.append(BulkWriteError({"writeErrors": [fault]}))
            elif fault is not None:
                outcomes.append(None if sent_before else False)
            elif commit.before is None or matched == updates:
                outcomes.append(True)
            else:
                outcomes.append(False if updates == 1 and not sent_before else None)
        return outcomes

    async def _were_made(self, commits: Sequence[ConditionalWrite]) -> list[bool | None]:
        """Look up the outcomes of commits; None for a commit that can be sent again.

        States are read before the history, because a record leaves the outbox only when the history has it.
        """
        keys = list({commit.after.key for commit in commits})
        shown = {"epoch": 1, "revision": 1, "outbox._id": 1, "outbox.commitId": 1}
        states = await self._states.find({"_id": {"$in": keys}}, shown).to_list(len(keys))
        by_key = {document["_id"]: document for document in states}
        ids = list({commit.record.id for commit in commits})
        records = await self._history.find({"_id": {"$in": ids}}, {"commitId": 1}).to_list(len(ids))
        delivered = {document["_id"]: document.get("commitId") for document in records}
        return [_was_made(commit, by_key.get(commit.after.key), delivered) for commit in commits]


def _was_made(commit: ConditionalWrite, document: Document | None, delivered: dict[str, Any]) -> bool | None:
    record, before = commit.record, commit.before
    for waiting in (document or {}).get("outbox", ()):
        if waiting.get("_id") == record.id:
            return bool(waiting.get("commitId") == record.commit_id)
    if record.id in delivered:
        return bool(delivered[record.id] == record.commit_id)
    if document is None:
        return None if before is None else False
    if before is None:
        return False
    as_before = (document.get("epoch"), document.get("revision")) == (before.epoch, before.revision)
    return None if as_before else False


def _may_lose_people(record: HistoryRecord) -> bool:
    """Return true if the document may have fields about people, or of lists, that the state has no more.

    Most states never have any, and each field that is unset costs the server time. A start that is an update
    is one in the place of a tombstone, which may have had people.
    """
    after = state_after(record)
    return (
        after.instance_id is not UNSET
        or after.participants is not UNSET
        or after.people is not UNSET
        or record.kind not in ("transitioned", "undone", "paused", "resumed", "voted")
    )


def operation_of(
    before: StatePosition | None, record: HistoryRecord, document: Document
) -> InsertOne[Document] | UpdateOne:
    """Make the operation of a commit.

    Args:
        before: The position of the state; None if there must be none.
        record: The record of the commit.
        document: The encoded state with ``record`` in its outbox; becomes a part of the operation.
    """
    if before is None:
        document["_id"] = state_after(record).key
        return InsertOne(document)
    update: Document = {"$set": document, "$push": {"outbox": document.pop("outbox")[0]}}
    recent = document.pop("recent")
    if record.kind in ("erased", "pseudonymised"):  # they have a fingerprint of who sent them
        document["recent"] = []
    elif recent:
        update["$push"]["recent"] = {"$each": recent, "$slice": -REMEMBERED_REQUESTS}
    optional = (*_STATE_FIELDS, KEY_CHECK)
    if record.payload_revision is UNSET:
        optional = (*optional, *PAYLOAD_PLACE_FIELDS)
    may_lose_people = _may_lose_people(record)
    if may_lose_people:
        optional = (*optional, *PEOPLE_FIELDS, *LISTING_FIELDS)
    if may_lose_people or state_after(record).search_terms is not UNSET:
        optional = (*optional, TERMS)
    absent = {field: "" for field in optional if field not in document}
    if record.payload_revision is not UNSET:
        document.pop("payload", None)  # it is there, as the update is of this revision alone
    if absent:
        update["$unset"] = absent
    return UpdateOne({"_id": before.key, "epoch": before.epoch, "revision": before.revision}, update)
