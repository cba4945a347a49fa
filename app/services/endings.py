"""How a state ended, for callers that find none."""

from msgspec import UNSET

from app.contracts.errors import FlowError
from app.contracts.ports import Clock, HistoryStore, StateStore, StoredState
from app.contracts.record import commit_record_id
from app.contracts.views import iso
from app.flow.chain import is_receipt


class Endings:
    """Reads tombstones. A tombstone stays for as long as the history is kept."""

    def __init__(self, states: StateStore, history: HistoryStore, clock: Clock) -> None:
        self._states = states
        self._history = history
        self._clock = clock

    async def of(self, user_id: str, flow_id: str) -> dict[str, str]:
        """When the last state ended, as ``expiredAt``, ``clearedAt`` or ``erasedAt``.

        Returns:
            Nothing if there is a state, if there never was one, and if its end is no longer known.
        """
        try:
            stored = await self._states.load(flow_id, user_id)
            if stored is None or not stored.state.absent_at(self._clock.now()):
                return {}
            return await self._of_tombstone(stored)
        except FlowError:  # the caller has an error to report, which matters more
            return {}

    async def _of_tombstone(self, stored: StoredState) -> dict[str, str]:
        state = stored.state
        if state.status == "cleared":
            return {"erasedAt" if await self._was_erased(stored) else "clearedAt": iso(state.updated_at)}
        if state.status == "expired" or state.expires_at is UNSET:
            return {"expiredAt": iso(state.updated_at)}
        return {"expiredAt": iso(state.expires_at)}  # no sweep has ended it yet

    async def _was_erased(self, stored: StoredState) -> bool:
        """True if the last record is the receipt of an erasure: the tombstone itself looks as if cleared."""
        last = commit_record_id(stored.state)
        waiting = [record for record in stored.pending if record.id == last]
        return any(is_receipt(record) for record in waiting or await self._history.get_many([last]))
