"""Delivers the events of one claimed lane, in order."""

import asyncio
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any
from uuid import UUID

import structlog
from msgspec import UNSET, UnsetType, json, structs

from app.contracts.deliveries import DeadLetter, Lane, LanePosition
from app.contracts.errors import StoreUnavailableError
from app.contracts.flow import Flow
from app.contracts.integration import Integration
from app.contracts.record import HistoryRecord
from app.services.integrations.event_delivery import (
    DeliveryFailure,
    EventDelivery,
    LaneTools,
)
from app.services.integrations.events import IntegrationEvent, UndeliverableEventError
from app.services.integrations.lane_changes import position_in_lane
from app.services.integrations.lane_result import LaneResult
from app.services.integrations.matching import concerns
from app.services.integrations.retry_schedule import MAX_ATTEMPTS, next_delay
from app.services.integrations.send_limits import RateAllowance
from app.services.integrations.sending import DeferredError, DeliveredChange
from config.log import describe

log = structlog.get_logger("deliveries")

MAX_WORK_SECONDS = 8.0
"""How long a claimed lane is worked on before others get their turn; much shorter than a claim."""
MAX_EVENTS = 200
"""The largest number of events of a claim; after a crash they are repeated."""
MAX_BYTES = 500_000
MAX_LETTER_ATTEMPTS = 50
STORE_PAUSE_SECONDS = 2.0
UNKNOWN_TYPE = "flow.transition"
"""The type of an event whose change cannot be read."""


