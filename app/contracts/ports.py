"""Ports: the interfaces to the outside. Every one has a contract suite in ``tests/contract``."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

from msgspec import UNSET, Struct, UnsetType

from app.contracts.definition import FlowDefinition, VersionInfo
from app.contracts.events import Event, Gap, Topic
from app.contracts.pages import Page
from app.contracts.record import (
    EVERYTHING,
    HistoryFilter,
    HistoryPosition,
    HistoryRecord,
    PayloadPlace,
    RememberedRequest,
    UnreadableRecord,
    own_payloads,
    payload_record_id,
    with_payloads,
)
from app.contracts.state import FlowState, StatePosition
from app.contracts.statistics import FlowStatistics


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


class HistoryStore(Protocol):
    """Records of changes and refusals, kept for ever."""

    async def append(self, records: Sequence[HistoryRecord]) -> set[str]:
        """Keep the records, without the payloads that they name; those that are there already are left as
        they are. The ids of those in whose place there is another commit's."""

    async def read(
        self,
        flow_id: str,
        user_id: str,
        after: HistoryPosition | None,
        limit: int,
        only: HistoryFilter = EVERYTHING,
    ) -> Page[HistoryRecord]:
        """Records of one state over all its lives, oldest first, those after ``after``. ``next`` is the id
        of the last one."""

    async def scan(
        self,
        flow_id: str,
        user_id: str,
        start: HistoryPosition | None,
        limit: int,
        *,
        backwards: bool = False,
    ) -> Page[HistoryRecord | UnreadableRecord]:
        """As ``read`` without a filter, with what cannot be read in its place; ``backwards``: newest first,
        those before ``start``."""

    async def newest(self, flow_id: str, user_id: str) -> HistoryRecord | UnreadableRecord | None:
        """The last commit of a state, over all its lives."""

    async def erase(self, flow_id: str, user_id: str, until: HistoryPosition) -> int:
        """Remove what can be erased (app.flow.history_chain) of a state's commits before the one at
        ``until``, and its refusals, on which nothing hangs; how many."""

    async def get(self, record_id: str) -> HistoryRecord | None:
        """One record."""

    async def get_many(self, record_ids: Sequence[str]) -> list[HistoryRecord]:
        """The records with these ids that exist and can be read, in any order."""

    async def find_request(
        self, flow_id: str, user_id: str, actor: str, request_id: str, since: datetime
    ) -> HistoryRecord | None:
        """The record of the change that a request made after ``since``."""


class Lease(Struct, frozen=True):
    """A held lease. ``fence`` grows with every holder."""

    name: str
    holder: str
    fence: int
    until: datetime


class LeaseStore(Protocol):
    """Leases: of all who ask, one does the work, until it does not ask any more."""

    async def take(self, name: str, holder: str, now: datetime, seconds: float) -> Lease | None:
        """The lease, taken or held on to for ``seconds``; None while somebody else has it."""

    async def renew(self, lease: Lease, now: datetime, seconds: float) -> Lease | None:
        """The held lease, prolonged to ``seconds`` from now; None if somebody else took it meanwhile."""

    async def give_up(self, lease: Lease) -> None:
        """Let somebody else have it at once."""


class SecretStore(Protocol):
    """Secrets that all workers share."""

    async def secret(self, name: str) -> bytes:
        """32 bytes, made when they are asked for first."""


class CorruptionReports(Protocol):
    """States that were found not to agree with their history or their definition."""

    async def report(self, key: str, reason: str, now: datetime) -> bool:
        """Keep a finding; False when it is known."""

    async def withdraw(self, keys: Sequence[str]) -> None:
        """Forget findings of states that are sound."""

    async def list_reasons(self, limit: int) -> dict[str, str]:
        """The states found, oldest finding first, with what was found."""


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

    async def list_flow_ids(self) -> list[str]:
        """The slugs of all flows that were ever published."""

    async def list_latest(self, after_flow: str | None, limit: int) -> Page[FlowDefinition]:
        """The newest version of every flow that is not retired, by slug, after ``after_flow``."""

    async def versions(
        self, flow_id: str, before: int | None = None, limit: int | None = None
    ) -> list[VersionInfo]:
        """Versions, newest first, those before the version ``before``, including unreadable ones."""

    async def publish(self, definition: FlowDefinition) -> bool:
        """Keep a new version. False when that version exists already."""


class FoundDefinition(Struct, frozen=True):
    """A definition as a source has it. ``place`` says where, for a person; ``source`` is what the version
    made of it names. ``raw`` has values of JSON; it is None when they cannot be read, for the reason
    ``fault``, which begins with the place. What has the same ``digest`` is the same."""

    place: str
    source: str
    digest: str
    raw: Any = None
    fault: str = ""


class DefinitionSource(Protocol):
    """A place other than the store where definitions come from.

    ``local``: it is of this machine. A fault in it stops the start, and another machine may have other
    definitions at the same place. What is not local looks the same from everywhere, and may be away.
    """

    @property
    def name(self) -> str:
        """As in ``FLOW_DEFINITIONS``, without what may be secret."""

    @property
    def local(self) -> bool:
        """See above."""

    async def load(self) -> list[FoundDefinition]:
        """Every definition there, in its order. Raises DefinitionSourceError when nothing can be said of
        what is there: it is away, or not there at all."""

    def changes(self) -> AsyncGenerator[None, None]:
        """Goes on each time that there may be something new."""

    def produced(self, source: str) -> bool:
        """True if a version that names ``source`` may have come from here."""


class EventBus(Protocol):
    """Tells all workers of events, this one included. Delivery is not guaranteed, but a worker that may
    have missed events is told so (``on_gap``)."""

    @property
    def worker(self) -> str:
        """The id of this worker."""

    async def publish(self, events: Sequence[Event]) -> int:
        """Send events, in order, each to those who follow a topic of its; how many workers heard the one
        that the fewest heard. Raises BusUnavailableError; those who missed them are told of the gap
        once Redis answers again."""

    async def follow(self, topic: Topic) -> None:
        """Hear of a topic from now on. Returns once this worker does, or when Redis is away: it does then
        as soon as Redis answers, and is told of the gap. What concerns everyone is always heard."""

    def unfollow(self, topic: Topic) -> None:
        """The opposite of one ``follow``, also of one that was cut off."""

    def subscribe(self, handler: Callable[[Topic, Event], None]) -> None:
        """Call ``handler`` for every event heard from now on, once for each topic by which it is."""

    def on_gap(self, handler: Callable[[Gap], None]) -> None:
        """Call ``handler`` each time that events may have been missed, once events are heard again."""

    def on_gone(self, handler: Callable[[str], None]) -> None:
        """Call ``handler`` with the id of every worker that ended, or was not heard of for long."""


class Clock(Protocol):
    """Time."""

    def now(self) -> datetime:
        """UTC, in whole milliseconds."""


class BusUnavailableError(Exception):
    """Redis does not answer."""


class DefinitionSourceError(Exception):
    """A source cannot be read; the message says which and why."""
