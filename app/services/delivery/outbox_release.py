"""Removal of delivered records from the outboxes."""

from collections.abc import Iterable, Sequence

from msgspec import UNSET, structs

from app.contracts.ports.states import StateStore
from app.contracts.record import HistoryRecord, state_after

MAX_RETAINED = 20_000
"""States whose last record stays in the outbox while Redis is unavailable; for more, only the bus knows."""


class OutboxRelease:
    """Removes records from outboxes, except the last unpublished one of each state.

    That one stays for the sweep of a worker that reaches Redis, which then publishes it. Of several changes
    that were not published, the last one is enough.
    """

    def __init__(self, states: StateStore) -> None:
        self._states = states
        self._unpublished: set[str] = set()
        self._retained: dict[str, HistoryRecord] = {}

    def mark_unpublished(self, records: Iterable[HistoryRecord]) -> None:
        """Note that records could not be published."""
        self._unpublished.update(record.id for record in records)

    def mark_published(self, records: Iterable[HistoryRecord]) -> None:
        """Note that records were published, so that others can be too: the sweep has the retained ones."""
        self._unpublished.difference_update(record.id for record in records)
        self._retained.clear()

    def forget(self, record: HistoryRecord) -> None:
        """Drop what was noted of a record, at the end of its delivery."""
        self._unpublished.discard(record.id)

    async def release(self, records: Sequence[HistoryRecord]) -> None:
        """Remove records that every durable sink has; a refusal has none to remove."""
        released: list[HistoryRecord] = []
        retained: dict[str, HistoryRecord] = {}
        for record in records:
            if record.after is UNSET:
                continue
            key = record.after.key
            before = retained.get(key) or self._retained.get(key)
            has_room = before is not None or len(self._retained) < MAX_RETAINED
            if before is not None and before.id != record.id:
                released.append(before)
            if record.id in self._unpublished and has_room:
                retained[key] = _without_data(record)
            else:
                released.append(record)
        await self._states.release(released)
        self._retained |= retained


def _without_data(record: HistoryRecord) -> HistoryRecord:
    """Strip payloads: the rest is enough to release the record."""
    return structs.replace(
        record, payload=UNSET, after=structs.replace(state_after(record), payload=UNSET, transitions=())
    )
