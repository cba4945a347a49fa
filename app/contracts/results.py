"""Results of operations that are more than one change."""

from datetime import datetime
from typing import Literal, NamedTuple

from msgspec import UNSET, Struct, UnsetType

from app.contracts.definition import FlowDefinition
from app.contracts.erasures import ErasureReceipt
from app.contracts.errors import FlowError
from app.contracts.events import StateChanged
from app.contracts.record import HistoryRecord
from app.contracts.state import FlowState


class Started(NamedTuple):
    """The result of a start: the running state, and whether this call started it."""

    state: FlowState
    started: bool


class Published(NamedTuple):
    """The result of publishing a flow: its newest version, and whether this call made it."""

    definition: FlowDefinition
    published: bool


class Recovered(Struct, frozen=True):
    """The result of a recovery.

    ``kept``: the state is sound and was not changed; ``rebuilt``: from the record with the id ``record``;
    ``restarted``: at the initial step, because the history has no valid record. ``reason`` describes the
    damage. ``state`` is None for a state that had ended.
    """

    action: Literal["kept", "rebuilt", "restarted"]
    state: FlowState | None
    reason: str | None = None
    record: str | None = None


class CaughtUp(Struct, frozen=True):
    """The result of catching up.

    ``complete``: ``events`` are all changes after the subscriber's position, oldest first, up to the present.
    Otherwise completeness could not be proven, and the subscriber starts again with ``state`` (None: there is
    no state).
    """

    state: FlowState | None
    events: tuple[StateChanged, ...] = ()
    complete: bool = False


class BrokenLink(Struct, frozen=True, rename="camel"):
    """The first invalid record of a chain, with the reason."""

    id: str
    reason: str


class Verification(Struct, frozen=True, rename="camel", omit_defaults=True):
    """The result of verifying a state's records; ``broken`` is the first invalid link.

    Of the ``records``, ``unsealed`` are older than the chain, and ``erased`` lost their payload by erasure.
    ``head`` is the hash of the last record: stored elsewhere, it proves later that no record before it was
    changed.
    """

    whole: bool
    records: int
    unsealed: int
    erased: int
    head: str
    broken: BrokenLink | None = None


class BatchOutcome(Struct, frozen=True):
    """The result of one operation: the state (None: it has ended), or an error.

    With ``payload_omitted`` the state has a payload that did not fit into the answer.
    """

    user_id: str
    flow_id: str
    entity_id: str | UnsetType = UNSET
    state: FlowState | None = None
    error: FlowError | None = None
    payload_omitted: bool = False


class BatchPage(NamedTuple):
    """The outcomes of an operation on found states, and the key to continue after (None: all are done)."""

    outcomes: list[BatchOutcome]
    next: str | None


class ErasedUser(Struct, frozen=True):
    """When the data of a user was erased, and by whom."""

    at: datetime
    by: str


class PersonalData(Struct, frozen=True):
    """All stored data of a user: the present states, and the records of all states, also ended ones.

    ``erased``: when the data was erased the last time, None if it never was.
    """

    user_id: str
    exported_at: datetime
    states: list[FlowState]
    history: list[HistoryRecord]
    erased: ErasedUser | None = None


class Erasure(Struct, frozen=True):
    """The receipt of an erasure.

    ``receipts`` are the records of the erasure, one in each chain; ``erased`` counts the records that lost
    their payload. ``pseudonymised_states`` and ``pseudonymised_records`` count those of other users that
    named the person, and have a pseudonym instead. ``destroyed_keys`` are the ids of all data keys of the
    user that were ever destroyed; none if the data was not encrypted. ``at`` and ``by`` are its time and its
    actor. ``receipt`` is for a third party to check.
    """

    user_id: str
    receipts: list[HistoryRecord]
    erased: int
    at: datetime
    by: str
    pseudonymised_states: int = 0
    pseudonymised_records: int = 0
    destroyed_keys: tuple[str, ...] = ()
    receipt: ErasureReceipt | None = None


class Retired(Struct, frozen=True, rename="camel"):
    """The result of ending the states of a retired flow.

    ``ended`` counts the states that it ended, ``failed`` those that it could not end (they are logged).
    ``more``: there are further states, and the request must be repeated.
    """

    ended: int = 0
    failed: int = 0
    more: bool = False
