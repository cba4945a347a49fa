"""Catching up: the changes of a state after a position, if they can be proven to be complete."""

from msgspec import UNSET, structs

from app.contracts.callers import Caller
from app.contracts.events import StateChanged
from app.contracts.pages import MAX_PAGE_BYTES
from app.contracts.ports.clock import Clock
from app.contracts.ports.history import HistoryStore
from app.contracts.ports.states import StateStore, StoredState
from app.contracts.positions import HeldPosition
from app.contracts.record import commit_record_id, named_payload
from app.contracts.results import CaughtUp
from app.contracts.state import TERMINAL_STATUSES, FlowState, StateId
from app.flow.conditions.guard_inputs import GuardBudget
from app.services.definitions.catalog import DefinitionCatalog
from app.services.definitions.visibility import Visibility
from app.services.delivery.payloads import Payloads
from app.services.delivery.state_events import StateEvents
from app.services.states.changes import StateChanges

MAX_EVENTS = 300
MAX_REPLAY_BYTES = MAX_PAGE_BYTES
"""Bytes of the events of one answer, as JSON."""
BEFORE_THE_FIRST = -1
"""The revision of a subscriber that has no change of an epoch."""
RECORDS_PER_READ = 32


class CatchUp:
    """Reads the changes after a position.

    Completeness is proven by the revisions: each one after the position, up to that of the state, is in the
    outbox of the state or in its history.
    """

    def __init__(
        self,
        states: StateStore,
        history: HistoryStore,
        changes: StateChanges,
        access: Visibility,
        updates: StateEvents,
        catalog: DefinitionCatalog,
        clock: Clock,
    ) -> None:
        self._states = states
        self._history = history
        self._payloads = Payloads(history)
        self._changes = changes
        self._access = access
        self._updates = updates
        self._catalog = catalog
        self._clock = clock

    async def require_access(self, state_id: StateId, caller: Caller) -> None:
        """Raise InsufficientPermissionsError unless a subscriber may see the flow and this state of it."""
        await self._access.require_access(state_id, caller)

    async def for_subscriber(self, state_id: StateId, held: HeldPosition, caller: Caller) -> CaughtUp:
        """Return the commits after the position that a subscriber holds, as the caller may see them.

        Raises:
            InsufficientPermissionsError: The caller may not see the flow, or this state.
            FlowNotFoundError: There is neither a state nor a flow with this name.
        """
        await self._access.require_access(state_id, caller)
        found = await self.since(state_id, held, caller)
        if found is None:
            await self._catalog.current(state_id.flow_id)
            return CaughtUp(None)
        return found

    async def since(self, state_id: StateId, held: HeldPosition, caller: Caller) -> CaughtUp | None:
        """Return the changes after a held position, with the state, as the caller may see them.

        None if there never was a state.
        """
        async with self._changes.with_recovery_advice(state_id):
            stored = await self._states.load(state_id)
        if stored is None:
            return None
        state = stored.state
        await self._access.require_seen(state_id, state, caller)
        present = None
        if not state.is_gone_at(self._clock.now()):
            present = await self._access.with_transitions(state, caller, purpose="follow")
        elif state.status not in TERMINAL_STATUSES:  # it has expired, but no record of it is committed yet
            return CaughtUp(None)
        if held.from_start and present is not None and held.epoch != state.epoch:
            held = HeldPosition(state.epoch, BEFORE_THE_FIRST)
        if held.epoch != state.epoch or not 0 <= state.revision - held.revision <= MAX_EVENTS:
            return CaughtUp(present)
        budget = GuardBudget.of_many()
        events = await self._events(stored, held.revision, budget)
        if events is None:
            return CaughtUp(present)
        found = [await self._updates.for_caller(event, caller, budget) for event in events]
        shown = tuple(event for event in found if event is not None)
        if len(shown) < len(events):  # of a time at which the caller was no participant
            return CaughtUp(present)
        return CaughtUp(present, shown, complete=True)

    async def _events(
        self, stored: StoredState, revision: int, budget: GuardBudget
    ) -> tuple[StateChanged, ...] | None:
        """Return the events of all commits after ``revision``; None if one is missing, or they are too large.

        Records are read in parts, so that reading ends once they are too large.
        """
        state = stored.state
        # The outbox was read first: a record leaves it only after it is in the history.
        waiting = {record.id: record for record in stored.pending}
        events: list[StateChanged] = []
        size = 0
        for first in range(revision + 1, state.revision + 1, RECORDS_PER_READ):
            after_last = min(first + RECORDS_PER_READ, state.revision + 1)
            wanted = [commit_id(state, n) for n in range(first, after_last)]
            found = {record_id: waiting[record_id] for record_id in wanted if record_id in waiting}
            missing = [record_id for record_id in wanted if record_id not in waiting]
            if missing:
                found |= {record.id: record for record in await self._history.get_many(missing)}
            if any(record_id not in found or found[record_id].after is UNSET for record_id in wanted):
                return None
            whole = await self._payloads.complete(stored.complete([found[n] for n in wanted]))
            if any(named_payload(record) is not None for record in whole):
                return None
            events += [await self._updates.from_record(record, budget) for record in whole]
            size += sum(len(bytes(event.body)) for event in events[-len(wanted) :])
            if size > MAX_REPLAY_BYTES:
                return None
        return tuple(events)


def commit_id(state: FlowState, revision: int) -> str:
    """Return the id of the record of an earlier commit in the same epoch of a state."""
    return commit_record_id(structs.replace(state, revision=revision))