class LaneWork:
    """Works on one claimed lane; ``result`` has what is done, at any time.

    Args:
        tools: The shared components.
        integration: The registration.
        lane: The claimed lane.
        hand: Changes of the state that this worker has just committed.
        rate: The rate of the integration.
        stopping: Returns true once no event may be sent any more.
        probe: The first event is the probe of an open breaker.
    """

    def __init__(
        self,
        tools: LaneTools,
        integration: Integration,
        lane: Lane,
        hand: Sequence[HistoryRecord],
        rate: RateAllowance,
        stopping: Callable[[], bool],
        *,
        probe: bool = False,
    ) -> None:
        self._tools = tools
        self._integration = integration
        self._lane = lane
        self._hand = hand
        self._stopping = stopping
        self._read_to = lane.cursor
        self._held: tuple[HistoryRecord, str] | None = None
        self._until = 0.0
        self.result = LaneResult(lane, tools.clock.now())
        self._delivery = EventDelivery(tools, integration, self.result, rate, stopping, probe=probe)

    async def run(self) -> None:
        """Deliver what the lane has, for a while. Does not raise; a cancellation ends it early."""
        self._until = asyncio.get_running_loop().time() + MAX_WORK_SECONDS
        try:
            if self._lane.letter is not None:
                await self._redeliver(self._lane.letter)
            else:
                await self._deliver_changes()
        except (DeferredError, asyncio.CancelledError):
            self._delivery.continue_after(0)
        except StoreUnavailableError:
            self._delivery.continue_after(STORE_PAUSE_SECONDS * (0.5 + self._tools.random()))
        except Exception as error:  # noqa: BLE001 - a defect must hold up this lane alone, and not for ever
            log.error("delivery failed unexpectedly", service=self._integration.alias, **describe(error))
            self.note_defect()

    def note_defect(self) -> None:
        """Let the lane wait after an unexpected failure; after the last attempt its event is given up."""
        failure = self._delivery.own_failure("internal", "an unexpected failure")
        self._delivery.count_failure(failure)
        self.result.note_attempt(failure.attempt)
        self.result.failures += 1
        delay = next_delay(min(self.result.failures, MAX_ATTEMPTS - 1), None, self._tools.random)
        self._delivery.continue_after(delay or 0.0)

    async def _deliver_changes(self) -> None:
        records = self._tools.changes.from_hand(self._lane.cursor, self._usable_hand())
        end = self._lane.end or self._lane.newest
        while True:
            for record in records:
                if self._is_over() or not await self._pass(record):
                    return
            if self._read_to is not None and self._read_to >= end:
                break
            page = await self._tools.changes.read(self._lane, self._read_to)
            records = page.records
            if not records and not page.more:
                await self._pass_missing(end)
                break
        if await self._deliver_held():
            self.result.due_at = None

    def _usable_hand(self) -> list[HistoryRecord]:
        """Return the changes in hand, unless a later one was marked: an erasure may have changed them."""
        if not any(position_in_lane(record) >= self._lane.newest for record in self._hand):
            return []
        return [record for record in self._hand if record.timestamp >= self._lane.since]

    def _is_over(self) -> bool:
        over = asyncio.get_running_loop().time() > self._until
        full = len(self.result.deliveries) >= MAX_EVENTS or self.result.size_bytes >= MAX_BYTES
        if over or full or self._stopping():
            self._delivery.continue_after(0)
            return True
        return False

    async def _pass(self, record: HistoryRecord) -> bool:
        """Deliver a change if it concerns the integration. Returns false if the lane must wait."""
        position = position_in_lane(record)
        if self.result.failures >= MAX_ATTEMPTS:  # only an unexpected failure leaves so many
            failure = self._delivery.own_failure("internal", "an unexpected failure", final=True)
            await self._bury(record, UNKNOWN_TYPE, failure, UNSET)
            self._move_to(position)
            return True
        flow = await self._tools.flow_of(record)
        event_type = concerns(self._integration, record, flow)
        policy = UNSET if self._lane.id.job else self._integration.backlog
        if policy is not UNSET and record.timestamp < policy.before:
            if policy.kind == "newest" and event_type is not None:
                self._hold(record, event_type)
            if self._held is None:
                self.result.advance(position)
        else:
            if not await self._deliver_held():
                return False
            if event_type is not None and not await self._deliver(record, event_type, flow):
                return False
            self.result.advance(position)
        self._read_to = position
        return True

    def _hold(self, record: HistoryRecord, event_type: str) -> None:
        """Remember a change, of which it is not known yet that no later one takes its place."""
        if self._read_to is not None:
            self.result.cursor = self._read_to  # those before it are done
        self._held = (record, event_type)

    async def _deliver_held(self) -> bool:
        """Deliver the change that was held. Returns false if the lane must wait."""
        if self._held is None:
            return True
        record, event_type = self._held
        if not await self._deliver(record, event_type, await self._tools.flow_of(record)):
            return False
        self._held = None
        if self._read_to is not None:
            self.result.advance(self._read_to)
        return True

    def _move_to(self, position: LanePosition) -> None:
        self.result.advance(position)
        self._read_to = position

    async def _deliver(self, record: HistoryRecord, event_type: str, flow: Flow | None) -> bool:
        """Deliver the event of a change, or give it up. Returns false if the lane must wait."""
        await self._tools.events.prepare()
        body: dict[str, Any] | UnsetType = UNSET
        replay = bool(self._lane.id.job)
        try:
            event = self._tools.events.event(self._integration, record, event_type, flow=flow, replay=replay)
        except UndeliverableEventError as error:
            final = error.reason == "too_large"
            failure: DeliveryFailure | None = self._delivery.own_failure(
                error.reason, error.detail, final=final
            )
        else:
            change = DeliveredChange(position_in_lane(record), record.timestamp)
            earlier = len(self.result.attempts)
            failure = await self._delivery.deliver(event, change, earlier=earlier, replay=replay)
            body = json.decode(event.body) if failure is not None else UNSET
        if failure is None:
            return True
        if self._delivery.waits(failure):
            return False
        await self._bury(record, event_type, failure, body)
        return True

    async def _bury(
        self,
        record: HistoryRecord,
        event_type: str,
        failure: DeliveryFailure,
        event: dict[str, Any] | UnsetType,
    ) -> None:
        await self._tools.events.prepare()
        letter_id = self._tools.events.event_id(self._integration.alias, record)
        change = DeliveredChange(position_in_lane(record), record.timestamp)
        self._delivery.bury(letter_id, event_type, change, failure, event)

    async def _pass_missing(self, end: LanePosition) -> None:
        """Pass a change that was marked and is not there: a dead letter, unless it is none for the lane."""
        self._read_to = end
        if self._held is not None:
            return
        found = await self._tools.changes.find(self._lane.id.state_id, end)
        if found is None and not self._lane.id.job:
            failure = self._delivery.own_failure("expired", "the change is not in the history any more")
            name = f"{self._lane.id.key};{end.epoch};{end.revision}"
            letter_id = f"evt_{UUID(bytes=blake2b(name.encode(), digest_size=16).digest())}"
            self._delivery.count_failure(failure)
            self._delivery.bury(letter_id, UNKNOWN_TYPE, DeliveredChange(end, None), failure, UNSET)
        self.result.advance(end)

    async def _redeliver(self, letter_id: str) -> None:
        """Deliver a dead letter once more. The job ends, whatever comes of it."""
        letter = await self._tools.letters.get(self._integration.alias, letter_id)
        if letter is not None:
            if self.result.failures < MAX_ATTEMPTS:
                failure = await self._attempt_letter(letter)
            else:  # only an unexpected failure leaves so many
                failure = self._delivery.own_failure("internal", "an unexpected failure")
            if failure is None:
                self.result.redelivered.append(letter.id)
            else:
                self._delivery.count_failure(failure)
                self.result.changed_letters.append(_failed_again(letter, failure))
        self.result.due_at = None

    async def _attempt_letter(self, letter: DeadLetter) -> DeliveryFailure | None:
        try:
            event = await self._event_of(letter)
        except UndeliverableEventError as error:
            return self._delivery.own_failure(error.reason, error.detail)
        change = DeliveredChange(LanePosition(letter.epoch, letter.revision), letter.at)
        return await self._delivery.deliver(event, change, earlier=len(letter.attempts), replay=False)

    async def _event_of(self, letter: DeadLetter) -> IntegrationEvent:
        """Return the event of a letter; one without is made of its change anew.

        Raises:
            UndeliverableEventError: There is still none.
        """
        if letter.event is not UNSET:
            return IntegrationEvent(letter.id, letter.type, json.encode(letter.event))
        await self._tools.events.prepare()
        position = LanePosition(letter.epoch, letter.revision)
        record = await self._tools.changes.find(letter.state_id, position)
        if record is None:
            raise UndeliverableEventError("expired", "the change is not in the history any more")
        flow = await self._tools.flow_of(record)
        event_type = concerns(self._integration, record, flow) or letter.type
        return self._tools.events.event(self._integration, record, event_type, flow=flow)


def _failed_again(letter: DeadLetter, failure: DeliveryFailure) -> DeadLetter:
    """Return a letter after a redelivery that failed."""
    return structs.replace(
        letter,
        reason=failure.reason,
        detail=failure.error,
        attempts=(*letter.attempts, failure.attempt)[-MAX_LETTER_ATTEMPTS:],
        redelivering=False,
    )
