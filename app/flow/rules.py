"""Decides what a command makes of a state. Semantics are the base system's flow model."""

from datetime import datetime

from msgspec import UNSET, structs

from app.contracts.command import PauseCommand, ResetCommand, SetCommand, StartCommand, TransitionCommand
from app.contracts.definition import FlowDefinition
from app.contracts.errors import (
    Fault,
    FlowStateCorruptionError,
    InvalidRequestError,
    InvalidTransitionError,
    StatePausedError,
)
from app.contracts.flow import Flow, FlowStep
from app.contracts.state import AvailableTransition, FlowState, Status


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
        status=_status(step),
        step=step.step,
        service=command.service,
        ok=True,
        created_at=now,
        updated_at=now,
        entity_id=command.entity_id,
        payload=command.payload,
    )


def transition(
    definition: FlowDefinition, state: FlowState, name: str, command: TransitionCommand, now: datetime
) -> FlowState:
    """The state after a transition: payload merged, ``previous`` only if reversible, message
    replaced or cleared; service and entity untouched. Raises InvalidTransitionError,
    StatePausedError."""
    require_active(state)
    source = current_step(definition, state)
    chosen = source.transitions.get(name)
    if chosen is None:
        raise InvalidTransitionError(state.step, name, list(source.transitions))
    target = definition.flow.steps[chosen.step]
    payload = state.payload
    if command.payload is not UNSET:
        payload = command.payload if payload is UNSET else {**payload, **command.payload}
    return structs.replace(
        state,
        revision=state.revision + 1,
        status=_status(target),
        step=target.step,
        previous=source.step if chosen.reversible else UNSET,
        ok=command.ok,
        message=command.message,
        payload=payload,
        updated_at=now,
    )


def reset(definition: FlowDefinition, state: FlowState, command: ResetCommand, now: datetime) -> FlowState:
    """The state begun again on ``definition``: progress is dropped (payload, message, previous),
    what it is for stays (service, entity). Raises StatePausedError: a reset would undo the hold."""
    require_active(state)
    step = _named_step(definition.flow, command.step)
    return structs.replace(
        state,
        version=definition.version,
        revision=state.revision + 1,
        status=_status(step),
        step=step.step,
        ok=True,
        previous=UNSET,
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
        status="paused" if state.status == "paused" else _status(step),
        step=step.step,
        service=command.service,
        ok=command.ok,
        previous=command.previous,
        entity_id=command.entity_id,
        payload=command.payload,
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
        message=UNSET,
        previous=UNSET,
    )


def back(definition: FlowDefinition, state: FlowState, now: datetime) -> FlowState:
    """The state at the step that a reversible transition left, payload as it is. Raises
    InvalidTransitionError when the last transition was not reversible."""
    require_active(state)
    source = current_step(definition, state)
    if state.previous is UNSET or state.previous not in definition.flow.steps:
        raise InvalidTransitionError(state.step, "back", list(source.transitions))
    target = definition.flow.steps[state.previous]
    return structs.replace(
        state,
        revision=state.revision + 1,
        status=_status(target),
        step=target.step,
        ok=True,
        previous=UNSET,
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
    )


def resume(definition: FlowDefinition, state: FlowState, now: datetime) -> FlowState:
    """The state released."""
    return structs.replace(
        state,
        revision=state.revision + 1,
        status=_status(current_step(definition, state)),
        pause_reason=UNSET,
        updated_at=now,
    )


def require_active(state: FlowState) -> None:
    """Raise StatePausedError when an administrator holds the state."""
    if state.status == "paused":
        reason = state.pause_reason
        raise StatePausedError(state.flow, "" if reason is UNSET else reason)


def with_transitions(definition: FlowDefinition, state: FlowState) -> FlowState:
    """The state with the transitions that may run now, in the author's order."""
    step = current_step(definition, state)
    if state.status == "paused":
        return state
    runnable = (
        AvailableTransition(
            transition=t.transition, step=t.step, explicit=t.explicit, reversible=t.reversible
        )
        for t in step.transitions.values()
    )
    return structs.replace(state, transitions=tuple(runnable))


def current_step(definition: FlowDefinition, state: FlowState) -> FlowStep:
    """The step that the state is at. Raises FlowStateCorruptionError when there is none such."""
    step = definition.flow.steps.get(state.step)
    if step is None:
        raise FlowStateCorruptionError(
            state.user_id,
            state.flow,
            f"step {state.step} is not in version {definition.version} of the flow",
        )
    return step


def _named_step(flow: Flow, name: str | None, pointer: str = "/step") -> FlowStep:
    step = flow.steps.get(flow.initial_step if name is None else name)
    if step is None:
        listed = ", ".join(flow.steps)
        raise InvalidRequestError([Fault(pointer, f"the flow has no step {name!r}; it has {listed}")])
    return step


def _status(step: FlowStep) -> Status:
    return "active" if step.transitions else "completed"
