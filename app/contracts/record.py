"""A record: the permanent entry of one committed change, or of one refused attempt.

The same shape waits in the outbox of the state document and is then stored in the history.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from hashlib import blake2b
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType, structs

from app.contracts.state import FlowState, Payload, StateId

Kind = Literal[
    "started",
    "transitioned",
    "undone",
    "reset",
    "set",
    "paused",
    "resumed",
    "cleared",
    "expired",
    "recovered",
    "migrated",
    "erased",
    "pseudonymised",
    "assigned",
    "claimed",
    "released",
    "voted",
    "withdrawn",
    "refused",
]


class MergedField(Struct, frozen=True):
    """A field of a payload that two changes set, of which neither knew the other.

    ``pointer`` is a JSON pointer (RFC 6901) into the payload of the state. ``theirs`` is the value that the
    earlier change had left, ``ours`` that of the later one, which replaced it; absent: there was none.
    """

    pointer: str
    theirs: Any = UNSET
    ours: Any = UNSET


class HistoryRecord(Struct, frozen=True):
    """A record of a state's history.

    ``transition`` is the transition's name, or the kind for any other change; ``from_step`` is empty if there
    was no state before. ``commit_id`` distinguishes two commits that competed for one revision. ``payload``
    is the payload of the request, ``after`` the whole state after the change (absent for a refused attempt,
    whose ``to_step`` is its ``from_step``). ``payload_revision`` is present if the change left the payload of
    the state unchanged: the record of that revision, in the same epoch, has it, and ``after`` is stored
    without it. ``digest`` is the fingerprint of a request with an id, so that a different request with the
    same id is detected. ``duration_ms`` is the time to decide and commit. ``merged`` are the fields in which
    the change replaced another one that its caller did not know (``conflict`` of the transition).

    ``hash`` covers ``previous_hash`` and the record, with a ``commitment`` in place of the erasable members,
    salted with ``salt``, in the form ``hash_version`` (absent in the first form; see
    app.flow.history_chain). Records older than the chain have none of these. ``actor_salt`` is present if the
    actor is a person of the state beside its owner: the hash then covers a pseudonym instead of the id
    (app.contracts.pseudonyms). ``instance_id`` is that of the state. ``masked`` are pointers as those of a
    state, for ``payload`` and ``merged``; a stored record has none.
    """

    id: str
    commit_id: str
    flow_id: str
    user_id: str
    epoch: str
    revision: int
    version: int
    kind: Kind
    transition: str
    from_step: str
    to_step: str
    timestamp: datetime
    success: bool
    service: str
    actor: str
    payload: Payload | UnsetType = UNSET
    after: FlowState | UnsetType = UNSET
    payload_revision: int | UnsetType = UNSET
    error: str | UnsetType = UNSET
    request_id: str | UnsetType = UNSET
    digest: str | UnsetType = UNSET
    client: str | UnsetType = UNSET
    duration_ms: float | UnsetType = UNSET
    previous_hash: str | UnsetType = UNSET
    commitment: str | UnsetType = UNSET
    salt: str | UnsetType = UNSET
    hash_version: int | UnsetType = UNSET
    hash: str | UnsetType = UNSET
    actor_salt: str | UnsetType = UNSET
    instance_id: str | UnsetType = UNSET
    merged: tuple[MergedField, ...] | UnsetType = UNSET
    masked: tuple[str, ...] | UnsetType = UNSET

    @property
    def state_key(self) -> str:
        """The key of the state (app.contracts.state.StateId)."""
        if self.instance_id is UNSET:
            return f"{self.flow_id}:{self.user_id}"
        return StateId(self.flow_id, self.user_id, self.instance_id).key

    @property
    def is_erased(self) -> bool:
        """True if the data entered with it was erased: the salt is removed with it, or lost with its key."""
        return self.hash is not UNSET and self.salt is UNSET


ERASABLE = ("payload", "request_id", "digest", "merged")
ERASABLE_AFTER = ("payload", "message", "entity_id", "pause_reason")
"""Data that users entered: members of a record, and of the state after it. An erasure removes them and the
record's salt."""


def state_after(record: HistoryRecord) -> FlowState:
    """Return the state after the record of a commit.

    Raises:
        TypeError: The record is of a refused attempt.
    """
    if record.after is UNSET:
        raise TypeError(f"{record.kind} record {record.id} commits nothing")
    return record.after


def as_stored(record: HistoryRecord) -> HistoryRecord:
    """Return the record without a payload that another record has."""
    if record.payload_revision is UNSET or record.after is UNSET:
        return record
    return structs.replace(record, after=structs.replace(record.after, payload=UNSET))


