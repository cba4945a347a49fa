"""The port of the state store, and the values that it returns."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Literal, Protocol

from msgspec import UNSET, Struct, UnsetType

from app.contracts.record import (
    HistoryRecord,
    PayloadPlace,
    RememberedRequest,
    own_payloads,
    payload_record_id,
    with_payloads,
)
from app.contracts.state import FlowState, StatePosition


class StoredState(Struct, frozen=True):
    """A state as read: with the records of its changes that still wait for delivery, oldest first, the
    last requests that changed it, oldest first, the hash of its last record ("": older than the
    chain), and the place of its payload (None: there is none, or an older version of the service wrote the
    state)."""

    state: FlowState
    pending: tuple[HistoryRecord, ...] = ()
    recent: tuple[RememberedRequest, ...] = ()
    head: str = ""
    payload_at: PayloadPlace | None = None

    def complete(self, records: Sequence[HistoryRecord]) -> list[HistoryRecord]:
        """Records of this state with the payloads that they name, as far as it, or what waits in it, has
        them."""
        payloads = own_payloads(self.pending)
        if self.payload_at is not None and self.state.payload is not UNSET:
            payloads[payload_record_id(self.state, self.payload_at.revision)] = self.state.payload
        return with_payloads(records, payloads)

    @property
    def deliverable(self) -> list[HistoryRecord]:
        """``pending``, as complete as this state can make them."""
        return self.complete(self.pending)


class DamagedState(Struct, frozen=True):
    """The readable parts of a damaged stored state, and why it cannot be read. ``state`` is there when
    only what is around it is damaged."""

    position: StatePosition
    reason: str
    state: FlowState | None = None
    head: str = ""
    pending: tuple[HistoryRecord, ...] = ()
    recent: tuple[RememberedRequest, ...] = ()


class StatePage(Struct, frozen=True):
    """Some of the states that were asked for; ``next`` is the key to go on after, None on the last page.
    It may have fewer than asked for, as what cannot be read is left out, and as it ends at a number of
    bytes too."""

    states: list[FlowState]
    next: str | None


class StateFilter(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Which states are wanted; None: any."""

    flow_id: str | None = None
    step: str | None = None
    status: Literal["active", "paused", "completed"] | None = None
    user_id: str | None = None


class RunningStates(Struct, frozen=True):
    """Running states that stand alike: how many, and the users of the first of them, by key."""

    step: str
    status: Literal["active", "paused"]
    previous: str | UnsetType
    count: int
    user_ids: tuple[str, ...]


REMEMBERED_REQUESTS = 16
"""How many requests a state's document remembers; older ones are found in the history."""

IDEMPOTENCY_WINDOW = timedelta(hours=24)
"""For how long a repeated request is recognised."""


class StateStore(Protocol):
    """States, each committed by one conditional update of one document.

    Every method raises StoreUnavailableError when the store does not answer, and
    FlowStateCorruptionError for a document that cannot be read. What is listed leaves such out.
    """

    @property
    def busy(self) -> bool:
        """True while callers wait for commits."""

    async def load(self, flow_id: str, user_id: str) -> StoredState | None:
        """The stored state, also one that is cleared or past its time; None when there is none."""

    async def commit(self, before: StatePosition | None, record: HistoryRecord) -> bool:
        """Make ``record.after`` the state if it still stands at ``before`` (None: if there is none),
        with the record in its outbox and its request among the last ``REMEMBERED_REQUESTS`` ones. A payload
        that the record names is not in the outbox again. False when somebody else was first. An outcome that
        was lost on the way is looked up, never guessed. The record of an erasure makes the state forget its
        requests."""

    async def load_or_salvage(self, flow_id: str, user_id: str) -> StoredState | DamagedState | None:
        """The stored state, or what can be read of it when it cannot be loaded; None when there is none."""

    async def replace(self, damaged: DamagedState, record: HistoryRecord) -> bool:
        """Make ``record.after`` the state in the place of a damaged one, if that is as it was read. The
        damaged one is kept aside. Records that waited in it must be delivered before."""

    async def drop_damaged(self, flow_id: str, user_id: str) -> None:
        """Remove what was kept aside of a state."""

    async def find(self, only: StateFilter, after: str | None, limit: int, now: datetime) -> StatePage:
        """States that are present at ``now``, by key, after the key ``after``."""

    async def count_running_by_step(
        self, flow_id: str, version: int, shown: int, now: datetime
    ) -> list[RunningStates]:
        """The active and paused states that are on a version of a flow at ``now``, by where they stand, with
        ``shown`` users each. What cannot be read but says where it stands is among them."""

    async def list_running_users(
        self, flow_id: str, version: int, without: Sequence[str], limit: int, now: datetime
    ) -> list[str]:
        """The users of states as in ``count_running_by_step``, by key, those not at one of the steps
        ``without``."""

    def expired(self, now: datetime) -> AsyncIterator[FlowState]:
        """States past their time that were not ended yet, oldest first."""

    def timed_out(self, now: datetime) -> AsyncIterator[FlowState]:
        """Active states whose step's timeout is due, oldest first."""

    async def changed_since(self, user_ids: Sequence[str], since: datetime) -> list[FlowState]:
        """States of these users, without their payloads, that changed at ``since`` or later, also those that
        ended."""

    async def list_undelivered(
        self, before: datetime, limit: int, without: Sequence[str] = ()
    ) -> list[StoredState]:
        """States with records older than ``before`` in the outbox, oldest first. ``without``: keys of states
        that are left out."""

    async def random_key(self) -> str | None:
        """The key of a stored state, chosen at random; None when there is none. May read all states."""

    async def walk(self, after: str, limit: int) -> list[StoredState | DamagedState]:
        """The stored states behind the key ``after`` ("": all), by key; fewer than ``limit`` at the end."""

    async def release(self, records: Sequence[HistoryRecord]) -> None:
        """Take delivered records out of the outboxes."""
