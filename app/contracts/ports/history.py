"""The port of the history store."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from app.contracts.pages import Page
from app.contracts.record import (
    EVERYTHING,
    HistoryFilter,
    HistoryPosition,
    HistoryRecord,
    UnreadableRecord,
)
from app.contracts.state import StateId


class HistoryStore(Protocol):
    """Records of changes and refusals, stored permanently."""

    async def append(self, records: Sequence[HistoryRecord]) -> set[str]:
        """Store records, without the payloads that they name; records that exist already are not changed.

        Returns:
            The ids of the records whose place another commit has.
        """

    async def read(
        self,
        state_id: StateId,
        after: HistoryPosition | None,
        limit: int,
        only: HistoryFilter = EVERYTHING,
    ) -> Page[HistoryRecord]:
        """Return records of one state over all its epochs, oldest first, after the position ``after``.

        ``next`` of the page is the id of the last record.
        """

    async def scan(
        self,
        state_id: StateId,
        start: HistoryPosition | None,
        limit: int,
        *,
        backwards: bool = False,
    ) -> Page[HistoryRecord | UnreadableRecord]:
        """Return records as ``read`` does without a filter, with unreadable ones in their places.

        ``backwards``: newest first, before the position ``start``.
        """

    async def newest(self, state_id: StateId) -> HistoryRecord | UnreadableRecord | None:
        """Return the record of the last commit of a state, over all its epochs."""

    async def ids_of_user(self, flow_id: str, user_id: str) -> list[StateId]:
        """Return the states of a user in a flow that have records, by key."""

    async def erase(self, state_id: StateId, until: HistoryPosition) -> int:
        """Erase the data that users entered for a state before the record at ``until``.

        Removes the erasable members (app.contracts.record) of commits, and refusals as a whole, as no other
        record refers to them.

        Returns:
            The number of records.
        """

    async def ids_naming(self, user_id: str) -> list[StateId]:
        """Return the states with records that name a person beside the owner, by key.

        Those are records with a salt of the person (app.contracts.pseudonyms).
        """

    async def replace_person(self, state_id: StateId, user_id: str, until: HistoryPosition) -> int:
        """Put the pseudonym of a person in the place of the id, in all records before the one at ``until``.

        Unreadable records lose what they have about people.

        Returns:
            The number of records.
        """

    async def get(self, record_id: str) -> HistoryRecord | None:
        """Return one record."""

    async def get_many(self, record_ids: Sequence[str]) -> list[HistoryRecord]:
        """Return the records with these ids that exist and can be read, in any order."""

    async def find_request(
        self, state_id: StateId, actor: str, request_id: str, since: datetime
    ) -> HistoryRecord | None:
        """Return the record of the change that a request made after ``since``."""
