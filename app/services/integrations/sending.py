"""Sends one event to the webhook of an integration, and runs the transition that it answers."""

import asyncio
from collections.abc import Callable
from datetime import datetime

import structlog
from msgspec import UNSET, Struct, UnsetType, structs

from app.contracts.callers import service_caller
from app.contracts.commands import Origin
from app.contracts.deliveries import DeliveryAttempt, LaneId, LanePosition
from app.contracts.errors import FlowError, InternalError, RevisionConflictError
from app.contracts.integration import Integration
from app.contracts.ports.clock import Clock
from app.contracts.ports.states import IDEMPOTENCY_WINDOW
from app.contracts.ports.transports import WebhookAnswer, WebhookTransport
from app.contracts.positions import ExpectedPosition
from app.contracts.state import StateId
from app.services.integrations.breaker import Outcome, fingerprint
from app.services.integrations.health import SharedHealth
from app.services.integrations.send_limits import ClosingError, RateAllowance, SendLimits
from app.services.integrations.verdict import AnsweredTransition, Verdict, judge
from app.services.states.history import HistoryReader
from app.services.states.operations import StateOperations
from config.log import describe

log = structlog.get_logger("deliveries")

MAX_SECONDS = 17.0
"""Longer than any transport takes; one that does not end is given up."""
MAX_STORED_ANSWER = 1000
MAX_LOCAL_STATUS = 500
"""Errors below it are refusals of the answered transition, others are failures of this service."""
CLIENT = "webhook"


class DeferredError(Exception):
    """Nothing may be sent to the integration now; no attempt was made."""


class DeliveredChange(Struct, frozen=True):
    """The position of a change, and its time; None if it is not known."""

    position: LanePosition
    at: datetime | None


class SentEvent(Struct, frozen=True):
    """An attempt, and what came of it."""

    attempt: DeliveryAttempt
    verdict: Verdict

    @property
    def answered(self) -> str | UnsetType:
        """The transition that the receiver answered."""
        return UNSET if self.verdict.answered is None else self.verdict.answered.transition


