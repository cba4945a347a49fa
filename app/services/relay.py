"""The relay: takes committed changes on to the history and to all workers, in batches.

The caller of a change does not wait for it, and nothing is lost with it: a record stays in its
state's outbox until it is delivered, and the sweep of any worker delivers for one that died.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain, repeat

import structlog
from msgspec import UNSET, Raw

from app.contracts.errors import FlowError, StoreUnavailableError
from app.contracts.events import StateChanged
from app.contracts.ports import BusUnavailableError, EventBus, HistoryStore, StateStore
from app.contracts.record import HistoryRecord
from app.contracts.state import ENDED
from app.contracts.views import encode, state_updated_event
from app.flow.rules import with_transitions
from app.services.catalog import DefinitionCatalog
from config.log import describe

log = structlog.get_logger("relay")

BATCH = 256
WAITING_LIMIT = 20_000
RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)


class Relay:
    """Delivers records. ``take`` never waits; ``run`` does the work until it is cancelled."""

    def __init__(
        self, states: StateStore, history: HistoryStore, bus: EventBus, catalog: DefinitionCatalog
    ) -> None:
        self._states = states
        self._history = history
        self._bus = bus
        self._catalog = catalog
        self._waiting: asyncio.Queue[HistoryRecord] = asyncio.Queue(WAITING_LIMIT)
        self._under_way: set[str] = set()

    def take(self, records: Iterable[HistoryRecord]) -> None:
        """Queue records for delivery, those that are under way already once. When the queue is full
        they are left to the sweep; a record of a refusal is dropped then, and that is logged."""
        for record in records:
            if record.id in self._under_way:
                continue
            try:
                self._waiting.put_nowait(record)
                self._under_way.add(record.id)
            except asyncio.QueueFull:
                log.warning("relay queue full", record=record.id, kind=record.kind)

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            try:
                await self._deliver_until_done(batch)
            finally:
                for record in batch:
                    self._under_way.discard(record.id)
                    self._waiting.task_done()

    async def drain(self, seconds: float) -> None:
        """Wait until everything taken is delivered, for ``seconds`` at most."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._waiting.join(), seconds)

    async def deliver(self, batch: Sequence[HistoryRecord]) -> None:
        """Bring records to the history and to all workers, then take them out of the outboxes.
        The order matters: a record leaves the outbox only when it is kept elsewhere and told."""
        commits = [record for record in batch if record.after is not UNSET]
        await asyncio.gather(self._history.append(batch), self._tell(commits))
        await self._states.release(commits)

    async def _deliver_until_done(self, batch: Sequence[HistoryRecord]) -> None:
        for pause in chain(RETRY_SECONDS, repeat(RETRY_SECONDS[-1])):
            try:
                await self.deliver(batch)
            except StoreUnavailableError:
                await asyncio.sleep(pause)
                continue
            except Exception as error:  # noqa: BLE001 - one bad record must not stop the others
                log.error("delivery failed", records=len(batch), first=batch[0].id, **describe(error))
                if len(batch) > 1:
                    for record in batch:
                        await self._deliver_until_done([record])
            return

    async def _tell(self, commits: Sequence[HistoryRecord]) -> None:
        events = [event for record in commits if (event := await self._event(record)) is not None]
        if not events:
            return
        try:
            await self._bus.publish(events)
        except BusUnavailableError:
            # Clients that missed it find the gap in the revisions; see docs/decisions.
            log.warning("events not broadcast, Redis is away", events=len(events))

    async def _event(self, record: HistoryRecord) -> StateChanged | None:
        state = record.after
        if state is UNSET:
            return None
        if state.status not in ENDED:
            try:
                state = with_transitions(await self._catalog.pinned(state), state)
            except FlowError as error:
                log.error("state told without transitions", state=state.key, code=error.code)
        return StateChanged(
            user_id=state.user_id,
            flow_id=state.flow,
            epoch=state.epoch,
            revision=state.revision,
            body=Raw(encode(state_updated_event(state, record))),
        )
