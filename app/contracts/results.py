"""Results of operations that are more than one change."""

from datetime import datetime
from typing import Literal, NamedTuple

from msgspec import Struct

from app.contracts.definition import FlowDefinition
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
    """The result of a recovery. ``kept``: the state is sound and was left as it is; ``rebuilt``: from the
    record with the id ``record``; ``restarted``: at the initial step, as the history has no valid
    record. ``reason`` is what was wrong. ``state`` is None for one that had ended."""

    action: Literal["kept", "rebuilt", "restarted"]
    state: FlowState | None
    reason: str | None = None
    record: str | None = None


class CaughtUp(Struct, frozen=True):
    """An answer to catching up. ``complete``: ``events`` are all changes after its position, oldest
    first, up to the present. Otherwise that could not be proven, and ``state`` (None: there is none) is
    where it starts anew."""

    state: FlowState | None
    events: tuple[StateChanged, ...] = ()
    complete: bool = False


class BrokenLink(Struct, frozen=True, rename="camel"):
    """The first record of a chain that does not fit. ``reason`` says how."""

    id: str
    reason: str


class Verification(Struct, frozen=True, rename="camel", omit_defaults=True):
    """The result of verifying a state's records; ``broken`` is the first link that is not. Of the
    ``records``, ``unsealed`` are older than the chain, and ``erased`` lost their payload to an erasure.
    ``head`` is the hash of the last one: who keeps it elsewhere can tell later that nothing before it
    was changed."""

    whole: bool
    records: int
    unsealed: int
    erased: int
    head: str
    broken: BrokenLink | None = None


class BatchOutcome(Struct, frozen=True):
    """The result of one operation: the state (None: there is none any more), or an error. With
    ``payload_omitted`` the state has a payload that did not fit the answer."""

    user_id: str
    flow_id: str
    state: FlowState | None = None
    error: FlowError | None = None
    payload_omitted: bool = False


class BatchPage(NamedTuple):
    """The outcomes of an operation on found states, and the key to go on after (None: all are done)."""

    outcomes: list[BatchOutcome]
    next: str | None


class PersonalData(Struct, frozen=True):
    """Everything kept of a user: states that are there now, and the records of all there ever were."""

    user_id: str
    exported_at: datetime
    states: list[FlowState]
    history: list[HistoryRecord]


class Erasure(Struct, frozen=True):
    """The receipt of an erasure: the record that stands for it in each chain, and how many records
    lost their payload."""

    user_id: str
    receipts: list[HistoryRecord]
    erased: int


class Retired(Struct, frozen=True, rename="camel"):
    """States of a flow after its forced retirement: how many it ended, how many it could not (the
    log says which), and whether there are more: then it is to be asked for again."""

    ended: int = 0
    failed: int = 0
    more: bool = False
