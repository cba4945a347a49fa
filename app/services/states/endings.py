"""How a state ended, for callers that find none."""

from msgspec import UNSET, structs

from app.contracts.errors import FlowError
from app.contracts.ports.clock import Clock
from app.contracts.ports.history import HistoryStore
from app.contracts.ports.states import StateStore, StoredState
from app.contracts.record import HistoryRecord, commit_record_id
from app.contracts.results import ErasedUser
from app.contracts.state import TERMINAL_STATUSES, FlowState, StateId
from app.contracts.wire.times import iso
from app.flow.history_chain import is_receipt
from app.services.states.erasure_keys import ErasureKeys


class Endings:
    """Reads tombstones, which stay for as long as the history is retained."""

    def __init__(self, states: StateStore, history: HistoryStore, keys: ErasureKeys, clock: Clock) -> None:
        self._keys = keys
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

    async def erasure_of(self, stored: StoredState) -> ErasedUser | None:
        """Return the erasure that ended a state, None if it has not ended or ended otherwise."""
        if stored.erased:  # restored from a backup: only the destroyed data key says it
            destroyed = await self._keys.last_destroyed(stored.state.user_id)
            return None if destroyed is None else ErasedUser(destroyed.at, destroyed.by)
        if stored.state.status != "cleared":
            return None
        last = await self._last_record(stored)
        return None if last is None or not is_receipt(last) else ErasedUser(last.timestamp, last.actor)

    async def _of_tombstone(self, stored: StoredState) -> dict[str, str]:
        state = stored.state
        if state.status not in TERMINAL_STATUSES:  # no sweep has ended it yet
            return {} if state.expires_at is UNSET else {"expiredAt": iso(state.expires_at)}
        if state.status == "cleared":  # the tombstone itself does not say that it was erased
            erased = await self.erasure_of(stored)
            return {"clearedAt": iso(state.updated_at)} if erased is None else {"erasedAt": iso(erased.at)}
        last = await self._last_record(stored)
        if last is not None and last.after is not UNSET:
            state = last.after
        before = await self._record(stored, structs.replace(state, revision=state.revision - 1))
        if before is None or before.after is UNSET or before.after.expires_at is UNSET:
            return {"expiredAt": iso(state.updated_at)}  # when it was found to have expired
        return {"expiredAt": iso(before.after.expires_at)}

    async def _last_record(self, stored: StoredState) -> HistoryRecord | None:
        """Return the record of the commit that ended a state: later ones removed a person alone."""
        state = stored.state
        last = await self._record(stored, state)
        while last is not None and last.kind == "pseudonymised" and state.revision > 0:
            state = structs.replace(state, revision=state.revision - 1)
            last = await self._record(stored, state)
        return last

    async def _record(self, stored: StoredState, at: FlowState) -> HistoryRecord | None:
        """Return the record of the commit that led to ``at``, from the outbox or the history."""
        wanted = commit_record_id(at)
        waiting = [record for record in stored.pending if record.id == wanted]
        found = waiting or await self._history.get_many([wanted])
        return found[0] if found else None
