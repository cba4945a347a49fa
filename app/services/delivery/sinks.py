"""Sinks of committed records: the history and the event bus are the first two."""

from collections.abc import Sequence
from typing import Protocol

import structlog
from msgspec import UNSET

from app.contracts.errors import BusUnavailableError, FlowStateCorruptionError
from app.contracts.events import StateChanged
from app.contracts.ports.bus import EventBus
from app.contracts.ports.history import HistoryStore
from app.contracts.record import HistoryRecord, named_payload
from app.services.delivery.payloads import Payloads
from app.services.delivery.state_events import StateEvents
from config.log import describe

log = structlog.get_logger("delivery")


class DeliverySink(Protocol):
    """A destination of committed records.

    The relay gives a record to every sink that is not durable as soon as it is committed, and a moment later,
    together with others, to the durable ones. It leaves the outbox once every durable sink has it.

    Deliveries repeat: after a failure, and by other workers. A sink must recognise a record that it has.
    """

    @property
    def durable(self) -> bool:
        """True if a record must stay in its outbox until this sink has it."""

    async def deliver(self, batch: Sequence[HistoryRecord]) -> set[str]:
        """Deliver records, those of one state in their order.

        Returns:
            The ids of the records that need not be delivered again.

        Raises:
            StoreUnavailableError: Nothing is wrong with the records; the relay tries them again.
            Exception: At least one of the records cannot be delivered. The relay tries each alone.
        """


class HistorySink:
    """Stores records in the history."""

    durable = True

    def __init__(self, history: HistoryStore) -> None:
        self._history = history

    async def deliver(self, batch: Sequence[HistoryRecord]) -> set[str]:
        """Append records. One in whose place the history has another commit stays undelivered."""
        displaced = await self._history.append(batch)
        for record_id in displaced:
            log.error("history has another record", code=FlowStateCorruptionError.code, record=record_id)
        return {record.id for record in batch} - displaced


class EventBusSink:
    """Publishes the changes of states to all workers, which pass them to their subscribers.

    A record of which no event can be made, or published, counts as delivered: subscribers notice the gap in
    the revisions.
    """

    durable = False

    def __init__(self, bus: EventBus, history: HistoryStore, events: StateEvents) -> None:
        self._bus = bus
        self._payloads = Payloads(history)
        self._events = events

    async def deliver(self, batch: Sequence[HistoryRecord]) -> set[str]:
        """Publish the records of commits; none are delivered while Redis cannot be reached."""
        events = []
        for record in await self._payloads.complete([r for r in batch if r.after is not UNSET]):
            if named_payload(record) is not None:
                log.error("event not published, payload missing", record=record.id)
                continue
            try:
                events.append(await self._events.from_record(record))
            except Exception as error:  # noqa: BLE001 - subscribers notice the gap in the revisions
                log.error("events not published", records=1, first=record.id, **describe(error))
        try:
            await self._publish(events)
        except BusUnavailableError:
            log.warning("events not published, redis unavailable", events=len(events))
            return set()
        return {record.id for record in batch}

    async def _publish(self, events: Sequence[StateChanged]) -> None:
        """Publish events together, or each alone if that fails."""
        if not events:
            return
        try:
            await self._bus.publish(events)
        except BusUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - one bad event must not stop the others
            first = events[0]
            log.error(
                "events not published",
                records=len(events),
                first=f"{first.state_id.key}:{first.epoch}:{first.revision}",
                **describe(error),
            )
            for event in events if len(events) > 1 else ():
                await self._publish([event])
