"""Delivers one event of a claimed lane, and notes in the lane's result what came of it."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from app.contracts.deliveries import DeadLetter, DeliveryAttempt, FailureReason, LoggedDelivery
from app.contracts.errors import FlowError, FlowStateCorruptionError, StoreUnavailableError
from app.contracts.flow import Flow
from app.contracts.integration import Integration
from app.contracts.ports.clock import Clock
from app.contracts.ports.deliveries import DeadLetters
from app.contracts.record import HistoryRecord
from app.services.definitions.catalog import DefinitionCatalog
from app.services.integrations import breaker
from app.services.integrations.events import IntegrationEvent, IntegrationEvents
from app.services.integrations.health import SharedHealth
from app.services.integrations.lane_changes import LaneChanges
from app.services.integrations.lane_result import LaneResult
from app.services.integrations.retry_schedule import next_delay
from app.services.integrations.send_limits import RateAllowance
from app.services.integrations.sending import DeferredError, DeliveredChange, EventSender, SentEvent

PROBE_PAUSE_SECONDS = 60.0
"""The mean pause of a lane whose probe failed, so that the next probe is of another one."""


class LaneTools(Struct, frozen=True, kw_only=True):
    """The components that lanes of all integrations share.

    Attributes:
        disable: Disables an integration, for a reason.
        random: Returns a number from 0 to 1.
    """

    events: IntegrationEvents
    changes: LaneChanges
    sender: EventSender
    catalog: DefinitionCatalog
    letters: DeadLetters
    health: SharedHealth
    clock: Clock
    disable: Callable[[str, str], Awaitable[None]]
    random: Callable[[], float]

    async def flow_of(self, record: HistoryRecord) -> Flow | None:
        """Return the version of the flow that a state runs on; None if it cannot be read."""
        try:
            definition = await self.catalog.version(record.flow_id, record.version)
        except FlowStateCorruptionError:
            return None
        return None if definition is None else definition.flow


class DeliveryFailure(Struct, frozen=True):
    """A failed attempt. ``final``: there is no other one."""

    attempt: DeliveryAttempt
    reason: FailureReason
    error: str
    retry_after: float | None = None
    final: bool = False


class EventDelivery:
    """Delivers events of one claimed lane.

    Args:
        tools: The shared components.
        integration: The registration.
        result: The result of the lane.
        rate: The rate of the integration.
        stopping: Returns true once no event may be sent any more.
        probe: The first event is the probe of an open breaker.
    """

    def __init__(
        self,
        tools: LaneTools,
        integration: Integration,
        result: LaneResult,
        rate: RateAllowance,
        stopping: Callable[[], bool],
        *,
        probe: bool,
    ) -> None:
        self._tools = tools
        self._integration = integration
        self._result = result
        self._rate = rate
        self._stopping = stopping
        self._probe = probe

    async def deliver(
        self, event: IntegrationEvent, change: DeliveredChange, *, earlier: int, replay: bool
    ) -> DeliveryFailure | None:
        """Deliver an event. Returns the failure, None after a success.

        Args:
            event: The event.
            change: The change that it is of.
            earlier: The number of attempts before this one.
            replay: It is marked as a replay.

        Raises:
            DeferredError: Nothing may be sent now, or the receiver wants no events any more.
            StoreUnavailableError: The store cannot be reached.
        """
        sent = await self._send(event, change)
        failure = None if sent is None else _failure_of(sent)
        if failure is not None:
            return failure
        self._probe = False
        logged = LoggedDelivery(
            id=event.id,
            alias=self._integration.alias,
            state_id=self._result.lane.id.state_id,
            epoch=change.position.epoch,
            revision=change.position.revision,
            type=event.type,
            at=change.at or self._tools.clock.now(),
            delivered_at=self._tools.clock.now(),
            transports=self._transports(),
            attempts=earlier + 1,
            status=UNSET if sent is None else sent.attempt.status,
            replay=replay,
            answered=UNSET if sent is None else sent.answered,
            refused=UNSET if sent is None else sent.verdict.refused,
        )
        self._result.add_delivery(logged, event.body if self._integration.stream else b"")
        self._tools.health.count(self._integration.alias, delivered=1)
        return None

    def own_failure(self, reason: FailureReason, error: str, *, final: bool = False) -> DeliveryFailure:
        """Return a failure of an attempt that did not get as far as the receiver."""
        attempt = DeliveryAttempt(at=self._tools.clock.now(), duration_ms=0.0, reason=reason, error=error)
        return DeliveryFailure(attempt, reason, error, final=final)

    def count_failure(self, failure: DeliveryFailure) -> None:
        """Count a failed attempt, against the receiver only if it is responsible."""
        if failure.reason == "receiver":
            self._tools.health.count(self._integration.alias, failed=1)
        else:
            self._tools.health.count(self._integration.alias, internal=1)

    def waits(self, failure: DeliveryFailure) -> bool:
        """Note a failed attempt. Returns true if the lane waits for another one, false if there is none.

        A failed probe does not count against the schedule.
        """
        self.count_failure(failure)
        self._result.note_attempt(failure.attempt)
        if failure.final:
            return False
        if self._probe:
            self.continue_after(PROBE_PAUSE_SECONDS * (0.5 + self._tools.random()))
            return True
        self._result.failures += 1
        delay = next_delay(self._result.failures, failure.retry_after, self._tools.random)
        if delay is None:
            return False
        self.continue_after(delay)
        return True

    def bury(
        self,
        letter_id: str,
        event_type: str,
        change: DeliveredChange,
        failure: DeliveryFailure,
        event: dict[str, Any] | UnsetType,
    ) -> None:
        """Make a dead letter of an event."""
        now = self._tools.clock.now()
        self._result.letters.append(
            DeadLetter(
                id=letter_id,
                alias=self._integration.alias,
                state_id=self._result.lane.id.state_id,
                epoch=change.position.epoch,
                revision=change.position.revision,
                type=event_type,
                at=change.at or now,
                died_at=now,
                reason=failure.reason,
                detail=failure.error,
                event=event,
                attempts=self._result.attempts,
            )
        )

    def continue_after(self, seconds: float) -> None:
        """Let the lane wait."""
        now = self._tools.clock.now()
        self._result.due_at = now + timedelta(milliseconds=round(seconds * 1000))

    async def _send(self, event: IntegrationEvent, change: DeliveredChange) -> SentEvent | None:
        """Send an event to the webhook, if there is one."""
        if self._integration.url is None:
            if not self._permitted():
                raise DeferredError
            return None
        sent = await self._tools.sender.send(
            self._integration,
            self._result.lane.id,
            event.id,
            event.body,
            change,
            self._rate,
            permitted=self._permitted,
            probe=self._probe,
        )
        if sent.verdict.action == "disable":
            await self._disable(sent.verdict.error)
            raise DeferredError
        return sent

    async def _disable(self, reason: str) -> None:
        try:
            await self._tools.disable(self._integration.alias, reason)
        except StoreUnavailableError:
            raise
        except FlowError as error:  # the next event tries again
            raise DeferredError from error

    def _permitted(self) -> bool:
        if self._stopping():
            return False
        health = self._tools.health.of(self._integration.alias)
        return self._probe or breaker.allowance(health, self._integration.concurrency) > 0

    def _transports(self) -> tuple[str, ...]:
        webhook = () if self._integration.url is None else ("webhook",)
        stream = ("stream",) if self._integration.stream else ()
        return (*webhook, *stream, "pull")


def _failure_of(sent: SentEvent) -> DeliveryFailure | None:
    """Return the failure of an attempt, None after a success."""
    verdict = sent.verdict
    if verdict.action == "done":
        return None
    return DeliveryFailure(
        sent.attempt,
        verdict.reason or "internal",
        verdict.error,
        verdict.retry_after,
        final=verdict.action == "give_up",
    )
