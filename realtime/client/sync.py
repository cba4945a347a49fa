"""The rules by which a client follows one state without a gap.

There is no connection and no clock in here: events and times are arguments, and every method returns the
updates to deliver now.
"""

from collections import deque
from enum import Enum

from msgspec import UNSET, Struct, UnsetType, field

from app.contracts.people import Participant
from app.contracts.state import TERMINAL_STATUSES
from app.contracts.wire.states import StateView
from app.contracts.wire.times import Time

MAX_BUFFERED_EVENTS = 1000
"""Events buffered while a sync is running."""


class RoleHolder(Participant, frozen=True, forbid_unknown_fields=False, rename="camel"):
    """A role on a state, and who has it, as a newer server may send it."""


class StateUpdate(StateView, frozen=True, rename="camel", kw_only=True):
    """A state as a subscriber receives it.

    The members of the change that led to it are set if it arrived in an event, and None if it was read.
    """

    kind: str | None = None
    transition: str | None = None
    from_step: str | None = None
    actor: str | None = None
    at: Time | None = None
    participants: tuple[RoleHolder, ...] | UnsetType = UNSET

    @property
    def identifying_entity(self) -> str | None:
        """The entity if it is a part of the state's identity; elsewhere it is a label."""
        return None if self.instances is UNSET else self.entity_id or None


class SyncRequest(Struct, frozen=True):
    """A running sync: ``epoch`` and ``since`` are the position held, ``number`` identifies the sync."""

    number: int
    epoch: str | None
    since: int | None


class SyncAnswer(Struct, frozen=True):
    """The answer to ``flow-subscribe``.

    Attributes:
        complete: ``events`` are all events since the position sent, oldest first.
        state: The present state. If the answer is not complete, following starts again from it.
    """

    complete: bool
    state: StateUpdate | None = None
    events: list[StateUpdate] = field(default_factory=list)


class Stats(Struct, rename="camel"):
    """Counters of one subscription, or sums of several.

    Attributes:
        gaps: Events that did not follow the position held.
        syncs: Syncs that began.
        repaired: Missed events that a sync returned.
        resets: Syncs that replaced the position held.
        dropped: Old or duplicate events.
        longest_repair: The longest time in milliseconds from noticing a gap, or from a reconnection, until
            nothing was missing.
    """

    gaps: int = 0
    syncs: int = 0
    repaired: int = 0
    resets: int = 0
    dropped: int = 0
    longest_repair: float = 0.0

    def add(self, other: "Stats") -> None:
        """Add the counters of another one."""
        self.gaps += other.gaps
        self.syncs += other.syncs
        self.repaired += other.repaired
        self.resets += other.resets
        self.dropped += other.dropped
        self.longest_repair = max(self.longest_repair, other.longest_repair)


class _Fit(Enum):
    NEXT = "next"
    FIRST = "first"
    """The first of an epoch, where there was no state. That epoch may have ended since."""
    OLD = "old"
    GAP = "gap"


