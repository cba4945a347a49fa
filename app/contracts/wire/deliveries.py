"""The JSON shapes of deliveries and dead letters."""

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from app.contracts.deliveries import (
    DeadLetter,
    DeadLetterFilter,
    DeliveryAttempt,
    FailureReason,
    Lane,
    LoggedDelivery,
)
from app.contracts.state import StateId
from app.contracts.wire.times import Time, iso


class AttemptView(Struct, frozen=True, rename="camel"):
    """One attempt. ``reason`` is the side that failed, ``body`` the beginning of the answer if stored."""

    at: Time
    duration_ms: float
    reason: FailureReason | UnsetType = UNSET
    status: int | UnsetType = UNSET
    error: str | UnsetType = UNSET
    body: str | UnsetType = UNSET


class DeadLetterView(Struct, frozen=True, rename="camel"):
    """An event that will not be delivered by itself any more.

    ``event`` and ``attempts`` are those of one letter; lists leave them out. ``event`` is absent too if it
    does not exist any more.
    """

    id: str
    service: str
    flow_id: str
    user_id: str
    epoch: str
    revision: int
    type: str
    at: Time
    died_at: Time
    reason: FailureReason
    detail: str
    redelivering: bool
    attempt_count: int
    entity_id: str | UnsetType = UNSET
    edited_by: str | UnsetType = UNSET
    event: dict[str, Any] | UnsetType = UNSET
    attempts: list[AttemptView] | UnsetType = UNSET


class LettersFilterView(Struct, frozen=True, rename="camel", omit_defaults=True):
    """The filter of exactly the letters of a list: the body of a redelivery or a removal of them."""

    service: str | None = None
    reason: FailureReason | None = None
    type: str | None = None
    flow_id: str | None = None
    user_id: str | None = None
    entity_id: str | None = None
    since: Time | None = None
    until: Time | None = None


class DeliveryView(Struct, frozen=True, rename="camel"):
    """An event of a service.

    ``status``: ``delivered``, or ``dead`` with its ``letter``. A letter that was redelivered is removed.
    ``transition`` is the one with which the receiver answered, ``refused`` the error that refused it.
    """

    id: str
    service: str
    status: Literal["delivered", "dead"]
    flow_id: str
    user_id: str
    epoch: str
    revision: int
    type: str
    at: Time
    entity_id: str | UnsetType = UNSET
    delivered_at: Time | UnsetType = UNSET
    transports: list[str] | UnsetType = UNSET
    attempts: int | UnsetType = UNSET
    response_status: int | UnsetType = UNSET
    replay: bool | UnsetType = UNSET
    transition: str | UnsetType = UNSET
    refused: str | UnsetType = UNSET
    sequence: int | UnsetType = UNSET
    letter: DeadLetterView | UnsetType = UNSET


class FailingView(Struct, frozen=True, rename="camel"):
    """A state whose next event has failed and is tried again at ``nextAttemptAt``."""

    flow_id: str
    user_id: str
    failures: int
    attempts: list[AttemptView]
    entity_id: str | UnsetType = UNSET
    next_attempt_at: Time | UnsetType = UNSET


def attempt_views(attempts: Sequence[DeliveryAttempt]) -> list[AttemptView]:
    """Return the views of attempts."""
    return [
        AttemptView(
            at=iso(each.at),
            duration_ms=each.duration_ms,
            reason=each.reason,
            status=each.status,
            error=each.error,
            body=each.body,
        )
        for each in attempts
    ]


def dead_letter_view(letter: DeadLetter, *, whole: bool) -> DeadLetterView:
    """Return the view of a letter; ``whole``: with its event and attempts."""
    return DeadLetterView(
        id=letter.id,
        service=letter.alias,
        flow_id=letter.state_id.flow_id,
        user_id=letter.state_id.user_id,
        epoch=letter.epoch,
        revision=letter.revision,
        type=letter.type,
        at=iso(letter.at),
        died_at=iso(letter.died_at),
        reason=letter.reason,
        detail=letter.detail,
        redelivering=letter.redelivering,
        attempt_count=len(letter.attempts),
        entity_id=_entity(letter.state_id),
        edited_by=letter.edited_by,
        event=letter.event if whole else UNSET,
        attempts=attempt_views(letter.attempts) if whole else UNSET,
    )


def letters_filter_view(only: DeadLetterFilter) -> LettersFilterView:
    """Return the view of a filter without ids."""
    return LettersFilterView(
        service=only.service,
        reason=only.reason,
        type=only.type,
        flow_id=only.flow_id,
        user_id=only.user_id,
        entity_id=only.entity_id,
        since=None if only.since is None else iso(only.since),
        until=None if only.until is None else iso(only.until),
    )


def delivery_view(logged: LoggedDelivery | None, letter: DeadLetter | None) -> DeliveryView:
    """Return the view of an event in the log, among the dead letters, or in both.

    Raises:
        TypeError: There is neither.
    """
    found = letter or logged
    if found is None:
        raise TypeError("there is no delivery")
    return DeliveryView(
        id=found.id,
        service=found.alias,
        status="delivered" if letter is None else "dead",
        flow_id=found.state_id.flow_id,
        user_id=found.state_id.user_id,
        epoch=found.epoch,
        revision=found.revision,
        type=found.type,
        at=iso(found.at),
        entity_id=_entity(found.state_id),
        letter=UNSET if letter is None else dead_letter_view(letter, whole=True),
        delivered_at=UNSET if logged is None else iso(logged.delivered_at),
        transports=UNSET if logged is None else list(logged.transports),
        attempts=UNSET if logged is None else logged.attempts,
        response_status=UNSET if logged is None else logged.status,
        replay=UNSET if logged is None else logged.replay,
        transition=UNSET if logged is None else logged.answered,
        refused=UNSET if logged is None else logged.refused,
        sequence=UNSET if logged is None else logged.sequence,
    )


def failing_view(lane: Lane) -> FailingView:
    """Return the view of a lane with failed attempts."""
    return FailingView(
        flow_id=lane.id.state_id.flow_id,
        user_id=lane.id.state_id.user_id,
        failures=lane.failures,
        attempts=attempt_views(lane.attempts),
        entity_id=_entity(lane.id.state_id),
        next_attempt_at=UNSET if lane.due_at is None else iso(lane.due_at),
    )


def _entity(state_id: StateId) -> str | UnsetType:
    return UNSET if state_id.instance_id is None else state_id.instance_id
