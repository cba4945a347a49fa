"""Decides what a command makes of a state. Semantics are the base system's flow model."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from msgspec import UNSET, UnsetType, structs

from app.contracts.callers import Caller
from app.contracts.commands import PauseCommand, ResetCommand, SetCommand, StartCommand, TransitionCommand
from app.contracts.definition import FlowDefinition
from app.contracts.errors import (
    Fault,
    FlowStateCorruptionError,
    InvalidRequestError,
    InvalidTransitionError,
    StatePausedError,
)
from app.contracts.flow import Flow, FlowStep, FlowTransition
from app.contracts.state import ENDED, AvailableTransition, FlowState, Payload, Status
from app.flow.conditions.guard_inputs import GuardBudget
from app.flow.permissions import (
    require_runnable,
    require_undo,
    require_undo_guards,
    restricts_roles,
    runnable,
)
from app.flow.values.removal import without


def start(
    definition: FlowDefinition, user_id: str, epoch: str, command: StartCommand, now: datetime
) -> FlowState:
    """A fresh state. It begins at the initial step, or at any named step that exists: the server
    does not ask for ``initial: true``, as the reference's own flows have none."""
    step = _named_step(definition.flow, command.step)
    return FlowState(
        flow=definition.flow.flow,
        user_id=user_id,
        version=definition.version,
        epoch=epoch,
        revision=0,
        **_entering(step, now),
        service=command.service,
        ok=True,
        created_at=now,
        updated_at=now,
        entity_id=command.entity_id,
        payload=command.payload,
    )


def transition(
    definition: FlowDefinition,
    state: FlowState,
    name: str,
    command: TransitionCommand,
    now: datetime,
    caller: Caller | None = None,
) -> FlowState:
    """The state after a transition: payload edited and merged, ``previous`` only if reversible, message
    replaced or cleared; service and entity untouched. ``caller`` None: a timeout runs it, of which nothing
    is asked. Raises InvalidTransitionError, StatePausedError, and what require_runnable raises."""
    require_active(state)
    source = current_step(definition, state)
    chosen = source.transitions.get(name)
    if chosen is None:
        raise _invalid(source, state, name, caller, now)
    if caller is not None:
        require_runnable(chosen, state, command.payload or {}, caller, now)
    target = definition.flow.steps[chosen.step]
    payload = _edited(state.payload, command)
    return structs.replace(
        state,
        revision=state.revision + 1,
        **_entering(target, now),
        previous=source.step if chosen.reversible else UNSET,
        undo_roles=_roles_to_undo(chosen, caller) if chosen.reversible else UNSET,
        ok=command.ok,
        message=command.message,
        payload=payload,
        updated_at=now,
    )


def _edited(present: Payload | UnsetType, command: TransitionCommand | SetCommand) -> Payload | UnsetType:
    """The payload with members removed, then the given one merged into it."""
    if command.remove is not UNSET and present is not UNSET:
        present = without(present, command.remove)
    if command.payload is UNSET:
        return present
    return command.payload if present is UNSET else {**present, **command.payload}


def reset(definition: FlowDefinition, state: FlowState, command: ResetCommand, now: datetime) -> FlowState:
    """The state begun again on ``definition``: progress is dropped (payload, message, previous),
    what it is for stays (service, entity). Raises StatePausedError: a reset would undo the hold."""
    require_active(state)
    step = _named_step(definition.flow, command.step)
    return structs.replace(
        state,
        version=definition.version,
        revision=state.revision + 1,
        **_entering(step, now),
        ok=True,
        previous=UNSET,
        undo_roles=UNSET,
        message=UNSET,
        payload=UNSET,
        updated_at=now,
    )


def replace(definition: FlowDefinition, state: FlowState, command: SetCommand, now: datetime) -> FlowState:
    """The state with every field as the command says; absent ones are gone. The position goes on,
    and so does a hold."""
    step = _named_step(definition.flow, command.step)
    if command.previous is not UNSET:
        _named_step(definition.flow, command.previous, pointer="/previous")
    return structs.replace(
        state,
        version=definition.version,
        revision=state.revision + 1,
        **entering(step, state, now),
        service=command.service,
        ok=command.ok,
        previous=command.previous,
        undo_roles=UNSET,
        entity_id=command.entity_id,
        payload=command.payload if command.remove is UNSET else _edited(state.payload, command),
        message=command.message,
        updated_at=now,
    )


def end(state: FlowState, status: Status, now: datetime) -> FlowState:
    """The last state of an epoch: ``cleared`` or ``expired``, without the user's data."""
    return structs.replace(
        state,
        revision=state.revision + 1,
        status=status,
        updated_at=now,
        payload=UNSET,
        entity_id=UNSET,
        message=UNSET,
        previous=UNSET,
        undo_roles=UNSET,
        pause_reason=UNSET,
        timeout_at=UNSET,
        timeout_left_ms=UNSET,
        expiry_left_ms=UNSET,
    )


