"""The rules by which a client follows one state without a gap. No connection and no clock in here: what
was heard is told, times are handed in, and the answer is what to show now."""

from collections import deque
from enum import Enum

from msgspec import Struct, field

from app.contracts.state import ENDED
from app.contracts.wire.states import StateView
from app.contracts.wire.times import Time

KEPT_WHILE_SYNCING = 1000


class StateUpdate(StateView, frozen=True, rename="camel", kw_only=True):
    """A state as a follower is shown it. What led to it is known when it came by an event, and None when
    it was read."""

    kind: str | None = None
    transition: str | None = None
    from_step: str | None = None
    actor: str | None = None
    at: Time | None = None


class SyncRequest(Struct, frozen=True):
    """A sync that has begun: ``epoch`` and ``since`` are the position held, ``number`` names it."""

    number: int
    epoch: str | None
    since: int | None


class SyncAnswer(Struct, frozen=True):
    """The answer to ``flow-subscribe``: with ``complete`` the ``events`` since the position sent, oldest
    first; otherwise ``state`` is where to begin anew."""

    complete: bool
    state: StateUpdate | None = None
    events: list[StateUpdate] = field(default_factory=list)


class Stats(Struct, rename="camel"):
    """Counters of one following, or sums of several.

    ``gaps``: events that did not fit. ``repaired``: missed events that a sync brought. ``resets``: syncs
    that began anew although something was held. ``dropped``: old or double events. ``longest_repair``:
    milliseconds, at most, from noticing a gap, or being connected again, to being level.
    """

    gaps: int = 0
    syncs: int = 0
    repaired: int = 0
    resets: int = 0
    dropped: int = 0
    longest_repair: float = 0.0

    def add(self, other: "Stats") -> None:
        """Take in the counters of another one."""
        self.gaps += other.gaps
        self.syncs += other.syncs
        self.repaired += other.repaired
        self.resets += other.resets
        self.dropped += other.dropped
        self.longest_repair = max(self.longest_repair, other.longest_repair)


class _Fit(Enum):
    NEXT = "next"
    FIRST = "first"
    """The first of an epoch, where there was no state. An event alone may be of one that has ended since."""
    OLD = "old"
    GAP = "gap"


class Following:
    """One state as followed. Every method that tells it something returns what the consumer is to be
    shown now, in order; None in there says that there is no state.

    Whoever drives it runs a sync (``begin``, then ``answer`` or ``failed``) whenever ``needs_sync``.
    """

    def __init__(self) -> None:
        self.epoch: str | None = None
        self.revision: int | None = None
        self.state: StateUpdate | None = None
        self.known = False
        """True if anything was shown, were it that there is no state."""
        self.needs_sync = True
        self.stats = Stats()
        self._begun = 0
        self._running = False
        self._noticed: float | None = None
        self._buffer: deque[StateUpdate] = deque()
        self._heard_before = 0

    @property
    def syncing(self) -> bool:
        """True if something may be missing: a sync is needed, or under way."""
        return self.needs_sync or self._running

    @property
    def absent(self) -> bool:
        """True if it is known that there is no state. A sync then asks for a later epoch from its start."""
        return self.known and (self.state is None or self.state.status in ENDED)

    def want_sync(self, now: float) -> None:
        """Connected again, or told to resync: events may have been missed."""
        self.needs_sync = True
        if self.known and self._noticed is None:
            self._noticed = now

    def begin(self) -> SyncRequest:
        """A sync begins; the answers to earlier ones count no more."""
        self._begun += 1
        self._running, self.needs_sync = True, False
        self._heard_before = len(self._buffer)
        self.stats.syncs += 1
        return SyncRequest(self._begun, self.epoch, self.revision)

    def failed(self, number: int) -> None:
        """The sync ended without an answer: another one is needed."""
        if self._running and number == self._begun:
            self._running, self.needs_sync = False, True

    def event(self, update: StateUpdate, now: float) -> list[StateUpdate | None]:
        """An event of this state came."""
        if self.syncing:
            self._keep(update)
            return []
        return self._take(update, now)

    def answer(self, number: int, answer: SyncAnswer, now: float) -> list[StateUpdate | None]:
        """The answer to a sync came."""
        if not self._running or number != self._begun:
            return []
        self._running = False
        shown = self._catch_up(answer, now) if answer.complete else self._restart(answer.state)
        if not self.syncing:
            kept, self._buffer = self._buffer, deque()
            for update in kept:
                shown += self.event(update, now)
        if not self.syncing and self._noticed is not None:
            self.stats.longest_repair = max(self.stats.longest_repair, 1000 * (now - self._noticed))
            self._noticed = None
        return shown

    def _catch_up(self, answer: SyncAnswer, now: float) -> list[StateUpdate | None]:
        heard = {(update.epoch, update.revision) for update in self._buffer}
        shown: list[StateUpdate | None] = []
        gaps = self.stats.gaps
        for update in answer.events:
            taken = self._take(update, now, certain=True)
            if self.stats.gaps > gaps:
                break
            if taken and (update.epoch, update.revision) not in heard:
                self.stats.repaired += 1
            shown += taken
        return shown

    def _restart(self, state: StateUpdate | None) -> list[StateUpdate | None]:
        if self.epoch is not None:
            self.stats.resets += 1
        if state is None:
            # What was heard before the server was asked has ended since. Nothing else would tell: the
            # position stays, so that a later epoch always needs a sync.
            for _ in range(self._heard_before):
                self._buffer.popleft()
            told, self.state = self.known and self.state is None, None
            self.known = True
            return [] if told else [None]
        if self._is_past(state):
            self.stats.dropped += 1
            return []
        return [self._hold(state)]

    def _is_past(self, state: StateUpdate) -> bool:
        """True if a state that was read is older than the one held, or the very same."""
        if self.epoch is None or self.revision is None:
            return False
        held, read = (self.epoch, self.revision), (state.epoch, state.revision)
        return read < held or (read == held and self.state is not None)

    def _take(self, update: StateUpdate, now: float, *, certain: bool = False) -> list[StateUpdate | None]:
        """``certain``: the server says that nothing lies between."""
        fit = self._fit(update)
        if fit is _Fit.NEXT or (fit is _Fit.FIRST and certain):
            return [self._hold(update)]
        if fit is _Fit.OLD:
            self.stats.dropped += 1
            return []
        self.stats.gaps += fit is _Fit.GAP
        self.needs_sync = True
        if self._noticed is None:
            self._noticed = now
        self._keep(update)
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

    def _keep(self, update: StateUpdate) -> None:
        if len(self._buffer) >= KEPT_WHILE_SYNCING:
            self._heard_before = 0
            self._buffer.clear()  # the newest stays, so that the gap shows when it is replayed
        self._buffer.append(update)
