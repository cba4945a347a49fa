"""The port of the state store, and the values that it returns."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Literal, Protocol

from msgspec import UNSET, Struct, UnsetType

from app.contracts.people import Participant
from app.contracts.record import (
    HistoryRecord,
    PayloadPlace,
    RememberedRequest,
    own_payloads,
    payload_record_id,
    with_payloads,
)
from app.contracts.state import FlowState, StateId, StatePosition


class StoredState(Struct, frozen=True):
    """A stored state.

    ``pending`` are the records of its changes that wait for delivery, oldest first; ``recent`` the last
    requests that changed it, oldest first; ``head`` is the hash of its last record ("": older than the
    chain); ``payload_at`` the place of its payload (None: there is none, or an older version of the service
    wrote the state). ``erased``: the data key of the user was destroyed, and the state was restored from a
    backup of before; for readers it has ended.
    """

    state: FlowState
    pending: tuple[HistoryRecord, ...] = ()
    recent: tuple[RememberedRequest, ...] = ()
    head: str = ""
    payload_at: PayloadPlace | None = None
    erased: bool = False

    def complete(self, records: Sequence[HistoryRecord]) -> list[HistoryRecord]:
        """Return records of this state with the payloads that they name.

        Payloads that neither the state nor its pending records have remain absent.
        """
        payloads = own_payloads(self.pending)
        if self.payload_at is not None and self.state.payload is not UNSET:
            payloads[payload_record_id(self.state, self.payload_at.revision)] = self.state.payload
        return with_payloads(records, payloads)

    @property
    def deliverable(self) -> list[HistoryRecord]:
        """``pending``, as complete as this state can make them."""
        return self.complete(self.pending)


class DamagedState(Struct, frozen=True):
    """The readable parts of a damaged stored state, and the reason why it cannot be read.

    ``state`` is present if only other parts of the document are damaged.
    """

    position: StatePosition
    reason: str
    state: FlowState | None = None
    head: str = ""
    pending: tuple[HistoryRecord, ...] = ()
    recent: tuple[RememberedRequest, ...] = ()


class StatePage(Struct, frozen=True):
    """A page of states; ``next`` is the key after which the next page begins, None on the last page.

    It may have fewer states than requested, because unreadable states are left out and its size in bytes is
    limited.
    """

    states: list[FlowState]
    next: str | None


ListedStatus = Literal["active", "paused", "completed"]


class StateFilter(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A filter of states; None matches any value.

    ``entity_id`` is that of states whose flow has many for each user.
    """

    flow_id: str | None = None
    step: str | None = None
    status: ListedStatus | None = None
    user_id: str | None = None
    entity_id: str | None = None


class RunningStates(Struct, frozen=True):
    """Running states at the same step: their number, and the first ones, by key."""

    step: str
    status: Literal["active", "paused"]
    previous: str | UnsetType
    count: int
    state_ids: tuple[StateId, ...]


REMEMBERED_REQUESTS = 16
"""Requests that a state's document stores; older ones are found in the history."""

IDEMPOTENCY_WINDOW = timedelta(hours=24)
"""Period in which a repeated request is recognised."""


class StateStore(Protocol):
    """States, each committed by one conditional update of one document.

    Every method raises StoreUnavailableError when the store does not answer, and
    FlowStateCorruptionError for a document that cannot be read. Lists leave out such documents.
    """

    @property
    def busy(self) -> bool:
        """True while callers wait for commits."""

    async def load(self, state_id: StateId) -> StoredState | None:
        """Return the stored state, also a cleared or expired one; None if there is none."""

    async def commit(self, before: StatePosition | None, record: HistoryRecord) -> bool:
        """Make ``record.after`` the state if it still stands at ``before``.

        The record enters the outbox, without a payload that it names, and its request the last
        ``REMEMBERED_REQUESTS`` ones. The record of an erasure, also of a person beside the owner, removes the
        stored requests. If the connection
        breaks, the outcome is looked up, never guessed.

        Args:
            before: The position of the state; None if there must be none.
            record: The record of the change.

        Returns:
            False if another commit was first.
        """

    async def load_or_salvage(self, state_id: StateId) -> StoredState | DamagedState | None:
        """Return the stored state, or the readable parts of a damaged one; None if there is none."""

    async def replace(self, damaged: DamagedState, record: HistoryRecord) -> bool:
        """Replace a damaged state by ``record.after``, if it has not changed since it was read.

        The damaged document is set aside. Its pending records must be delivered before.
        """

    async def drop_damaged(self, state_id: StateId) -> None:
        """Remove the damaged documents of a state that were set aside."""

    async def find(self, only: StateFilter, after: str | None, limit: int, now: datetime) -> StatePage:
        """Return the states that exist at ``now``, by key, after the key ``after``."""

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
        """Return the states with an entity that a user has in a flow at ``now``, the newest start first.

        Args:
            flow_id: The flow.
            user_id: The owner.
            status: Only states with this status; None: all.
            after: The ``next`` of the page before.
            limit: The largest number of states.
            now: The present time, at which the states have not expired.
        """

    async def list_awaiting(
        self, roles: Sequence[Participant], *, after: str | None, limit: int, now: datetime
    ) -> StatePage:
        """Return the active states that wait for one of ``roles``, by key, after the key ``after``.

        A state waits for the participants with a role that may run a transition of its step.
        """

    async def find_by_terms(
        self, terms: Sequence[str], *, after: str | None, limit: int, now: datetime
    ) -> StatePage:
        """Return the states that exist at ``now`` with one of ``terms``, by key, after the key ``after``.

        A term is one of those in ``search_terms`` of the last commit of a state.
        """

    async def ids_of_user(self, user_id: str) -> list[StateId]:
        """Return the stored states of a user, ended ones too, by key."""

    async def count_running_by_step(
        self, flow_id: str, version: int, shown: int, now: datetime
    ) -> list[RunningStates]:
        """Count the active and paused states on a version of a flow at ``now``, by their positions.

        Each group lists its first ``shown`` states. Unreadable states with a readable step are included.
        """

    async def list_running(
        self, flow_id: str, version: int, without: Sequence[str], limit: int, now: datetime
    ) -> list[StateId]:
        """Return the states that ``count_running_by_step`` counts, by key.

        ``without``: steps whose states are left out.
        """

    def expired(self, now: datetime) -> AsyncIterator[FlowState]:
        """Return the expired states that were not ended yet, oldest first."""

    def timed_out(self, now: datetime) -> AsyncIterator[FlowState]:
        """Return the active states whose step's timeout is due, oldest first."""

    async def changed_since(self, user_ids: Sequence[str], since: datetime) -> list[FlowState]:
        """Return the states of users that changed at ``since`` or later, ended ones too, without payloads."""

    async def list_undelivered(
        self, before: datetime, limit: int, without: Sequence[str] = ()
    ) -> list[StoredState]:
        """Return the states with records older than ``before`` in the outbox, oldest first.

        ``without``: keys of states that are left out.
        """

    async def ids_naming(self, user_id: str) -> list[StateId]:
        """Return the stored states that name a person beside their owner, ended ones too, by key.

        Those are the states with a salt of the person (app.contracts.pseudonyms), also unreadable ones.
        """

    async def random_key(self) -> str | None:
        """Return the key of a random stored state; None if there is none. May read all states."""

    async def walk(self, after: str, limit: int) -> list[StoredState | DamagedState]:
        """Return stored states after the key ``after`` ("": all), by key; fewer than ``limit`` at the end."""

    async def release(self, records: Sequence[HistoryRecord]) -> None:
        """Remove delivered records from the outboxes."""