class EventSender:
    """Sends events within the limits of a worker and the breakers of integrations.

    Args:
        webhooks: The transport.
        operations: Runs answered transitions.
        history: Has those that ran before.
        limits: The senders of this worker.
        health: The breakers.
        clock: The present time.
        store_answers: Attempts have the beginning of answers.
    """

    def __init__(
        self,
        webhooks: WebhookTransport,
        operations: StateOperations,
        history: HistoryReader,
        limits: SendLimits,
        health: SharedHealth,
        clock: Clock,
        *,
        store_answers: bool,
    ) -> None:
        self._webhooks = webhooks
        self._operations = operations
        self._history = history
        self._limits = limits
        self._health = health
        self._clock = clock
        self._store_answers = store_answers

    async def send(
        self,
        integration: Integration,
        lane_id: LaneId,
        event_id: str,
        body: bytes,
        change: DeliveredChange,
        rate: RateAllowance,
        *,
        permitted: Callable[[], bool],
        probe: bool,
    ) -> SentEvent:
        """Send an event, and return what came of it.

        Args:
            integration: The receiver.
            lane_id: The lane of the event.
            event_id: The id of the event.
            body: The event as it is sent.
            change: The change that it is of.
            rate: The rate of the integration.
            permitted: Returns whether the event may still be sent, after it has waited for its turn.
            probe: It is the probe of an open breaker.

        Raises:
            DeferredError: It may not be sent any more.
            StoreUnavailableError: The rate cannot be read.
        """
        await self._begin(integration, rate, permitted)
        loop, began, at = asyncio.get_running_loop(), 0.0, self._clock.now()
        try:
            began = loop.time()
            answer = await self._request(integration, event_id, body)
        finally:
            self._limits.give_back(integration.alias)
        duration_ms = round((loop.time() - began) * 1000, 1)
        verdict = judge(answer)
        await self._report(integration, lane_id, verdict, probe=probe)
        verdict = await self._act(integration.alias, lane_id.state_id, event_id, change, verdict)
        attempt = DeliveryAttempt(
            at=at,
            duration_ms=duration_ms,
            reason=verdict.reason or UNSET,
            status=UNSET if answer.status is None else answer.status,
            error=verdict.error or UNSET,
            body=self._stored_answer(answer),
        )
        return SentEvent(attempt, verdict)

    async def _begin(
        self, integration: Integration, rate: RateAllowance, permitted: Callable[[], bool]
    ) -> None:
        """Take a sender and a request of the rate."""
        alias = integration.alias
        async with rate.turn(integration):
            if not permitted():
                raise DeferredError
            try:
                await self._limits.take(alias)
            except ClosingError:
                raise DeferredError from None
            try:
                if permitted():
                    await rate.take(integration)
                if not permitted():
                    raise DeferredError
            except BaseException:
                self._limits.give_back(alias)
                raise

    async def _request(self, integration: Integration, event_id: str, body: bytes) -> WebhookAnswer:
        try:
            async with asyncio.timeout(MAX_SECONDS):
                return await self._webhooks.send(integration, event_id, body)
        except TimeoutError:
            return WebhookAnswer(failure="receiver", error="the receiver did not answer in time")
        except Exception as error:  # noqa: BLE001 - a defect of the transport must not end the lane
            log.error("webhook transport failed", service=integration.alias, **describe(error))
            return WebhookAnswer(failure="internal", error="the transport failed")

    async def _report(
        self, integration: Integration, lane_id: LaneId, verdict: Verdict, *, probe: bool
    ) -> None:
        """Report an outcome to the breaker; a probe that failed on our side proves nothing."""
        if verdict.result is not None:
            outcome = Outcome(verdict.result, fingerprint(lane_id), verdict.error, verdict.retry_after)
        elif probe:
            outcome = Outcome("abandoned")
        else:
            return
        await self._health.report(integration, outcome)

    async def _act(
        self, alias: str, state_id: StateId, event_id: str, change: DeliveredChange, verdict: Verdict
    ) -> Verdict:
        """Run the answered transition, once for each event. Its failure is ours, a refusal is noted."""
        if verdict.answered is None:
            return verdict
        try:
            refused = await self._run(alias, state_id, event_id, change, verdict.answered)
        except FlowError as error:
            return structs.replace(
                verdict,
                action="retry",
                reason="internal",
                error=f"the answered transition failed: {error.code}",
                retry_after=error.retry_after,
            )
        return structs.replace(verdict, refused=refused)

    async def _run(
        self,
        alias: str,
        state_id: StateId,
        event_id: str,
        change: DeliveredChange,
        answered: AnsweredTransition,
    ) -> str | UnsetType:
        """Run the answered transition, and return the code of a refusal.

        An answer is about the life of the state that the event is of, so it moves no later one on.

        Raises:
            FlowError: It may succeed later.
        """
        caller = service_caller(alias)
        expected = ExpectedPosition(None, change.position.epoch)
        origin = Origin(caller, request_id=event_id, client=CLIENT, expected=expected)
        try:
            if await self._has_run(state_id, origin, change):
                return UNSET
            await self._operations.transition(
                state_id.user_id,
                state_id.flow_id,
                answered.transition,
                answered.payload,
                origin,
                entity_id=state_id.instance_id,
            )
        except FlowError as error:
            may_succeed = error.retryable and not _is_of_other_life(error, change.position.epoch)
            if may_succeed or error.status >= MAX_LOCAL_STATUS:
                raise
            log.info("answered transition refused", service=alias, event_id=event_id, code=error.code)
            return error.code
        except Exception as error:
            log.error("answered transition failed", service=alias, event_id=event_id, **describe(error))
            raise InternalError from error
        return UNSET

    async def _has_run(self, state_id: StateId, origin: Origin, change: DeliveredChange) -> bool:
        """Return whether an answer to an old event has run; its repeat would not be recognised any more."""
        if change.at is None or self._clock.now() - change.at < IDEMPOTENCY_WINDOW:
            return False
        return await self._history.has_request(state_id, origin, change.at)

    def _stored_answer(self, answer: WebhookAnswer) -> str | UnsetType:
        if not self._store_answers or not answer.body:
            return UNSET
        return answer.body[:MAX_STORED_ANSWER].decode(errors="replace")


def _is_of_other_life(error: FlowError, epoch: str) -> bool:
    """Return whether a transition was refused as the state has ended since ``epoch``, or has begun anew."""
    if not isinstance(error, RevisionConflictError):
        return False
    return error.state is None or error.state.epoch != epoch
