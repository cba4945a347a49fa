"""The deliveries of an integration, for itself to read: the log, with events made anew of the history."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from msgspec import Struct

from app.auth.policy import require_manager
from app.contracts.callers import Caller
from app.contracts.deliveries import LoggedDelivery
from app.contracts.errors import FlowError, ServiceNotFoundError, StoreUnavailableError
from app.contracts.integration import Integration
from app.contracts.pages import take_page
from app.contracts.ports.deliveries import DeliveryLog
from app.contracts.ports.history import HistoryStore
from app.contracts.ports.states import StateStore
from app.contracts.record import HistoryRecord
from app.contracts.state import StateId
from app.services.definitions.catalog import DefinitionCatalog
from app.services.delivery.payloads import Payloads
from app.services.integrations.events import IntegrationEvents, UndeliverableEventError
from app.services.integrations.registry import IntegrationRegistry

CHUNK_SIZE = 50
"""Deliveries whose records are read together."""
POLL_SECONDS = 1.0
"""Time after which the log is read again: other workers append to it, too."""


class FeedItem(Struct, frozen=True):
    """A delivery. ``event`` is the JSON of its event, None if that cannot be made any more."""

    sequence: int
    id: str
    type: str
    at: datetime
    event: bytes | None


class FeedPage(Struct, frozen=True):
    """Deliveries in order.

    ``next`` is the sequence number after which the next page begins. ``first`` is that of the oldest stored
    delivery if others before it are missing on this page, None if the page is complete.
    """

    items: Sequence[FeedItem]
    next: int
    first: int | None = None


class DeliveryFeed:
    """Reads deliveries, and waits for new ones."""

    def __init__(
        self,
        registry: IntegrationRegistry,
        events: IntegrationEvents,
        log: DeliveryLog,
        states: StateStore,
        history: HistoryStore,
        catalog: DefinitionCatalog,
    ) -> None:
        self._registry = registry
        self._events = events
        self._log = log
        self._states = states
        self._history = history
        self._payloads = Payloads(history)
        self._catalog = catalog
        self._appended: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def read(self, alias: str, caller: Caller, *, after: int = 0, limit: int = 100) -> FeedPage:
        """Return deliveries after a sequence number; fewer than ``limit`` if they are large.

        Raises:
            InsufficientPermissionsError: The caller is neither the integration nor an administrator.
            ServiceNotFoundError: No service is registered by this alias.
        """
        integration = await self.require_reader(alias, caller)
        await self._events.prepare()
        items: list[FeedItem] = []
        first = None
        place, is_full = after, False
        while len(items) < limit and not is_full:
            size = min(CHUNK_SIZE, limit - len(items))
            entries = await self._log.read(alias, place, size)
            if not items and (not entries or entries[0].sequence > after + 1):
                first = await self._missing_before(alias, after)
            made = await self._items(integration, entries)
            shown, is_full = take_page([*items, *made], limit, _size)
            items, is_full = shown, is_full or len(entries) < size
            place = items[-1].sequence if items else place
        if not items and first is not None:
            place = first - 1
        return FeedPage(items, place, first)

    async def require_reader(self, alias: str, caller: Caller) -> Integration:
        """Return the registration, unless the caller may not read its deliveries. Raises as ``read``."""
        require_manager(caller, alias)
        await self._registry.current()
        integration = self._registry.find(alias)
        if integration is None:
            raise ServiceNotFoundError(alias)
        return integration

    def notify(self, alias: str) -> None:
        """Wake those who wait for deliveries of an integration, as this worker has appended some."""
        appended = self._appended.pop(alias, None)
        if appended is not None:
            appended.set()

    def next_append(self, alias: str) -> asyncio.Event:
        """Return the event of the next deliveries that this worker appends.

        A reader requests it before it reads, so that it misses none between reading and waiting.
        """
        return self._appended[alias]

    async def wait(self, appended: asyncio.Event) -> None:
        """Wait for an event of ``next_append``, at most ``POLL_SECONDS``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_SECONDS):
                await appended.wait()

    async def _missing_before(self, alias: str, after: int) -> int | None:
        """Return the oldest stored number if deliveries right after ``after`` are not stored any more.

        A number beyond the last one is of a log that was removed: nothing of the present one is known then.
        """
        first = await self._log.first(alias)
        if after > await self._log.last(alias):
            return first
        return first if first > after + 1 else None

    async def _items(self, integration: Integration, entries: Sequence[LoggedDelivery]) -> list[FeedItem]:
        records = await self._records(entries)
        items = []
        for entry in entries:
            record = records.get(_record_id(entry))
            event = None if record is None else await self._event(integration, entry, record)
            items.append(FeedItem(entry.sequence, entry.id, entry.type, entry.at, event))
        return items

    async def _records(self, entries: Sequence[LoggedDelivery]) -> dict[str, HistoryRecord]:
        """Return the records of deliveries, by id; one may be in an outbox still, others are gone."""
        wanted = list(dict.fromkeys(_record_id(entry) for entry in entries))
        if not wanted:
            return {}
        found = await self._history.get_many(wanted)
        missing = set(wanted) - {record.id for record in found}
        states = {entry.state_id for entry in entries if _record_id(entry) in missing}
        waiting = await asyncio.gather(*(self._outbox(state_id) for state_id in states))
        pending = [record for records in waiting for record in records]
        found += [record for record in pending if record.id in missing]
        return {record.id: record for record in await self._payloads.complete(found, pending)}

    async def _outbox(self, state_id: StateId) -> Sequence[HistoryRecord]:
        stored = await self._states.load_or_salvage(state_id)
        return () if stored is None else stored.pending

    async def _event(
        self, integration: Integration, entry: LoggedDelivery, record: HistoryRecord
    ) -> bytes | None:
        if self._events.event_id(integration.alias, record) != entry.id:
            return None  # another commit has the place of the one that was delivered
        try:
            definition = await self._catalog.version(record.flow_id, record.version)
        except StoreUnavailableError:
            raise
        except FlowError:
            definition = None
        flow = None if definition is None else definition.flow
        try:
            return self._events.event(integration, record, entry.type, flow=flow, replay=entry.replay).body
        except UndeliverableEventError:
            return None


def _record_id(entry: LoggedDelivery) -> str:
    return f"{entry.state_id.key}:{entry.epoch}:{entry.revision}"


def _size(item: FeedItem) -> int:
    return len(item.event or b"") + 200
