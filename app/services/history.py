"""Reads the history of a state, including what is still on its way there."""

from app.contracts.errors import Fault, InvalidRequestError
from app.contracts.ports import HistoryStore, StateStore
from app.contracts.record import (
    HistoryFilter,
    HistoryPosition,
    HistoryRecord,
    position_from_id,
    position_of,
)
from app.contracts.state import state_key


class HistoryReader:
    """Joins the outbox of a state with its history."""

    def __init__(self, states: StateStore, history: HistoryStore) -> None:
        self._states = states
        self._history = history

    async def read(
        self, flow_id: str, user_id: str, after: str | None, limit: int, only: HistoryFilter
    ) -> list[HistoryRecord]:
        """At most ``limit`` records, oldest first, those after the record ``after``. Raises
        InvalidRequestError when ``after`` is no record of this state."""
        since = None
        if after is not None:
            since = position_from_id(state_key(flow_id, user_id), after)
            if since is None:
                raise InvalidRequestError([Fault("/after", "is not the id of a record of this state")])
        # The outbox first: a record leaves it only after it is in the history.
        stored = await self._states.load(flow_id, user_id)
        kept = await self._history.read(flow_id, user_id, since, limit, only)
        pending = stored.pending if stored is not None else ()
        waiting = [r for r in pending if _is_after(r, since) and only.takes(r)]
        if not waiting:
            return kept
        joined = {record.id: record for record in (*waiting, *kept)}
        return sorted(joined.values(), key=position_of)[:limit]


def _is_after(record: HistoryRecord, since: HistoryPosition | None) -> bool:
    return since is None or position_of(record) > since
