"""A record: what is kept for ever of one committed change, or of one refused attempt.

The same shape waits in the outbox of the state document and then lies in the history.
"""

from datetime import datetime
from hashlib import blake2b
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from app.contracts.state import FlowState, Payload

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
    "refused",
]


class HistoryRecord(Struct, frozen=True):
    """``transition`` is the transition's name, or the kind for any other change; ``from_step`` is
    empty when there was no state before. ``commit_id`` tells two commits apart that competed for
    one revision. ``payload`` is what came with this change, ``after`` the
    whole state it led to (absent for a refused attempt, whose ``to_step`` is its ``from_step``).
    ``digest`` stands for what a request with an id asked for, so that the same id with another
    request is noticed. ``duration_ms`` is how long the service took to decide and commit. ``hash`` is over
    ``previous_hash`` and the record, with a ``commitment`` in place of what can be erased, salted with
    ``salt``, in the form ``hash_version`` (absent in the first form; see app.flow.chain). Records older
    than the chain have none of these."""

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


ERASABLE = ("payload", "request_id", "digest")
ERASABLE_AFTER = ("payload", "message", "entity_id", "pause_reason")
"""Entered data: members of a record, and of the state that it led to. An erasure removes them and the
record's salt."""


def state_after(record: HistoryRecord) -> FlowState:
    """The state that the record of a commit led to."""
    if record.after is UNSET:
        raise TypeError(f"{record.kind} record {record.id} commits nothing")
    return record.after


class UnreadableRecord(Struct, frozen=True):
    """A record in the history that cannot be read any more, at the place that its id says."""

    id: str
    reason: str
    epoch: str = ""
    revision: int = 0


class Remembered(Struct, frozen=True):
    """A request that changed a state, kept in the state's document: a repeat is answered by the
    record of ``epoch`` and ``revision`` and changes nothing."""

    request: str
    digest: str
    epoch: str
    revision: int
    at: datetime


def request_key(actor: str, request_id: str) -> str:
    """A request's identity within a state: ids of different callers do not meet."""
    return blake2b(f"{actor}\0{request_id}".encode(), digest_size=12).hexdigest()


def remembered(record: HistoryRecord) -> Remembered | None:
    """The part of the request that a state's document stores, of ``record``; None when it has no id."""
    if record.request_id is UNSET or record.digest is UNSET:
        return None
    key = request_key(record.actor, record.request_id)
    return Remembered(key, record.digest, record.epoch, record.revision, record.timestamp)


def commit_record_id(state: FlowState) -> str:
    """The id of the one record of the commit that made ``state``; writing it twice is harmless."""
    return f"{state.key}:{state.epoch}:{state.revision}"


class HistoryPosition(Struct, frozen=True, order=True):
    """Where a record stands among those of its state: by epoch, revision, id."""

    epoch: str
    revision: int
    id: str


def position_of(record: HistoryRecord | UnreadableRecord) -> HistoryPosition:
    """A record's place in the history of its state."""
    return HistoryPosition(record.epoch, record.revision, record.id)


def position_from_id(key: str, record_id: str) -> HistoryPosition | None:
    """The place that a record's id says, None when it is no record's of the state ``key``."""
    rest = record_id.removeprefix(f"{key}:")
    epoch, _, numbers = rest.partition(":")
    revision = numbers.partition(":")[0]
    if rest == record_id or not revision.isascii() or not revision.isdigit() or len(revision) > 18:
        return None
    return HistoryPosition(epoch, int(revision), record_id)


class HistoryFilter(Struct, frozen=True):
    """Which records are wanted; None: any. ``since`` is the first moment, ``until`` the first one
    that is too late."""

    since: datetime | None = None
    until: datetime | None = None
    transition: str | None = None
    actor: str | None = None
    success: bool | None = None

    def takes(self, record: HistoryRecord) -> bool:
        """True if a record passes the filter."""
        return (
            (self.since is None or record.timestamp >= self.since)
            and (self.until is None or record.timestamp < self.until)
            and self.transition in (None, record.transition)
            and self.actor in (None, record.actor)
            and self.success in (None, record.success)
        )


EVERYTHING = HistoryFilter()