def back(definition: FlowDefinition, state: FlowState, now: datetime, caller: Caller) -> FlowState:
    """The state at the step that a reversible transition left, payload as it is. Raises
    InvalidTransitionError when the last transition was not reversible, InsufficientPermissionsError or
    GuardRefusedError when the caller may not undo it."""
    require_active(state)
    source = current_step(definition, state)
    if state.previous is UNSET or state.previous not in definition.flow.steps:
        raise _invalid(source, state, "back", caller, now)
    require_undo(undo_roles(definition, state), caller)
    require_undo_guards(_ways_back(definition, state), state, caller, now)
    target = definition.flow.steps[state.previous]
    return structs.replace(
        state,
        revision=state.revision + 1,
        **_entering(target, now),
        ok=True,
        previous=UNSET,
        undo_roles=UNSET,
        message=UNSET,
        updated_at=now,
    )


def pause(definition: FlowDefinition, state: FlowState, command: PauseCommand, now: datetime) -> FlowState:
    """The state held. Raises InvalidTransitionError when it is completed: nothing is left to hold."""
    if state.status == "completed":
        raise InvalidTransitionError(state.step, "pause", [])
    return structs.replace(
        state,
        revision=state.revision + 1,
        status="paused",
        pause_reason=command.reason,
        updated_at=now,
        **_held(current_step(definition, state), state.timeout_at, now),
        **_expiry_held(state, now),
    )


def resume(definition: FlowDefinition, state: FlowState, now: datetime) -> FlowState:
    """The state released."""
    return structs.replace(
        state,
        revision=state.revision + 1,
        status=_status(current_step(definition, state)),
        pause_reason=UNSET,
        updated_at=now,
        **_released(state, now),
        **_expiry_released(state, now),
    )


def stop_expiry(state: FlowState, now: datetime) -> FlowState:
    """A paused state with its expiry stopped, for one that a version before 0.5 paused: what was left at
    its last change is waited after the resumption."""
    return structs.replace(
        state, revision=state.revision + 1, updated_at=now, **_expiry_held(state, state.updated_at)
    )


def recover(last: FlowState, epoch: str, revision: int, now: datetime) -> FlowState:
    """The state as it was last known, in a position of its own. Its step's timeout goes on."""
    return structs.replace(last, epoch=epoch, revision=revision, updated_at=now)


def fault_of(definition: FlowDefinition, state: FlowState) -> str | None:
    """Describe what in a state does not fit its definition; None if all does."""
    if state.status in ENDED:
        return None
    step = definition.flow.steps.get(state.step)
    if step is None:
        return f"step {state.step} is not in version {definition.version} of the flow"
    if state.status not in ("paused", _status(step)):
        return f"it is {state.status} at step {state.step}"
    if state.previous is not UNSET and state.previous not in definition.flow.steps:
        return f"its previous step {state.previous} is not in version {definition.version} of the flow"
    return None


def timeout(definition: FlowDefinition, state: FlowState, now: datetime) -> tuple[str, FlowState] | None:
    """The transition that the step's timeout runs now, and the state after it; None when none is due."""
    if state.status != "active" or state.timeout_at is UNSET or state.timeout_at > now:
        return None
    due = current_step(definition, state).timeout
    if due is None:
        return None
    return due.transition, transition(definition, state, due.transition, TransitionCommand(), now)


def undo_roles(definition: FlowDefinition, state: FlowState) -> tuple[str, ...] | UnsetType:
    """The roles that may undo the last transition: a caller needs one of them. UNSET: no role is required;
    empty: only an administrator may.

    The state has the roles of the transition that ran. Where it does not (a version before 0.5 ran it, or an
    administrator set ``previous``), the definition says them: those of the transitions between the two steps.
    """
    if state.undo_roles is not UNSET or state.previous is UNSET:
        return state.undo_roles
    left = definition.flow.steps.get(state.previous)
    ways = [] if left is None else [way for way in left.transitions.values() if way.step == state.step]
    if not ways:
        return () if restricts_roles(definition.flow) else UNSET
    if any(way.roles is None for way in ways):
        return UNSET
    return tuple(sorted({role for way in ways for role in way.roles or ()}))


def _ways_back(definition: FlowDefinition, state: FlowState) -> list[FlowTransition]:
    """The transitions that may have led from ``previous`` to the state's step, by the roles it stores."""
    left = definition.flow.steps.get(state.previous) if state.previous is not UNSET else None
    ran = None if state.undo_roles is UNSET else list(state.undo_roles)
    ways = () if left is None else left.transitions.values()
    return [way for way in ways if way.step == state.step and way.reversible and way.roles == ran]


