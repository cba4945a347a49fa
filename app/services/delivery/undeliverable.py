"""Records that cannot be delivered."""

from contextlib import suppress

import structlog
from msgspec import UNSET

from app.contracts.errors import StoreUnavailableError
from app.contracts.ports.clock import Clock
from app.contracts.ports.reports import CorruptionReports
from app.contracts.ports.states import StoredState
from app.contracts.record import HistoryRecord
from config.log import describe

log = structlog.get_logger("delivery")

MAX_FAILURES = 3
"""Failed deliveries of one record, after which it is set aside."""
MAX_REMEMBERED = 20_000
"""Records whose failures are remembered; beyond that, all are forgotten and tried again."""


class UndeliverableRecords:
    """Counts failures, and sets records aside that failed too often.

    Such a record stays in its outbox and is not tried again while this worker runs.
    """

    def __init__(self, reports: CorruptionReports, clock: Clock) -> None:
        self._reports = reports
        self._clock = clock
        self._failures: dict[str, int] = {}
        self._causes: dict[str, str] = {}
        self._reasons: dict[str, str] = {}
        self._states: dict[str, str] = {}

    def __contains__(self, record: HistoryRecord) -> bool:
        return record.id in self._reasons

    @property
    def states(self) -> list[str]:
        """The keys of the states with such a record in the outbox."""
        return list(dict.fromkeys(self._states.values()))

    def reason_for(self, stored: StoredState) -> str | None:
        """Return why a record in a state's outbox is not delivered, None if none is set aside."""
        for record in stored.pending:
            if record.id in self._reasons:
                return self._reasons[record.id]
        return None

    def note_cause(self, record: HistoryRecord, error: Exception) -> None:
        """Remember why a delivery failed. The message of an error may quote data, so it is left out."""
        described = describe(error)
        self._causes[record.id] = f"{described['error']} at {described['at']}"

    def note_delivered(self, record: HistoryRecord) -> None:
        """Forget the failures of a record."""
        self._failures.pop(record.id, None)

    async def note_failure(self, record: HistoryRecord, error: Exception) -> None:
        """Count a failure. The sweep tries the record again unless it failed too often."""
        if len(self._failures) >= MAX_REMEMBERED:
            self._failures.clear()
        self._failures[record.id] = self._failures.get(record.id, 0) + 1
        self.note_cause(record, error)
        if self._failures[record.id] >= MAX_FAILURES:
            await self.set_aside(record)

    async def set_aside(self, record: HistoryRecord) -> None:
        """Try a record no more while this worker runs: it stays in its outbox, and is reported."""
        self._failures.pop(record.id, None)
        cause = self._causes.pop(record.id, "unknown")
        if record.after is UNSET:  # a refusal is in no outbox
            return
        reason = f"record {record.id} cannot be delivered ({cause}); it stays in the outbox of the state"
        if len(self._reasons) >= MAX_REMEMBERED:
            self._reasons.clear()
            self._states.clear()
        self._reasons[record.id] = reason
        self._states[record.id] = record.after.key
        log.error("record set aside, delivery failed repeatedly", record=record.id, reason=cause)
        with suppress(StoreUnavailableError):
            await self._reports.report(record.after.key, reason, self._clock.now())
