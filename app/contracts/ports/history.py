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


class HistoryStore(Protocol):
    """Records of changes and refusals, kept for ever."""

    async def append(self, records: Sequence[HistoryRecord]) -> set[str]:
        """Keep the records, without the payloads that they name; those that are there already are left as
        they are. The ids of those in whose place there is another commit's."""

    async def read(
        self,
        flow_id: str,
        user_id: str,
        after: HistoryPosition | None,
        limit: int,
        only: HistoryFilter = EVERYTHING,
    ) -> Page[HistoryRecord]:
        """Records of one state over all its lives, oldest first, those after ``after``. ``next`` is the id
        of the last one."""

    async def scan(
        self,
        flow_id: str,
        user_id: str,
        start: HistoryPosition | None,
        limit: int,
        *,
        backwards: bool = False,
    ) -> Page[HistoryRecord | UnreadableRecord]:
        """As ``read`` without a filter, with what cannot be read in its place; ``backwards``: newest first,
        those before ``start``."""

    async def newest(self, flow_id: str, user_id: str) -> HistoryRecord | UnreadableRecord | None:
        """The last commit of a state, over all its lives."""

    async def erase(self, flow_id: str, user_id: str, until: HistoryPosition) -> int:
        """Remove what can be erased (app.flow.history_chain) of a state's commits before the one at
        ``until``, and its refusals, on which nothing hangs; how many."""

    async def get(self, record_id: str) -> HistoryRecord | None:
        """One record."""

    async def get_many(self, record_ids: Sequence[str]) -> list[HistoryRecord]:
        """The records with these ids that exist and can be read, in any order."""

    async def find_request(
        self, flow_id: str, user_id: str, actor: str, request_id: str, since: datetime
    ) -> HistoryRecord | None:
        """The record of the change that a request made after ``since``."""