def _roles_to_undo(chosen: FlowTransition, caller: Caller | None) -> tuple[str, ...] | UnsetType:
    """The roles that undoing a transition requires: those that running it did. What a timeout ran only an
    administrator may undo."""
    if caller is None:
        return ()
    return UNSET if chosen.roles is None else tuple(chosen.roles)


def require_active(state: FlowState) -> None:
    """Raise StatePausedError when an administrator holds the state."""
    if state.status == "paused":
        reason = state.pause_reason
        raise StatePausedError(state.flow, "" if reason is UNSET else reason)


def with_transitions(
    definition: FlowDefinition,
    state: FlowState,
    caller: Caller,
    now: datetime,
    budget: GuardBudget | None = None,
) -> FlowState:
    """The state with the transitions that the caller may run now, in the author's order, and with the roles
    that may undo the last one. ``budget``: what the guards may cost together with those of other states."""
    step = current_step(definition, state)
    state = structs.replace(state, undo_roles=undo_roles(definition, state))
    if state.status == "paused":
        return state
    shown = (
        AvailableTransition(
            transition=t.transition, step=t.step, explicit=t.explicit, reversible=t.reversible
        )
        for t in runnable(step.transitions.values(), state, caller, now, budget or GuardBudget())
    )
    return structs.replace(state, transitions=tuple(shown))


def _invalid(
    step: FlowStep, state: FlowState, name: str, caller: Caller | None, now: datetime
) -> InvalidTransitionError:
    found = step.transitions.values()
    allowed: Iterable[FlowTransition] = (
        found if caller is None else runnable(found, state, caller, now, GuardBudget())
    )
    return InvalidTransitionError(state.step, name, [transition.transition for transition in allowed])


def current_step(definition: FlowDefinition, state: FlowState) -> FlowStep:
    """The step that the state is at. Raises FlowStateCorruptionError when the state does not fit its
    definition."""
    fault = fault_of(definition, state)
    if fault is not None:
        raise FlowStateCorruptionError(state.user_id, state.flow, fault)
    return definition.flow.steps[state.step]


def entering(step: FlowStep, state: FlowState, now: datetime) -> dict[str, Any]:
    """The changes when a state is put at a step, whatever it is at: a hold goes on."""
    entered = _entering(step, now)
    if state.status == "paused":
        entered = {**entered, **_held(step, entered["timeout_at"], now), "status": "paused"}
    return entered


def _named_step(flow: Flow, name: str | None, pointer: str = "/step") -> FlowStep:
    step = flow.steps.get(flow.initial_step if name is None else name)
    if step is None:
        listed = ", ".join(flow.steps)
        raise InvalidRequestError([Fault(pointer, f"the flow has no step {name!r}; it has {listed}")])
    return step


def _entering(step: FlowStep, now: datetime) -> dict[str, Any]:
    """The changes that come with a step: the status, and when its timeout is due."""
    return {
        "step": step.step,
        "status": _status(step),
        "timeout_at": UNSET if step.timeout is None else now + step.timeout.after,
        "timeout_left_ms": UNSET,
    }


def _held(step: FlowStep, timeout_at: datetime | UnsetType, now: datetime) -> dict[str, Any]:
    """The change of the step's timeout in a pause."""
    if step.timeout is None or timeout_at is UNSET:
        return {}
    if step.timeout.resume == "absolute":
        return {"timeout_at": timeout_at}
    left = step.timeout.after if step.timeout.resume == "restart" else max(timeout_at - now, timedelta(0))
    return {"timeout_at": UNSET, "timeout_left_ms": milliseconds(left)}


def _released(state: FlowState, now: datetime) -> dict[str, Any]:
    if state.timeout_left_ms is UNSET:
        return {}
    return {"timeout_at": now + timedelta(milliseconds=state.timeout_left_ms), "timeout_left_ms": UNSET}


def _expiry_held(state: FlowState, since: datetime) -> dict[str, Any]:
    """The change of the expiry in a pause: the time that was left ``since`` is waited after the
    resumption."""
    if state.expires_at is UNSET:
        return {}
    left = max(state.expires_at - since, timedelta(0))
    return {"expires_at": UNSET, "expiry_left_ms": milliseconds(left)}


def _expiry_released(state: FlowState, now: datetime) -> dict[str, Any]:
    stopped = _expiry_held(state, state.updated_at)  # paused by a version before 0.5, else nothing
    left = stopped.get("expiry_left_ms", state.expiry_left_ms)
    if left is UNSET:
        return {}
    return {"expires_at": now + timedelta(milliseconds=left), "expiry_left_ms": UNSET}


def milliseconds(duration: timedelta) -> int:
    """A duration in whole milliseconds, as a state stores it."""
    return round(duration / timedelta(milliseconds=1))


def _status(step: FlowStep) -> Status:
    return "active" if step.transitions else "completed"