def named_payload(record: HistoryRecord) -> str | None:
    """Return the id of the record with the payload of ``record.after``; None if it is present or erased."""
    if record.payload_revision is UNSET or record.after is UNSET or record.after.payload is not UNSET:
        return None
    if record.is_erased:
        return None
    return payload_record_id(record.after, record.payload_revision)


def payload_record_id(state: FlowState, revision: int) -> str:
    """Return the id of the record of a commit in the same epoch of a state."""
    return commit_record_id(structs.replace(state, revision=revision))


def own_payloads(records: Iterable[HistoryRecord]) -> dict[str, Payload]:
    """Return the state payloads that records contain themselves, by the ids of the records."""
    return {
        record.id: record.after.payload
        for record in records
        if record.payload_revision is UNSET
        and record.after is not UNSET
        and record.after.payload is not UNSET
    }


def with_payloads(records: Iterable[HistoryRecord], payloads: Mapping[str, Payload]) -> list[HistoryRecord]:
    """Return the records with the payloads that they name, as far as they are among ``payloads``."""
    completed = []
    for record in records:
        payload = payloads.get(named_payload(record) or "")
        if payload is None:
            completed.append(record)
        else:
            after = structs.replace(state_after(record), payload=payload)
            completed.append(structs.replace(record, after=after))
    return completed


class PayloadPlace(Struct, frozen=True):
    """The record with the payload of a state: its ``revision`` and its time."""

    revision: int
    since: datetime


def payload_place(record: HistoryRecord, before: PayloadPlace | None) -> PayloadPlace | None:
    """Return the place of the payload of ``record.after``; ``before`` is the place before the change."""
    if record.after is UNSET or record.after.payload is UNSET:
        return None
    return before if record.payload_revision is not UNSET else PayloadPlace(record.revision, record.timestamp)


class UnreadableRecord(Struct, frozen=True):
    """An unreadable record in the history, at the position in its id."""

    id: str
    reason: str
    epoch: str = ""
    revision: int = 0


class RememberedRequest(Struct, frozen=True):
    """A request that changed a state, stored in the state's document.

    A repeated request is answered with the record of ``epoch`` and ``revision`` and changes nothing.
    """

    request: str
    digest: str
    epoch: str
    revision: int
    at: datetime


def request_key(actor: str, request_id: str) -> str:
    """Return the key of a request within a state; ids of different callers do not collide."""
    return blake2b(f"{actor}\0{request_id}".encode(), digest_size=12).hexdigest()


def remembered_request(record: HistoryRecord) -> RememberedRequest | None:
    """Return the request of ``record`` for the state's document; None if it has no id."""
    if record.request_id is UNSET or record.digest is UNSET:
        return None
    digest, _, key = record.digest.partition(".")  # the key is there if digests have one
    key = key or request_key(record.actor, record.request_id)
    return RememberedRequest(key, digest, record.epoch, record.revision, record.timestamp)


def commit_record_id(state: FlowState) -> str:
    """Return the id of the record of the commit that made ``state``; writing it twice is harmless."""
    return f"{state.key}:{state.epoch}:{state.revision}"


class HistoryPosition(Struct, frozen=True, order=True):
    """The position of a record among those of its state, ordered by epoch, revision, id."""

    epoch: str
    revision: int
    id: str


def position_of(record: HistoryRecord | UnreadableRecord) -> HistoryPosition:
    """Return the position of a record in the history of its state."""
    return HistoryPosition(record.epoch, record.revision, record.id)


def position_from_id(key: str, record_id: str) -> HistoryPosition | None:
    """Return the position in a record's id; None if it is not an id of a record of the state ``key``."""
    rest = record_id.removeprefix(f"{key}:")
    epoch, _, numbers = rest.partition(":")
    revision = numbers.partition(":")[0]
    if rest == record_id or not revision.isascii() or not revision.isdigit() or len(revision) > 18:
        return None
    return HistoryPosition(epoch, int(revision), record_id)


class HistoryFilter(Struct, frozen=True):
    """A filter of records; None matches any value.

    ``since`` is inclusive, ``until`` exclusive.
    """

    since: datetime | None = None
    until: datetime | None = None
    transition: str | None = None
    actor: str | None = None
    success: bool | None = None

    def matches(self, record: HistoryRecord) -> bool:
        """Return whether a record passes the filter."""
        return (
            (self.since is None or record.timestamp >= self.since)
            and (self.until is None or record.timestamp < self.until)
            and self.transition in (None, record.transition)
            and self.actor in (None, record.actor)
            and self.success in (None, record.success)
        )


EVERYTHING = HistoryFilter()
