"""The ports of deliveries to integrations: lanes, the log, and dead letters."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from app.contracts.deliveries import (
    DeadLetter,
    DeadLetterFilter,
    Lane,
    LaneId,
    LaneUpdate,
    LoggedDelivery,
    Mark,
    WaitingState,
)
from app.contracts.pages import Page
from app.contracts.state import StateId


class DeliveryLanes(Protocol):
    """The lanes of all integrations. Every method raises StoreUnavailableError.

    A lane names changes and has no data of them: the dispatcher reads these from the outbox and the history.
    """

    async def mark(self, marks: Sequence[Mark], now: datetime) -> None:
        """Note that lanes have work; create those that are missing. Marking twice is harmless.

        An idle lane becomes due now; one that is due, claimed or backing off stays as it is. A mark that is
        older than the newest one of its lane does not change since when the state waits. A new lane has no
        cursor, and the ``since`` of the mark.
        """

    async def add_jobs(self, lanes: Sequence[Lane]) -> None:
        """Store lanes of replays and redeliveries, due at their ``due_at``; existing ones are not changed."""

    async def list_due(self, alias: str, now: datetime, limit: int) -> list[LaneId]:
        """Return lanes of an integration that are due, those that are due for the longest time first."""

    async def claim(self, ids: Sequence[LaneId], holder: str, now: datetime, until: datetime) -> list[Lane]:
        """Claim those of the lanes that are due at ``now``, until a time at which they are due again.

        Args:
            ids: Lanes of one integration.
            holder: A text that no other claim has.
            now: The present time.
            until: The end of the claim.

        Returns:
            The claimed lanes.
        """

    async def release(self, updates: Sequence[LaneUpdate], now: datetime) -> None:
        """Store the results of claimed lanes, and end their claims.

        A lane whose claim has passed to another holder is not changed. A lane without more work stays due at
        ``now`` if it was marked after it was claimed (``newest`` differs); a lane of a job is removed then.
        """

    async def get(self, lane_id: LaneId) -> Lane | None:
        """Return a lane."""

    async def list_failing(self, alias: str, after: str | None, limit: int) -> Page[Lane]:
        """Return the lanes of an integration with failed attempts, by key; ``next`` is a key."""

    async def list_lanes(self, alias: str, after: str | None, limit: int) -> Page[Lane]:
        """Return the lanes of an integration without those of jobs, by key; ``next`` is a key."""

    async def count_due(self, alias: str, limit: int) -> int:
        """Count the lanes of an integration with work, at most ``limit``."""

    async def list_waiting(self, alias: str, after: str | None, limit: int) -> list[WaitingState]:
        """Return the states that wait at a step of an integration, oldest first.

        ``after`` is the ``place`` of the last one of the page before.
        """

    async def end_waiting(self, alias: str, waiting: Sequence[WaitingState]) -> None:
        """Remove states from the list of waiting ones, if their lanes still have these places."""

    async def make_due(self, alias: str, now: datetime) -> None:
        """Make all lanes due that back off, as the integration has returned."""

    async def delete_of_integration(self, alias: str) -> int:
        """Remove all lanes of an integration, and return their number."""

    async def delete_of_state(self, state_id: StateId) -> int:
        """Remove all lanes of a state, and return their number."""


class DeliveryLog(Protocol):
    """The deliveries of each integration that are done, in a sequence without gaps.

    Numbers are never used again: an entry whose data is removed leaves its number. Every method raises
    StoreUnavailableError.
    """

    async def append(self, alias: str, deliveries: Sequence[LoggedDelivery]) -> int:
        """Append deliveries in order, each with the next sequence number; return the last number.

        A number is used once, also by several workers, and none becomes visible before a lower one: a reader
        that continues after the last number that it has seen misses nothing.
        """

    async def read(self, alias: str, after: int, limit: int) -> list[LoggedDelivery]:
        """Return deliveries after a sequence number, in order."""

    async def first(self, alias: str) -> int:
        """Return the lowest number that age has not removed; one more than the last number if there is none.

        A reader that continues from a lower number than the one before it has missed entries.
        """

    async def last(self, alias: str) -> int:
        """Return the highest number that was used, 0 if there is none."""

    async def find(self, event_id: str) -> LoggedDelivery | None:
        """Return the last delivery of an event."""

    async def delete_of_integration(self, alias: str) -> int:
        """Remove the entries of an integration, and return their number. The numbers go on after them."""

    async def delete_of_state(self, state_id: StateId) -> int:
        """Remove the entries of a state, and return their number."""

    async def remove_expired(self, before: datetime) -> int:
        """Remove the entries of all integrations that were delivered before a time; return their number."""


class DeadLetters(Protocol):
    """Events that could not be delivered. Every method raises StoreUnavailableError."""

    async def add(self, letters: Sequence[DeadLetter]) -> None:
        """Store letters; one that exists is replaced."""

    async def get(self, alias: str, event_id: str) -> DeadLetter | None:
        """Return a letter."""

    async def find(self, only: DeadLetterFilter, after: str | None, limit: int) -> Page[DeadLetter]:
        """Return the letters that match, those that died first first; ``next`` is opaque."""

    async def find_of_state(self, state_id: StateId, after: str | None, limit: int) -> Page[DeadLetter]:
        """Return the letters of a state, of all integrations, by alias and id; ``next`` is opaque."""

    async def count(self, only: DeadLetterFilter) -> int:
        """Count the letters that match."""

    async def replace(self, letter: DeadLetter) -> bool:
        """Replace a letter. Returns false if there is none."""

    async def delete(self, alias: str, event_ids: Sequence[str]) -> int:
        """Remove letters, and return their number."""

    async def delete_of_integration(self, alias: str) -> int:
        """Remove all letters of an integration, and return their number."""

    async def delete_of_state(self, state_id: StateId) -> int:
        """Remove all letters of a state, and return their number."""

    async def remove_expired(self, before: datetime) -> int:
        """Remove all letters that were given up before a time, and return their number."""
