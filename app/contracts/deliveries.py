"""Deliveries of events to integrations: lanes, attempts, the log, and dead letters."""

from datetime import datetime
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from app.contracts.state import StateId

FailureReason = Literal["receiver", "internal", "refused_address", "too_large", "expired"]
"""The side that failed. ``receiver``: it failed or refused. ``internal``: this service, as by an encoding.
``refused_address``: its address is not public. ``too_large``: the event exceeds the limit of the transport.
``expired``: the record of the event is not in the history any more."""


class LanePosition(Struct, frozen=True, order=True):
    """A position among the changes of a state, over all its epochs."""

    epoch: str
    revision: int


class LaneId(Struct, frozen=True, order=True):
    """The identity of a lane: the events of one state for one integration, delivered in order.

    ``job`` is empty for the lane of all events to come; a replay or a redelivery has a lane of its own, which
    ends.
    """

    alias: str
    state_id: StateId
    job: str = ""

    @property
    def key(self) -> str:
        """The identity as one text; an alias and a job have no semicolon."""
        return f"{self.alias};{self.job};{self.state_id.key}"


class DeliveryAttempt(Struct, frozen=True, omit_defaults=True):
    """One attempt to deliver an event.

    Attributes:
        at: Its beginning.
        duration_ms: Its duration in milliseconds.
        reason: The side that failed, absent after a success.
        status: The HTTP status of the answer, absent if there was none.
        error: The failure as a text without addresses, absent after a success.
        body: The beginning of the answer, stored only if that is switched on.
    """

    at: datetime
    duration_ms: float
    reason: FailureReason | UnsetType = UNSET
    status: int | UnsetType = UNSET
    error: str | UnsetType = UNSET
    body: str | UnsetType = UNSET


class Mark(Struct, frozen=True):
    """Notes that a change of a state concerns an integration: its lane has work.

    Attributes:
        alias: The integration.
        state_id: The state.
        position: The position of the change.
        since: The time from which on a new lane delivers, that of the registration.
        waits_since: The time from which on the state waits at a step of the integration, None if it does not.
        stays: The change did not make it wait: if the lane notes that it waits already, that time remains.
    """

    alias: str
    state_id: StateId
    position: LanePosition
    since: datetime
    waits_since: datetime | None = None
    stays: bool = False


class Lane(Struct, frozen=True, kw_only=True):
    """The stored position of an integration in the changes of a state.

    Attributes:
        id: The identity.
        since: Changes before this time are not delivered.
        cursor: The last change that is done; None: none yet.
        newest: The newest change that was marked.
        end: The last change that a job delivers; None for the lane of all to come.
        letter: The dead letter that a job delivers, instead of changes.
        failures: Failed attempts at the next event that count against its schedule.
        attempts: The last attempts at the next event, oldest first.
        holder: The dispatcher that has claimed the lane; "" if none has.
        due_at: The time at which the lane has work, or at which a claim ends; None: it is idle.
    """

    id: LaneId
    since: datetime
    newest: LanePosition
    cursor: LanePosition | None = None
    end: LanePosition | None = None
    letter: str | None = None
    failures: int = 0
    attempts: tuple[DeliveryAttempt, ...] = ()
    holder: str = ""
    due_at: datetime | None = None


class LaneUpdate(Struct, frozen=True, kw_only=True):
    """The result of working on a claimed lane. It releases the claim.

    Attributes:
        lane: The lane, as it was claimed.
        cursor: The last change that is done.
        due_at: The time of the next attempt; None: the lane has no more work, as far as ``lane.newest``.
        failures: Failed attempts at the next event.
        attempts: The last attempts at the next event.
    """

    lane: Lane
    cursor: LanePosition | None
    due_at: datetime | None
    failures: int = 0
    attempts: tuple[DeliveryAttempt, ...] = ()


class LoggedDelivery(Struct, frozen=True, kw_only=True):
    """A delivery that is done, in the log of its integration.

    Attributes:
        id: The id of the event, ``evt_`` and a UUIDv7; the same for every attempt and replay.
        alias: The integration.
        state_id: The state.
        epoch: With ``revision``, the position of the change.
        revision: The revision of that position.
        type: The type of the event.
        at: The time of the change.
        delivered_at: The time of the delivery.
        transports: The ways it went: ``webhook``, ``stream``, ``pull``.
        attempts: The number of attempts.
        status: The HTTP status of the last answer.
        replay: It was a replay.
        answered: The transition with which the receiver answered.
        refused: The code of the error by which that transition was refused.
        sequence: The place in the log, without gaps; 0 before it is appended.
    """

    id: str
    alias: str
    state_id: StateId
    epoch: str
    revision: int
    type: str
    at: datetime
    delivered_at: datetime
    transports: tuple[str, ...]
    attempts: int = 1
    status: int | UnsetType = UNSET
    replay: bool = False
    answered: str | UnsetType = UNSET
    refused: str | UnsetType = UNSET
    sequence: int = 0


class DeadLetter(Struct, frozen=True, kw_only=True):
    """An event that will not be delivered by itself any more.

    Attributes:
        id: The id of the event.
        alias: The integration.
        state_id: The state.
        epoch: With ``revision``, the position of the change.
        revision: The revision of that position.
        type: The type of the event.
        at: The time of the change.
        died_at: The time at which it was given up.
        reason: The side that failed.
        detail: The last failure as a text.
        event: The event, as it would be sent; an operator may have edited it. Absent if there is none.
        edited_by: Who edited it, absent if nobody did.
        attempts: All attempts, oldest first.
        redelivering: A redelivery is on its way.
    """

    id: str
    alias: str
    state_id: StateId
    epoch: str
    revision: int
    type: str
    at: datetime
    died_at: datetime
    reason: FailureReason
    detail: str
    event: dict[str, Any] | UnsetType = UNSET
    edited_by: str | UnsetType = UNSET
    attempts: tuple[DeliveryAttempt, ...] = ()
    redelivering: bool = False


class DeadLetterFilter(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A filter of dead letters; None matches any value. ``since`` is inclusive, ``until`` exclusive.

    Both are times at which letters were given up.
    """

    service: str | None = None
    reason: FailureReason | None = None
    type: str | None = None
    flow_id: str | None = None
    user_id: str | None = None
    entity_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    ids: tuple[str, ...] | None = None


class WaitingState(Struct, frozen=True):
    """A state that waits at a step of an integration, as its lane notes it."""

    state_id: StateId
    since: datetime
    place: str
    """Its place in the list, by which the next page begins."""
