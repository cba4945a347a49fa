"""How a state ended, for callers that find none."""

from msgspec import UNSET, structs

from app.contracts.errors import FlowError
from app.contracts.ports.clock import Clock
from app.contracts.ports.history import HistoryStore
from app.contracts.ports.states import StateStore, StoredState
from app.contracts.record import HistoryRecord, commit_record_id
from app.contracts.state import TERMINAL_STATUSES, FlowState, StateId
from app.contracts.wire.times import iso
from app.flow.history_chain import is_receipt


class Endings:
    """Reads tombstones, which stay for as long as the history is retained."""

    def __init__(self, states: StateStore, history: HistoryStore, clock: Clock) -> None:
        self._states = states
        self._history = history
        self._clock = clock

    async def of(self, state_id: StateId) -> dict[str, str]:
        """Return when the last state ended, as ``expiredAt``, ``clearedAt`` or ``erasedAt``.

        Returns:
            An empty dict if there is a state, if there never was one, or if its end is no longer known.
        """
        try:
            stored = await self._states.load(state_id)
            if stored is None or not stored.state.is_gone_at(self._clock.now()):
                return {}
            return await self._of_tombstone(stored)
        except FlowError:  # the caller has an error to report, which matters more
            return {}

    async def _of_tombstone(self, stored: StoredState) -> dict[str, str]:
        state = stored.state
        if state.status not in TERMINAL_STATUSES:  # no sweep has ended it yet
            return {} if state.expires_at is UNSET else {"expiredAt": iso(state.expires_at)}
        last = await self._record(stored, state)
        while last is not None and last.kind == "pseudonymised" and state.revision > 0:
            state = structs.replace(state, revision=state.revision - 1)
            last = await self._record(stored, state)
        if state.status == "cleared":  # the tombstone itself does not say that it was erased
            erased = last is not None and is_receipt(last)
            return {"erasedAt" if erased else "clearedAt": iso(state.updated_at)}
        before = await self._record(stored, structs.replace(state, revision=state.revision - 1))
        if before is None or before.after is UNSET or before.after.expires_at is UNSET:
            return {"expiredAt": iso(state.updated_at)}  # when it was found to have expired
        return {"expiredAt": iso(before.after.expires_at)}

    async def _record(self, stored: StoredState, at: FlowState) -> HistoryRecord | None:
        """Return the record of the commit that led to ``at``, from the outbox or the history."""
        wanted = commit_record_id(at)
        waiting = [record for record in stored.pending if record.id == wanted]
        found = waiting or await self._history.get_many([wanted])
        return found[0] if found else None
