"""Reads the history of a state, including records still in the outbox, and verifies its chain."""

from collections import deque
from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from msgspec import UNSET, json

from app.contracts.callers import Caller
from app.contracts.commands import Origin
from app.contracts.errors import Fault, FlowStateCorruptionError, InvalidRequestError
from app.contracts.pages import Page, take_page
from app.contracts.ports.clock import Clock
from app.contracts.ports.history import HistoryStore
from app.contracts.ports.states import DamagedState, StateStore, StoredState
from app.contracts.record import (
    HistoryFilter,
    HistoryPosition,
    HistoryRecord,
    UnreadableRecord,
    position_from_id,
    position_of,
)
from app.contracts.results import Verification
from app.contracts.state import StateId, StatePosition
from app.flow.history_chain import Chain
from app.flow.people.proof import PeopleRules
from app.services.definitions.catalog import DefinitionCatalog
from app.services.definitions.field_masks import FieldMasks
from app.services.delivery.payloads import Payloads

PAGE_SIZE = 500
MAX_VERIFICATIONS = 5
"""Attempts to verify a chain while commits are made."""


class HistoryReader:
    """Joins the outbox of a state with its history. ``pruned``: old records may have been removed."""

    def __init__(
        self,
        states: StateStore,
        history: HistoryStore,
        catalog: DefinitionCatalog,
        masks: FieldMasks,
        clock: Clock,
        *,
        pruned: bool,
    ) -> None:
        self._catalog = catalog
        self._masks = masks
        self._states = states
        self._history = history
        self._payloads = Payloads(history)
        self._clock = clock
        self._pruned = pruned

    async def read(
        self,
        state_id: StateId,
        after: str | None,
        limit: int,
        only: HistoryFilter,
        caller: Caller | None,
        *,
        with_payloads: bool = False,
    ) -> Page[HistoryRecord]:
        """Read a page of at most ``limit`` records after the record ``after``, oldest first.

        Args:
            state_id: The state.
            after: The id of a record; None for the first page.
            limit: The largest number of records.
            only: The filter.
            caller: The reader, who sees what it may see; None for the service itself, which sees all.
            with_payloads: The states have the payloads that their records name.

        Raises:
            InvalidRequestError: ``after`` is not the id of a record of this state.
        """
        since = None
        if after is not None:
            since = position_from_id(state_id.key, after)
            if since is None:
                raise InvalidRequestError([Fault("/after", "must be the id of a record of this state")])
        # The outbox first: a record leaves it only after it is in the history.
        stored = await self._states.load_or_salvage(state_id)
        stored_page = await self._history.read(state_id, since, limit, only)
        pending = stored.pending if stored is not None else ()
        page = self._joined(stored_page, pending, since, limit, only)
        items = page.items
        if with_payloads:
            items = await self._payloads.complete(items, pending)
        if caller is not None:
            items = await self._masks.records(items, None if stored is None else stored.state, caller)
        return Page(items, page.next)

    async def has_request(self, state_id: StateId, origin: Origin, since: datetime) -> bool:
        """Return whether a request has changed a state after a time, however long ago.

        Raises:
            StoreUnavailableError: The store cannot be reached.
        """
        if origin.request_id is UNSET:
            return False
        found = await self._history.find_request(state_id, origin.actor, origin.request_id, since)
        return found is not None

    def _joined(
        self,
        stored_page: Page[HistoryRecord],
        pending: Sequence[HistoryRecord],
        since: HistoryPosition | None,
        limit: int,
        only: HistoryFilter,
    ) -> Page[HistoryRecord]:
        """Join a page of the history with the records in the outbox."""
        until = None if stored_page.next is None else position_of(stored_page.items[-1])
        waiting = [
            r
            for r in pending
            if _is_after(r, since) and (until is None or not _is_after(r, until)) and only.matches(r)
        ]
        if not waiting:
            return stored_page
        joined = {record.id: record for record in (*waiting, *stored_page.items)}
        shown, full = take_page(sorted(joined.values(), key=position_of), limit, _size)
        return Page(shown, shown[-1].id if full or stored_page.next is not None else None)

    async def verify(self, state_id: StateId) -> Verification:
        """Verify every record of a state against the one before it, and the last one against the state.

        Also that no record breaks a rule between people (``notBy``, ``approvals``) of the flow.
        """
        stored = await self._states.load_or_salvage(state_id)
        for _ in range(MAX_VERIFICATIONS):
            chain, rules = await self._check(state_id, stored)
            before, stored = stored, await self._states.load_or_salvage(state_id)
            if chain.broken is None or _position(stored) == _position(before):
                break  # no commit was made meanwhile that could look like a broken link
        broken = chain.broken or rules.broken
        return Verification(
            whole=broken is None,
            records=chain.records,
            unsealed=chain.unsealed,
            erased=chain.erased,
            head=chain.head,
            broken=broken,
        )

    async def _check(
        self, state_id: StateId, stored: StoredState | DamagedState | None
    ) -> tuple[Chain, PeopleRules]:
        chain, rules = Chain(pruned=self._pruned), PeopleRules(pruned=self._pruned)
        waiting = deque(() if stored is None else sorted(stored.pending, key=position_of))
        async for record in self.scan(state_id):
            while waiting and position_of(waiting[0]) < position_of(record):
                await self._add(chain, rules, waiting.popleft())
            if waiting and waiting[0].id == record.id:
                waiting.popleft()
            await self._add(chain, rules, record)
        for late in waiting:
            await self._add(chain, rules, late)
        chain.close()
        if stored is None:
            chain.compare(None, "", self._clock.now())
        elif stored.state is not None:
            chain.compare(stored.state, stored.head, self._clock.now())
        return chain, rules

    async def _add(self, chain: Chain, rules: PeopleRules, record: HistoryRecord | UnreadableRecord) -> None:
        chain.add(record)
        if not isinstance(record, HistoryRecord):
            return
        try:
            definition = await self._catalog.version(record.flow_id, record.version)
        except FlowStateCorruptionError:  # its rules are not known
            definition = None
        rules.add(record, None if definition is None else definition.flow)

    async def scan(self, state_id: StateId) -> AsyncIterator[HistoryRecord | UnreadableRecord]:
        """Yield every record in the history of a state, oldest first, also unreadable ones."""
        start: HistoryPosition | None = None
        while True:
            page = await self._history.scan(state_id, start, PAGE_SIZE)
            for record in page.items:
                yield record
            if page.next is None:
                return
            before, start = start, position_of(page.items[-1])
            if before is not None and start <= before:
                return


def _size(record: HistoryRecord) -> int:
    """Return the size of a record in bytes."""
    return len(json.encode(record))


def _position(stored: StoredState | DamagedState | None) -> StatePosition | None:
    if stored is None:
        return None
    return stored.position if isinstance(stored, DamagedState) else stored.state.position


def _is_after(record: HistoryRecord, since: HistoryPosition | None) -> bool:
    return since is None or position_of(record) > since
