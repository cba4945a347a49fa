"""Decides what a command makes of a state. Semantics are the base system's flow model."""

from datetime import datetime

from msgspec import UNSET, structs

from app.contracts.command import ResetCommand, SetCommand, StartCommand, TransitionCommand
from app.contracts.definition import FlowDefinition
from app.contracts.errors import (
    Fault,
    FlowStateCorruptionError,
    InvalidRequestError,
    InvalidTransitionError,
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
    replaced or cleared; service and entity untouched. Raises InvalidTransitionError."""
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
    what it is for stays (service, entity)."""
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
    """The state with every field as the command says; absent ones are gone. The position goes on."""
    step = _named_step(definition.flow, command.step)
    if command.previous is not UNSET:
        _named_step(definition.flow, command.previous, pointer="/previous")
    return structs.replace(
        state,
        version=definition.version,
        revision=state.revision + 1,
        status=_status(step),
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


def with_transitions(definition: FlowDefinition, state: FlowState) -> FlowState:
    """The state with the transitions that may run now, in the author's order."""
    runnable = (
        AvailableTransition(
            transition=t.transition, step=t.step, explicit=t.explicit, reversible=t.reversible
        )
        for t in current_step(definition, state).transitions.values()
    )
    return structs.replace(state, transitions=tuple(runnable))


def next_transition(state: FlowState) -> AvailableTransition | None:
    """The transition that happens without a choice: the first that is not ``explicit``."""
    return next((t for t in state.transitions if not t.explicit), None)


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