class Following:
    """The position of one followed state.

    Without an entity, the state is the user's only one in the flow, or the one of many that the server finds:
    from then on it is that one, also when there are others.

    Methods that receive events or answers return the updates to deliver now, in order; None among them says
    that there is no state. The owner runs a sync (``begin``, then ``answer`` or ``failed``) whenever
    ``needs_sync``.

    Attributes:
        entity_id: The entity of the state, if that is a part of the state's identity.
        known: Anything was delivered, even that there is no state.
    """

    def __init__(self, entity_id: str | None = None) -> None:
        self.entity_id = entity_id
        self.epoch: str | None = None
        self.revision: int | None = None
        self.state: StateUpdate | None = None
        self.known = False
        self.needs_sync = True
        self.stats = Stats()
        self._sync_number = 0
        self._running = False
        self._gap_noticed_at: float | None = None
        self._buffer: deque[StateUpdate] = deque()
        self._buffered_before_sync = 0
        self._one_of_many_changed = False
        """During the sync, without knowing whether it is this state."""

    @property
    def syncing(self) -> bool:
        """True if something may be missing: a sync is needed or running."""
        return self.needs_sync or self._running

    @property
    def absent(self) -> bool:
        """True if it is known that there is no state. A sync then requests a later epoch from its start."""
        return self.known and (self.state is None or self.state.status in TERMINAL_STATUSES)

    def want_sync(self, now: float) -> None:
        """Require a sync: after a reconnection or a resync event, events may have been missed."""
        self.needs_sync = True
        if self.known and self._gap_noticed_at is None:
            self._gap_noticed_at = now

    def begin(self) -> SyncRequest:
        """Begin a sync. Answers to earlier ones are ignored from now on."""
        self._sync_number += 1
        self._running, self.needs_sync = True, False
        self._buffered_before_sync = len(self._buffer)
        self._one_of_many_changed = False
        self.stats.syncs += 1
        return SyncRequest(self._sync_number, self.epoch, self.revision)

    def failed(self, number: int) -> None:
        """End a sync without an answer: another one is needed."""
        if self._running and number == self._sync_number:
            self._running, self.needs_sync = False, True

    def event(self, update: StateUpdate, now: float) -> list[StateUpdate | None]:
        """Apply an event of the flow and the user."""
        if update.identifying_entity != self.entity_id:
            self._consider(update, now)
            return []
        if self.syncing:
            self._buffer_event(update)
            return []
        return self._apply(update, now)

    def _consider(self, update: StateUpdate, now: float) -> None:
        """Require a sync if the update may be of the only one of many: the server decides that."""
        if self.entity_id is not None or update.status in TERMINAL_STATUSES:
            return
        if self.syncing:
            self._one_of_many_changed = True
        elif self.absent:
            self.want_sync(now)

    def answer(self, number: int, answer: SyncAnswer, now: float) -> list[StateUpdate | None]:
        """Apply the answer to a sync."""
        if not self._running or number != self._sync_number:
            return []
        self._running = False
        found = None if answer.state is None else answer.state.identifying_entity
        is_found = self.entity_id is None and found is not None
        if is_found:
            self._become(found)
        delivered = self._catch_up(answer, now) if answer.complete else self._restart(answer.state)
        if not self.syncing:
            buffered, self._buffer = self._buffer, deque()
            for update in buffered:
                delivered += self.event(update, now)
        if not self.syncing and self._gap_noticed_at is not None:
            self.stats.longest_repair = max(self.stats.longest_repair, 1000 * (now - self._gap_noticed_at))
            self._gap_noticed_at = None
        if self._one_of_many_changed and (is_found or answer.state is None):
            self.want_sync(now)
        return delivered

    def _become(self, entity_id: str | None) -> None:
        """Follow the state of this entity, without the position of the one before."""
        self.entity_id = entity_id
        self.epoch = self.revision = None

    def _catch_up(self, answer: SyncAnswer, now: float) -> list[StateUpdate | None]:
        buffered = {(update.epoch, update.revision) for update in self._buffer}
        delivered: list[StateUpdate | None] = []
        gaps = self.stats.gaps
        for update in answer.events:
            applied = self._apply(update, now, certain=True)
            if self.stats.gaps > gaps:
                break
            if applied and (update.epoch, update.revision) not in buffered:
                self.stats.repaired += 1
            delivered += applied
        return delivered

    def _restart(self, state: StateUpdate | None) -> list[StateUpdate | None]:
        if self.epoch is not None:
            self.stats.resets += 1
        if state is None:
            # Events buffered before the request belong to an epoch that has ended since. The position
            # stays, so that a later epoch always needs a sync.
            for _ in range(self._buffered_before_sync):
                self._buffer.popleft()
            was_absent, self.state = self.known and self.state is None, None
            self.known = True
            return [] if was_absent else [None]
        if self._is_past(state):
            self.stats.dropped += 1
            return []
        return [self._hold(state)]

    def _is_past(self, state: StateUpdate) -> bool:
        """True if a state that was read is older than the one held, or the same."""
        if self.epoch is None or self.revision is None:
            return False
        held, read = (self.epoch, self.revision), (state.epoch, state.revision)
        return read < held or (read == held and self.state is not None)

    def _apply(self, update: StateUpdate, now: float, *, certain: bool = False) -> list[StateUpdate | None]:
        """Apply an update. ``certain``: the server proves that nothing lies between."""
        fit = self._fit(update)
        if fit is _Fit.NEXT or (fit is _Fit.FIRST and certain):
            return [self._hold(update)]
        if fit is _Fit.OLD:
            self.stats.dropped += 1
            return []
        self.stats.gaps += fit is _Fit.GAP
        self.needs_sync = True
        if self._gap_noticed_at is None:
            self._gap_noticed_at = now
        self._buffer_event(update)
        return []

    def _fit(self, update: StateUpdate) -> _Fit:
        if self.epoch is None or self.revision is None or update.epoch > self.epoch:
            return _Fit.FIRST if self.absent and update.revision == 0 else _Fit.GAP
        if update.epoch < self.epoch or update.revision <= self.revision:
            return _Fit.OLD
        return _Fit.NEXT if update.revision == self.revision + 1 else _Fit.GAP

    def _hold(self, update: StateUpdate) -> StateUpdate:
        self.epoch, self.revision, self.state, self.known = update.epoch, update.revision, update, True
        return update

    def _buffer_event(self, update: StateUpdate) -> None:
        if len(self._buffer) >= MAX_BUFFERED_EVENTS:
            self._buffered_before_sync = 0
            self._buffer.clear()  # the newest one stays, so that replaying it shows the gap
        self._buffer.append(update)
