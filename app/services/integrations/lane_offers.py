"""Changes that this worker has just committed, by the lanes that they are due in."""

from collections.abc import Container, Sequence

from msgspec import UNSET

from app.contracts.deliveries import LaneId
from app.contracts.record import HistoryRecord
from app.contracts.state import StateId

MAX_LANES = 1000
MAX_RECORDS = 50
"""Bounds of what waits in memory; anything beyond is read from the history."""


class LaneOffers:
    """Lanes with their changes in hand, in the order in which they came."""

    def __init__(self) -> None:
        self._records: dict[LaneId, list[HistoryRecord]] = {}

    def __bool__(self) -> bool:
        return bool(self._records)

    def __contains__(self, lane_id: LaneId) -> bool:
        return lane_id in self._records

    def add(self, alias: str, records: Sequence[HistoryRecord]) -> bool:
        """Add changes. Returns false if a lane was left out as there are too many."""
        complete = True
        for record in records:
            instance = None if record.instance_id is UNSET else record.instance_id
            lane_id = LaneId(alias, StateId(record.flow_id, record.user_id, instance))
            if lane_id not in self._records and len(self._records) >= MAX_LANES:
                complete = False
                continue
            waiting = self._records.setdefault(lane_id, [])
            if len(waiting) < MAX_RECORDS:
                waiting.append(record)
        return complete

    def take(self, limit: int, busy: Container[LaneId]) -> dict[LaneId, list[HistoryRecord]]:
        """Remove and return the first lanes that are not busy, with their changes."""
        taken: dict[LaneId, list[HistoryRecord]] = {}
        for lane_id in list(self._records):
            if len(taken) >= limit:
                break
            if lane_id not in busy:
                taken[lane_id] = self._records.pop(lane_id)
        return taken

    def clear(self) -> None:
        """Forget all; the lanes are due in the store."""
        self._records.clear()
