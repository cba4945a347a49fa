"""The relay: takes committed changes on to the history and to all workers, in batches.

The caller of a change does not wait for it, and nothing is lost with it: a record stays in its
state's outbox until it is delivered, and the sweep of any worker delivers for one that died.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain, repeat

import structlog
from msgspec import UNSET, structs

from app.contracts.errors import FlowStateCorruptionError, StoreUnavailableError
from app.contracts.events import StateChanged
from app.contracts.ports.bus import BusUnavailableError, EventBus
from app.contracts.ports.clock import Clock
from app.contracts.ports.history import HistoryStore
from app.contracts.ports.reports import CorruptionReports
from app.contracts.ports.states import StateStore, StoredState
from app.contracts.record import HistoryRecord, named_payload, state_after
from app.contracts.state import state_key
from app.services.delivery.state_events import StateEvents
from app.services.states.payloads import Payloads
from config.log import describe

log = structlog.get_logger("relay")

BATCH = 128
WAITING_LIMIT = 20_000
LEFT_LIMIT = 20_000
"""States whose last record stays in the outbox while Redis is away; beyond that, only the bus knows."""
MAX_FAILURES = 3
"""Of the delivery of one record; then it is set aside."""
LINGER_SECONDS = 0.1
"""How long a record waits for others to share the commands that store it; it is in its outbox meanwhile."""
LONGEST_SECONDS = 1.0
"""How long it waits at most while callers wait for the store: they go first."""
RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)


class Relay:
    """Delivers records: tells of them at once, and keeps them in the history a moment later, when there
    are more. ``take`` never waits; ``run`` does the work until it is cancelled."""

    def __init__(
        self,
        states: StateStore,
        history: HistoryStore,
        bus: EventBus,
        updates: StateEvents,
        reports: CorruptionReports,
        clock: Clock,
    ) -> None:
        self._reports = reports
        self._clock = clock
        self._failures: dict[str, int] = {}
        self._reasons: dict[str, str] = {}
        self._aside: dict[str, str] = {}
        self._aside_of: dict[str, str] = {}
        self._states = states
        self._history = history
        self._bus = bus
        self._updates = updates
        self._payloads = Payloads(history)
        self._untold: asyncio.Queue[HistoryRecord] = asyncio.Queue()
        self._unkept: asyncio.Queue[HistoryRecord] = asyncio.Queue()
        self._under_way: set[str] = set()
        self._missed: set[str] = set()
        self._left: dict[str, HistoryRecord] = {}
        self._hurry = asyncio.Event()
        self._full = False

    def take(self, records: Iterable[HistoryRecord]) -> int:
        """Queue records for delivery, those that are under way already once; how many were not. When
        the queue is full they are left to the sweep; a record of a refusal is dropped then and logged."""
        taken = 0
        for record in records:
            if record.id in self._under_way or record.id in self._aside:
                continue
            if len(self._under_way) >= WAITING_LIMIT:
                if not self._full:  # once, not for every record of an overload
                    log.warning("relay queue full", record=record.id, kind=record.kind)
                self._full = True
                continue
            self._full = False
            self._untold.put_nowait(record)
            self._under_way.add(record.id)
            taken += 1
        return taken

    async def run(self) -> None:
        """Deliver until cancelled."""
        await asyncio.gather(self._tell_all(), self._keep_all())

    async def drain(self, seconds: float) -> bool:
        """Wait until everything taken is delivered, for ``seconds`` at most; whether it is."""
        self._hurry.set()
        try:
            async with asyncio.timeout(seconds):
                await self._untold.join()
                await self._unkept.join()
        except TimeoutError:
            log.warning("not all delivered; the outboxes have the rest", records=len(self._under_way))
            return False
        finally:
            self._hurry.clear()
        return True

    async def deliver(self, batch: Sequence[HistoryRecord]) -> list[HistoryRecord]:
        """Bring records to the history and to all workers, then take them out of the outboxes.
        The order matters: a record leaves the outbox only when it is kept elsewhere and told. While Redis
        is away the last one of each state stays, for the sweep of a worker that can tell it. Those that
        cannot be kept are set aside and returned; raises StoreUnavailableError alone."""
        await self._tell(batch)
        failed = await self._keep_those_that_can(batch)
        for record in failed:
            await self._set_aside(record)
        return failed

    @property
    def states_set_aside(self) -> list[str]:
        """The keys of the states with a record in the outbox that is not delivered any more."""
        return list(dict.fromkeys(self._aside_of.values()))

    def set_aside_of(self, stored: StoredState) -> str | None:
        """Why a record in a state's outbox is not delivered any more; None when none is set aside."""
        waiting = (record.id for record in stored.pending)
        return next((self._aside[record_id] for record_id in waiting if record_id in self._aside), None)

    async def _tell_all(self) -> None:
        while True:
            batch = await _next_batch(self._untold)
            try:
                await self._tell(batch)
            except Exception as error:  # noqa: BLE001 - clients find the gap in the revisions
                log.error("events not told", records=len(batch), first=batch[0].id, **describe(error))
            for record in batch:
                self._unkept.put_nowait(record)
                self._untold.task_done()

    async def _keep_all(self) -> None:
        while True:
            first = await self._unkept.get()
            until = asyncio.get_running_loop().time() + LONGEST_SECONDS
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LINGER_SECONDS):
                        await self._hurry.wait()
                if self._hurry.is_set() or not self._states.busy or asyncio.get_running_loop().time() > until:
                    break
            batch = [first, *_waiting(self._unkept, BATCH - 1)]
            try:
                await self._keep_until_done(batch)
            finally:
                for record in batch:
                    self._under_way.discard(record.id)
                    self._missed.discard(record.id)
                    self._unkept.task_done()

    async def _keep(self, batch: Sequence[HistoryRecord]) -> None:
        displaced = await self._history.append(batch)
        for record in batch:
            if record.id in displaced:
                log.error(
                    "another record is in its place", code=FlowStateCorruptionError.code, record=record.id
                )
        done: list[HistoryRecord] = []
        leaving: dict[str, HistoryRecord] = {}
        for record in batch:
            if record.id in displaced or record.after is UNSET:
                continue
            key = record.after.key
            before = leaving.get(key) or self._left.get(key)
            stays = record.id in self._missed and (before is not None or len(self._left) < LEFT_LIMIT)
            if before is not None and before.id != record.id:
                done.append(before)  # of the changes that nobody was told, the last one is enough
            if stays:
                leaving[key] = _without_data(record)
            else:
                done.append(record)
        await self._states.release(done)
        self._left |= leaving

    async def _keep_until_done(self, batch: Sequence[HistoryRecord]) -> None:
        for pause in chain(RETRY_SECONDS, repeat(RETRY_SECONDS[-1])):
            try:
                await self._keep(batch)
            except StoreUnavailableError:
                await asyncio.sleep(pause)
                continue
            except Exception as error:  # noqa: BLE001 - one bad record must not stop the others
                log.error("delivery failed", records=len(batch), first=batch[0].id, **describe(error))
                if len(batch) > 1:
                    for record in batch:
                        await self._keep_until_done([record])
                else:
                    await self._failed(batch[0], error)
            else:
                for record in batch if self._failures else ():
                    self._failures.pop(record.id, None)
            return

    async def _keep_those_that_can(self, batch: Sequence[HistoryRecord]) -> list[HistoryRecord]:
        """Keep records, together if possible; those that cannot be kept are returned."""
        try:
            await self._keep(batch)
        except StoreUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - one bad record must not stop the others
            log.error("delivery failed", records=len(batch), first=batch[0].id, **describe(error))
            if len(batch) == 1:
                self._reasons[batch[0].id] = _reason(error)
                return list(batch)
            return [bad for record in batch for bad in await self._keep_those_that_can([record])]
        return []

    async def _failed(self, record: HistoryRecord, error: Exception) -> None:
        """Count a failure; the sweep tries the record again, unless it failed too often."""
        if len(self._failures) >= LEFT_LIMIT:
            self._failures.clear()
        self._failures[record.id] = self._failures.get(record.id, 0) + 1
        self._reasons[record.id] = _reason(error)
        if self._failures[record.id] >= MAX_FAILURES:
            await self._set_aside(record)

    async def _set_aside(self, record: HistoryRecord) -> None:
        """Try a record no more while this worker runs: it stays in its outbox, and is reported."""
        self._failures.pop(record.id, None)
        why = self._reasons.pop(record.id, "unknown")
        if record.after is UNSET:  # of a refusal: it is in no outbox
            return
        reason = f"record {record.id} cannot be delivered ({why}); it stays in the outbox of the state"
        if len(self._aside) >= LEFT_LIMIT:
            self._aside.clear()
            self._aside_of.clear()
        self._aside[record.id] = reason
        self._aside_of[record.id] = record.after.key
        log.error("record set aside, it cannot be delivered", record=record.id, reason=why)
        with suppress(StoreUnavailableError):
            await self._reports.report(record.after.key, reason, self._clock.now())

    async def _tell(self, batch: Sequence[HistoryRecord]) -> None:
        events = []
        for record in await self._payloads.complete([r for r in batch if r.after is not UNSET]):
            if named_payload(record) is not None:
                # Followers find the gap in the revisions.
                log.error("event not published, its payload is gone", record=record.id)
                continue
            try:
                events.append(await self._updates.from_record(record))
            except Exception as error:  # noqa: BLE001 - clients find the gap in the revisions
                log.error("events not told", records=1, first=record.id, **describe(error))
        if not events:
            return
        try:
            await self._publish(events)
        except BusUnavailableError:
            # Those who missed them are told by the bus once Redis answers again, or by the sweep of a worker
            # for which it does.
            self._missed.update(record.id for record in batch)
            log.warning("events not broadcast, Redis is away", events=len(events))
        else:
            self._left.clear()  # the sweep has them

    async def _publish(self, events: Sequence[StateChanged]) -> None:
        """Publish events together, or each alone where one cannot be."""
        try:
            await self._bus.publish(events)
        except BusUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - one bad event must not stop the others
            first = events[0]
            log.error(
                "events not told",
                records=len(events),
                first=f"{state_key(first.flow_id, first.user_id)}:{first.epoch}:{first.revision}",
                **describe(error),
            )
            for event in events if len(events) > 1 else ():
                await self._publish([event])


def _reason(error: Exception) -> str:
    """An error as operators may see it: its message may quote data."""
    described = describe(error)
    return f"{described['error']} at {described['at']}"


def _without_data(record: HistoryRecord) -> HistoryRecord:
    """The record without payloads: enough to release it."""
    return structs.replace(
        record, payload=UNSET, after=structs.replace(state_after(record), payload=UNSET, transitions=())
    )


async def _next_batch(queue: asyncio.Queue[HistoryRecord]) -> list[HistoryRecord]:
    return [await queue.get(), *_waiting(queue, BATCH - 1)]


def _waiting(queue: asyncio.Queue[HistoryRecord], limit: int) -> list[HistoryRecord]:
    return [queue.get_nowait() for _ in range(min(limit, queue.qsize()))]
