"""What the use cases need of the outside. Every port has a contract suite in ``tests/contract``."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from msgspec import Struct

from app.contracts.definition import FlowDefinition
from app.contracts.events import Event
from app.contracts.record import (
    EVERYTHING,
    HistoryFilter,
    HistoryPosition,
    HistoryRecord,
    Remembered,
)
from app.contracts.state import FlowState
from app.contracts.statistics import FlowStatistics


class StoredState(Struct, frozen=True):
    """A state as read: with the records of its changes that still wait for delivery, oldest first,
    and the last requests that changed it, oldest first."""

    state: FlowState
    pending: tuple[HistoryRecord, ...] = ()
    recent: tuple[Remembered, ...] = ()


REMEMBERED = 16
"""How many requests a state's document remembers; older ones are found in the history."""

MEMORY = timedelta(hours=24)
"""For how long a repeated request is recognised, and a state that ended stays for that."""


class StateStore(Protocol):
    """States, each committed by one conditional update of one document.

    Every method raises StoreUnavailableError when the store does not answer, and
    FlowStateCorruptionError for a document that cannot be read.
    """

    async def load(self, flow_id: str, user_id: str) -> StoredState | None:
        """The stored state, also one that is cleared or past its time; None when there is none."""

    async def commit(self, before: FlowState | None, record: HistoryRecord) -> bool:
        """Make ``record.after`` the state if it is still as ``before`` (None: if there is none),
        with the record in its outbox and its request among the last ``REMEMBERED`` ones. False when
        somebody else was first. An outcome that was lost on the way is looked up, never guessed."""

    async def set_aside(self, flow_id: str, user_id: str) -> None:
        """Take a state that cannot be read out of the way, to where an operator finds it."""

    async def list_by_user(
        self, user_id: str, after_flow: str | None, limit: int, now: datetime
    ) -> list[FlowState]:
        """A user's states that are present at ``now``, by flow, after ``after_flow``."""

    async def list_expired(self, now: datetime, limit: int) -> list[FlowState]:
        """States past their time that were not ended yet, oldest first."""

    async def list_undelivered(self, before: datetime, limit: int) -> list[StoredState]:
        """States with records in the outbox whose last change is older than ``before``."""

    async def release(self, records: Sequence[HistoryRecord]) -> None:
        """Take delivered records out of the outboxes."""


class HistoryStore(Protocol):
    """Records of changes and refusals, kept for ever."""

    async def append(self, records: Sequence[HistoryRecord]) -> None:
        """Keep the records; those that are there already are left as they are."""

    async def read(
        self,
        flow_id: str,
        user_id: str,
        after: HistoryPosition | None,
        limit: int,
        only: HistoryFilter = EVERYTHING,
    ) -> list[HistoryRecord]:
        """Records of one state over all its lives, oldest first, those after ``after``."""

    async def get(self, record_id: str) -> HistoryRecord | None:
        """One record."""

    async def find_request(
        self, flow_id: str, user_id: str, actor: str, request_id: str, since: datetime
    ) -> HistoryRecord | None:
        """The record of the change that a request made after ``since``."""


class StatisticsSource(Protocol):
    """Figures over states and history."""

    async def statistics(self, now: datetime) -> FlowStatistics:
        """The figures at ``now``."""


class DefinitionStore(Protocol):
    """Published versions of flows."""

    async def latest(self, flow_id: str) -> FlowDefinition | None:
        """The newest version, also a retired one."""

    async def get(self, flow_id: str, version: int) -> FlowDefinition | None:
        """One version."""

    async def list_latest(self, after_flow: str | None, limit: int) -> list[FlowDefinition]:
        """The newest version of every flow that is not retired, by slug, after ``after_flow``."""

    async def versions(self, flow_id: str) -> list[FlowDefinition]:
        """All versions, newest first."""

    async def publish(self, definition: FlowDefinition) -> bool:
        """Keep a new version. False when that version exists already."""


class DefinitionSource(Protocol):
    """A place other than the store where definitions come from."""

    name: str

    def read(self) -> dict[str, Any]:
        """Every definition there, undecoded, by where it was found. Raises DefinitionSourceError."""


class EventBus(Protocol):
    """Tells all workers of events, this one included. Delivery is not guaranteed."""

    async def publish(self, events: Sequence[Event]) -> None:
        """Send events, in order. Raises BusUnavailableError."""

    def subscribe(self, handler: Callable[[Event], None]) -> None:
        """Call ``handler`` for every event heard from now on."""

    def on_resume(self, handler: Callable[[], None]) -> None:
        """Call ``handler`` each time that this worker hears again after it was deaf."""


class Clock(Protocol):
    """Time."""

    def now(self) -> datetime:
        """UTC, in whole milliseconds."""


class BusUnavailableError(Exception):
    """Redis does not answer."""


class DefinitionSourceError(Exception):
    """A source cannot be read; the message says which and why."""
