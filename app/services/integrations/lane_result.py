"""The result of working on a claimed lane, which is stored together with those of other lanes."""

from datetime import datetime

from app.contracts.deliveries import (
    DeadLetter,
    DeliveryAttempt,
    Lane,
    LanePosition,
    LaneUpdate,
    LoggedDelivery,
)

MAX_ATTEMPTS_STORED = 20


class LaneResult:
    """The deliveries of a claimed lane so far, and where it goes on.

    Attributes:
        lane: The lane as it was claimed.
        cursor: The last change that is done.
        failures: Failed attempts at the next event that count.
        attempts: The last attempts at the next event.
        deliveries: Deliveries that are done, with the events that go to a stream.
        size_bytes: The size of these events.
        letters: New dead letters.
        changed_letters: Letters whose redelivery failed.
        redelivered: Ids of letters that were delivered.
        due_at: The time of the next attempt, None if the lane has no more work.
    """

    def __init__(self, lane: Lane, due_at: datetime) -> None:
        self.lane = lane
        self.due_at: datetime | None = due_at
        self.discard()

    def discard(self) -> None:
        """Discard what is done: the lane goes on from where it was."""
        self.cursor = self.lane.cursor
        self.failures = self.lane.failures
        self.attempts = self.lane.attempts
        self.deliveries: list[tuple[LoggedDelivery, bytes]] = []
        self.size_bytes = 0
        self.letters: list[DeadLetter] = []
        self.changed_letters: list[DeadLetter] = []
        self.redelivered: list[str] = []

    def advance(self, position: LanePosition) -> None:
        """Note that the change at a position is done."""
        self.cursor = position
        self.failures = 0
        self.attempts = ()

    def add_delivery(self, logged: LoggedDelivery, body: bytes) -> None:
        """Note that an event is delivered, apart from the stream and the log."""
        self.deliveries.append((logged, body))
        self.size_bytes += len(body)

    def note_attempt(self, attempt: DeliveryAttempt) -> None:
        """Add an attempt at the next event."""
        self.attempts = (*self.attempts, attempt)[-MAX_ATTEMPTS_STORED:]

    @property
    def update(self) -> LaneUpdate:
        """The new position of the lane."""
        return LaneUpdate(
            lane=self.lane,
            cursor=self.cursor,
            due_at=self.due_at,
            failures=self.failures,
            attempts=self.attempts,
        )
