"""The relay: delivers committed records to the sinks, in batches.

The caller of a change does not wait for it, and nothing is lost with it: a record stays in its state's outbox
until it is delivered, and the sweep of any worker delivers for one that died.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain, repeat

import structlog
from msgspec import UNSET

from app.contracts.errors import StoreUnavailableError
from app.contracts.ports.states import StateStore, StoredState
from app.contracts.record import HistoryRecord
from app.services.delivery.outbox_release import OutboxRelease
from app.services.delivery.sinks import DeliverySink
from app.services.delivery.undeliverable import UndeliverableRecords
from config.log import describe

log = structlog.get_logger("relay")

MAX_BATCH = 128
MAX_QUEUED = 20_000
LINGER_SECONDS = 0.1
"""How long a record waits for others to share the commands that store it; it is in its outbox meanwhile."""
MAX_LINGER_SECONDS = 1.0
"""How long it waits at most while callers wait for the store: they go first."""
RETRY_DELAYS_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)


class Relay:
    """Delivers records: to the sinks that are not durable at once, to the durable ones a moment later.

    ``enqueue`` never waits; ``run`` does the work until it is cancelled.
    """

    def __init__(
        self, states: StateStore, sinks: Sequence[DeliverySink], undeliverable: UndeliverableRecords
    ) -> None:
        self._states = states
        self._immediate = [sink for sink in sinks if not sink.durable]
        self._durable = [sink for sink in sinks if sink.durable]
        self._undeliverable = undeliverable
        self._outboxes = OutboxRelease(states)
        self._unpublished: asyncio.Queue[HistoryRecord] = asyncio.Queue()
        self._unstored: asyncio.Queue[HistoryRecord] = asyncio.Queue()
        self._in_progress: set[str] = set()
        self._draining = asyncio.Event()
        self._full = False

    def enqueue(self, records: Iterable[HistoryRecord]) -> int:
        """Queue records for delivery, and return how many were not queued before.

        When the queue is full they are left to the sweep; the record of a refusal is lost then.
        """
        added = 0
        for record in records:
            if record.id in self._in_progress or record in self._undeliverable:
                continue
            if len(self._in_progress) >= MAX_QUEUED:
                if not self._full:  # once, not for every record of an overload
                    log.warning("relay queue full", record=record.id, kind=record.kind)
                self._full = True
                continue
            self._full = False
            self._unpublished.put_nowait(record)
            self._in_progress.add(record.id)
            added += 1
        return added

    async def run(self) -> None:
        """Deliver until cancelled."""
        await asyncio.gather(self._publish_queued(), self._store_queued())

    async def drain(self, seconds: float) -> bool:
        """Wait at most ``seconds`` until all queued records are delivered; return true if they are."""
        self._draining.set()
        try:
            async with asyncio.timeout(seconds):
                await self._unpublished.join()
                await self._unstored.join()
        except TimeoutError:
            log.warning("delivery incomplete, records stay in outboxes", records=len(self._in_progress))
            return False
        finally:
            self._draining.clear()
        return True

    async def deliver(self, batch: Sequence[HistoryRecord]) -> list[HistoryRecord]:
        """Deliver records now, and remove them from the outboxes.

        Returns:
            Those that cannot be delivered, which are set aside.

        Raises:
            StoreUnavailableError: The store cannot be reached.
        """
        await self._publish(batch)
        failed = await self._store_possible(batch)
        for record in failed:
            await self._undeliverable.set_aside(record)
        return failed

    @property
    def states_set_aside(self) -> list[str]:
        """The keys of the states with a record in the outbox that is not delivered any more."""
        return self._undeliverable.states

    def set_aside_reason(self, stored: StoredState) -> str | None:
        """Return why a record in a state's outbox is not delivered any more, None if none is set aside."""
        return self._undeliverable.reason_for(stored)

    async def _publish_queued(self) -> None:
        while True:
            first = await self._unpublished.get()
            batch = [first, *_dequeue(self._unpublished, MAX_BATCH - 1)]
            try:
                await self._publish(batch)
            except Exception as error:  # noqa: BLE001 - subscribers notice the gap in the revisions
                log.error("events not published", records=len(batch), first=first.id, **describe(error))
            for record in batch:
                self._unstored.put_nowait(record)
                self._unpublished.task_done()

    async def _publish(self, batch: Sequence[HistoryRecord]) -> None:
        delivered = {record.id for record in batch}
        for sink in self._immediate:
            delivered &= await sink.deliver(batch)
        missed = [record for record in batch if record.id not in delivered]
        self._outboxes.mark_unpublished(missed)
        if not missed and any(record.after is not UNSET for record in batch):
            self._outboxes.mark_published(batch)

    async def _store_queued(self) -> None:
        while True:
            first = await self._unstored.get()
            await self._linger()
            batch = [first, *_dequeue(self._unstored, MAX_BATCH - 1)]
            try:
                await self._store_until_done(batch)
            finally:
                for record in batch:
                    self._in_progress.discard(record.id)
                    self._outboxes.forget(record)
                    self._unstored.task_done()

    async def _linger(self) -> None:
        """Wait for more records, and while callers wait for the store."""
        loop = asyncio.get_running_loop()
        until = loop.time() + MAX_LINGER_SECONDS
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER_SECONDS):
                    await self._draining.wait()
            if self._draining.is_set() or not self._states.busy or loop.time() > until:
                return

    async def _store(self, batch: Sequence[HistoryRecord]) -> None:
        """Deliver records to all durable sinks, then remove those that all have from the outboxes."""
        delivered = {record.id for record in batch}
        for sink in self._durable:
            delivered &= await sink.deliver(batch)
        await self._outboxes.release([record for record in batch if record.id in delivered])

    async def _store_until_done(self, batch: Sequence[HistoryRecord]) -> None:
        for delay in chain(RETRY_DELAYS_SECONDS, repeat(RETRY_DELAYS_SECONDS[-1])):
            try:
                await self._store(batch)
            except StoreUnavailableError:
                await asyncio.sleep(delay)
                continue
            except Exception as error:  # noqa: BLE001 - one bad record must not stop the others
                log.error("delivery failed", records=len(batch), first=batch[0].id, **describe(error))
                if len(batch) == 1:
                    await self._undeliverable.note_failure(batch[0], error)
                    return
                for record in batch:
                    await self._store_until_done([record])
            else:
                for record in batch:
                    self._undeliverable.note_delivered(record)
            return

    async def _store_possible(self, batch: Sequence[HistoryRecord]) -> list[HistoryRecord]:
        """Store records, together if possible, and return those that cannot be stored."""
        try:
            await self._store(batch)
        except StoreUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - one bad record must not stop the others
            log.error("delivery failed", records=len(batch), first=batch[0].id, **describe(error))
            if len(batch) == 1:
                self._undeliverable.note_cause(batch[0], error)
                return list(batch)
            failed = []
            for record in batch:
                failed += await self._store_possible([record])
            return failed
        return []


def _dequeue(queue: asyncio.Queue[HistoryRecord], limit: int) -> list[HistoryRecord]:
    return [queue.get_nowait() for _ in range(min(limit, queue.qsize()))]
