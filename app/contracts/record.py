"""A record: what is kept for ever of one committed change, or of one refused attempt.

The same shape waits in the outbox of the state document and then lies in the history.
"""

from datetime import datetime
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from app.contracts.state import FlowState, Payload

Kind = Literal["started", "transitioned", "reset", "set", "cleared", "expired", "refused"]


class HistoryRecord(Struct, frozen=True):
    """``transition`` is the transition's name, or the kind for any other change; ``from_step`` is
    empty when there was no state before. ``commit_id`` tells two commits apart that competed for
    one revision. ``payload`` is what came with this change, ``after`` the
    whole state it led to (absent for a refused attempt, whose ``to_step`` is its ``from_step``).
    ``duration_ms`` is how long the service took to decide and commit."""

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
    client: str | UnsetType = UNSET
    duration_ms: float | UnsetType = UNSET


def commit_record_id(state: FlowState) -> str:
    """The id of the one record of the commit that made ``state``; writing it twice is harmless."""
    return f"{state.key}:{state.epoch}:{state.revision}"


class HistoryPosition(Struct, frozen=True, order=True):
    """Where a record stands among those of its state: by epoch, revision, id."""

    epoch: str
    revision: int
    id: str


def position_of(record: HistoryRecord) -> HistoryPosition:
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
