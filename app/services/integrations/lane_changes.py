"""The changes of a state that a lane has not delivered yet, complete and in order."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

from msgspec import UNSET, Struct

from app.contracts.deliveries import Lane, LanePosition
from app.contracts.ports.clock import Clock
from app.contracts.record import HistoryFilter, HistoryRecord, named_payload
from app.contracts.state import StateId
from app.services.states.history import HistoryReader

PAGE_SIZE = 50
MAX_READS = 16
"""The largest number of lanes of all integrations that are read at a time."""
MAX_COMMIT = timedelta(minutes=2)
"""Longer than a change takes from the time in its record until it is committed, on any worker's clock."""
MAX_REVISION = 10**17


class LanePage(Struct, frozen=True):
    """Changes in order, the oldest first. ``more``: there may be others after them."""

    records: Sequence[HistoryRecord]
    more: bool


def position_in_lane(record: HistoryRecord) -> LanePosition:
    """Return the position of a change in the lanes of its state."""
    return LanePosition(record.epoch, record.revision)


def follows(record: HistoryRecord, cursor: LanePosition | None) -> bool:
    """Return true if there can be no change between a position and a record."""
    if cursor is None:
        return record.revision == 0 and record.previous_hash == ""
    return record.epoch == cursor.epoch and record.revision == cursor.revision + 1


class LaneChanges:
    """Reads the changes of a state after the cursor of a lane, a few lanes at a time: callers go first."""

    def __init__(self, history: HistoryReader, clock: Clock) -> None:
        self._history = history
        self._clock = clock
        self._reading = asyncio.Semaphore(MAX_READS)

    def from_hand(
        self, cursor: LanePosition | None, records: Sequence[HistoryRecord]
    ) -> Sequence[HistoryRecord]:
        """Return those of the records that follow a position without a gap, so that nothing must be read."""
        found: list[HistoryRecord] = []
        for record in sorted(records, key=position_in_lane):
            if cursor is not None and position_in_lane(record) <= cursor:
                continue
            if not follows(record, cursor) or named_payload(record) is not None:
                break
            found.append(record)
            cursor = position_in_lane(record)
        return found

    async def read(self, lane: Lane, cursor: LanePosition | None) -> LanePage:
        """Read the next changes after a position, up to the end of the lane.

        A change may be stored before the one before it while both are read, since several workers store
        them. Then a second reading has all that were committed before the first one ended. This concerns
        changes alone that were made during the first one: older gaps are those of removed records.

        Raises:
            StoreUnavailableError: The store cannot be reached.
        """
        new_since = self._clock.now() - MAX_COMMIT
        page = await self._read(lane.id.state_id, cursor, lane.since, lane.end)
        if not _has_new_gap(page.records, cursor, new_since):
            return page
        last = position_in_lane(page.records[-1])
        again = await self._read(lane.id.state_id, cursor, lane.since, lane.end)
        records = [record for record in again.records if position_in_lane(record) <= last]
        return LanePage(records, more=page.more or again.more or len(records) < len(again.records))

    async def find(self, state_id: StateId, position: LanePosition) -> HistoryRecord | None:
        """Return the change at a position with its payload, None if it is not in the history any more.

        Raises:
            StoreUnavailableError: The store cannot be reached.
        """
        page = await self._read(state_id, _just_before(position), None, position)
        return next((each for each in page.records if position_in_lane(each) == position), None)

    async def _read(
        self,
        state_id: StateId,
        cursor: LanePosition | None,
        since: datetime | None,
        end: LanePosition | None,
    ) -> LanePage:
        after = None if cursor is None else f"{state_id.key}:{cursor.epoch}:{cursor.revision}"
        only = HistoryFilter(since=since)
        while True:
            async with self._reading:
                page = await self._history.read(state_id, after, PAGE_SIZE, only, None, with_payloads=True)
            changes = [record for record in page.items if record.after is not UNSET]
            records = changes
            if end is not None:
                records = [record for record in changes if position_in_lane(record) <= end]
            ended = page.next is None or len(records) < len(changes)
            if records or ended:
                return LanePage(records, more=not ended)
            after = page.next  # a page of refused attempts


def _just_before(position: LanePosition) -> LanePosition:
    """Return a position that is less than another one, with no change between them."""
    if position.revision > 0:
        return LanePosition(position.epoch, position.revision - 1)
    return LanePosition(position.epoch[:-1], MAX_REVISION)


def _has_new_gap(records: Sequence[HistoryRecord], cursor: LanePosition | None, new_since: datetime) -> bool:
    for record in records:
        if record.timestamp > new_since and not follows(record, cursor):
            return True
        cursor = position_in_lane(record)
    return False
