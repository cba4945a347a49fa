"""The JSON shapes of states and of events about them, camelCase, times as text."""

from collections.abc import Callable
from datetime import datetime
from operator import attrgetter
from typing import Any, Literal, get_args

from msgspec import UNSET, Raw, Struct, UnsetType, convert, json, structs

from app.contracts.people import Participant, TransitionBy
from app.contracts.record import HistoryRecord
from app.contracts.results import CaughtUp
from app.contracts.state import AvailableTransition, FlowState, Payload, Status
from app.contracts.wire.times import Time, iso


class ClaimView(Struct, frozen=True, rename="camel"):
    """A claim in an answer: ``user_id`` alone of those with ``role`` may act, until ``until``."""

    role: str
    user_id: str
    until: Time


class StateView(Struct, frozen=True, rename="camel"):
    """A state in an answer.

    ``transitions`` are those that the caller may run now. Callers with one of ``undo_roles`` may go back to
    ``previous``; absent: all callers who may act on the state, empty: administrators only. With
    ``instances``, ``many``, ``entity_id`` is a part of the state's identity, otherwise a label.
    ``participants``, ``claims`` and ``votes`` are those of people; ``votes`` are cast at this step,
    ``runs`` are those of transitions that a rule of the flow refers to. ``masked`` are JSON pointers to
    places of the payload with parts that the caller may not see: the part itself, or the object or list that
    lacks some of its members.
    """

    flow: str
    step: str
    service: str
    ok: bool
    user_id: str
    version: int
    epoch: str
    revision: int
    status: Status
    created_at: Time
    updated_at: Time
    transitions: tuple[AvailableTransition, ...]
    previous: str | UnsetType = UNSET
    undo_roles: tuple[str, ...] | UnsetType = UNSET
    entity_id: str | UnsetType | None = UNSET
    payload: Payload | UnsetType = UNSET
    message: str | UnsetType = UNSET
    expires_at: Time | UnsetType = UNSET
    pause_reason: str | UnsetType = UNSET
    timeout_at: Time | UnsetType = UNSET
    instances: Literal["many"] | UnsetType = UNSET
    participants: tuple[Participant, ...] | UnsetType = UNSET
    claims: tuple[ClaimView, ...] | UnsetType = UNSET
    votes: tuple[TransitionBy, ...] | UnsetType = UNSET
    runs: tuple[TransitionBy, ...] | UnsetType = UNSET
    masked: tuple[str, ...] | UnsetType = UNSET


class StateUpdatedEvent(StateView, frozen=True, rename="camel", kw_only=True):
    """The body of ``flow-state-updated``: the state and the change that led to it."""

    kind: str
    transition: str
    from_step: str
    actor: str
    at: Time


class FlowUpdatedEvent(Struct, frozen=True, rename="camel", kw_only=True):
    """The body of ``flow-updated``: a user's state in a watched flow, and the change that led to it.

    ``entity_id`` is present if the user has many states in the flow.
    """

    user_id: str
    flow_id: str
    entity_id: str | UnsetType = UNSET
    state: StateView
    kind: str
    transition: str
    from_step: str
    actor: str
    at: Time


class CaughtUpView(Struct, frozen=True, rename="camel"):
    """The answer to a request to catch up.

    ``complete``: ``events`` (bodies of ``flow-state-updated``) are all changes after the client's position,
    oldest first. Otherwise the client starts again with ``state``.
    """

    state: StateView | None
    events: tuple[StateUpdatedEvent, ...]
    complete: bool


NOT_SHOWN = ("timeout_left_ms", "expiry_left_ms", "awaits", "people", "search_terms")
"""Members of a state that no view has; every other one is a member of StateView."""

_SOURCES = {"entity_id": "entity", "instances": "instances"}
"""Members of StateView that are not those of a state with the same name."""
_TYPES = {field.name: field.type for field in structs.fields(FlowState)}
_TIMES = tuple(
    index
    for index, name in enumerate(StateView.__struct_fields__)
    if name not in _SOURCES and datetime in (_TYPES[name], *get_args(_TYPES[name]))
)
_CLAIMS = StateView.__struct_fields__.index("claims")
_read_members: Callable[[FlowState], tuple[Any, ...]] = attrgetter(
    *(_SOURCES.get(name, name) for name in StateView.__struct_fields__)
)


def _state_members(state: FlowState) -> list[Any]:
    """Return the values of StateView's members in their order, with times as text."""
    members = list(_read_members(state))
    for index in _TIMES:
        if members[index] is not UNSET:
            members[index] = iso(members[index])
    if state.claims is not UNSET:
        members[_CLAIMS] = tuple(ClaimView(each.role, each.user_id, iso(each.until)) for each in state.claims)
    return members


def state_view(state: FlowState) -> StateView:
    """Return the view of a state."""
    return StateView(*_state_members(state))


def state_of_view(view: StateView) -> FlowState:
    """Return the state in a view, which lacks the members of ``NOT_SHOWN``."""
    members = {name: getattr(view, name, UNSET) for name in FlowState.__struct_fields__}
    if view.instances is not UNSET:
        members |= {"instance_id": view.entity_id, "entity_id": UNSET}
    given = {name: value for name, value in members.items() if value is not UNSET}
    return convert(given, FlowState, from_attributes=True)


def state_updated_event(state: FlowState, record: HistoryRecord) -> StateUpdatedEvent:
    """Return the event about a committed change: the state that it led to, and the change."""
    return StateUpdatedEvent(
        *_state_members(state),
        kind=record.kind,
        transition=record.transition,
        from_step=record.from_step,
        actor=record.actor,
        at=iso(record.timestamp),
    )


def state_of_event(update: StateUpdatedEvent) -> StateView:
    """Return the state of an event, without the change that led to it."""
    return StateView(**{name: getattr(update, name) for name in StateView.__struct_fields__})


def flow_updated_event(body: Raw) -> FlowUpdatedEvent:
    """Return the event for watchers of the flow, from the body of ``flow-state-updated``."""
    update = json.decode(body, type=StateUpdatedEvent)
    return FlowUpdatedEvent(
        user_id=update.user_id,
        flow_id=update.flow,
        entity_id=UNSET if update.instances is UNSET else update.entity_id or UNSET,
        state=state_of_event(update),
        kind=update.kind,
        transition=update.transition,
        from_step=update.from_step,
        actor=update.actor,
        at=update.at,
    )


def caught_up_view(found: CaughtUp) -> dict[str, Any]:
    """Return a CaughtUpView whose events are encoded already."""
    return {
        "state": None if found.state is None else state_view(found.state),
        "events": [event.body for event in found.events],
        "complete": found.complete,
    }
