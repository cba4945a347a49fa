"""Applies commands to states, as the base system's flow model defines them."""

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from msgspec import UNSET, structs

from app.contracts.callers import Caller
from app.contracts.commands import PauseCommand, ResetCommand, SetCommand, StartCommand, TransitionCommand
from app.contracts.definition import FlowDefinition
from app.contracts.errors import (
    Fault,
    InvalidRequestError,
    InvalidTransitionError,
)
from app.contracts.flow import Flow, FlowStep, FlowTransition
from app.contracts.state import AvailableTransition, FlowState, StateId, Status
from app.flow.conditions.guard_inputs import GuardBudget
from app.flow.people import steps as people
from app.flow.people.approvals import has_voted, is_decided, vote
from app.flow.people.participants import awaited_roles, first_participants
from app.flow.permissions import require_runnable, require_undo, require_undo_guards, runnable
from app.flow.position import current_step, require_active
from app.flow.timers import (
    entry_changes,
    pause_expiry,
    pause_timeout,
    placement_changes,
    resume_expiry,
    resume_timeout,
    status_at,
)
from app.flow.undo import roles_to_undo, undo_roles, undone_candidates
from app.flow.values.masking import Mask
from app.flow.values.payload import edit_payload


def start(
    definition: FlowDefinition, state_id: StateId, epoch: str, command: StartCommand, now: datetime
) -> FlowState:
    """Return a new state at the initial step, or at the step that the command names.

    The named step need not have ``initial: true``, as the reference's own flows have no such step. A state
    that is one of many has its entity by ``state_id``, any other one by the command. Permission to name
    participants is not checked (``require_assignable``).

    Raises:
        InvalidRequestError: The flow has no such step, or its roles do not allow the participants.
    """
    flow, instance_id = definition.flow, state_id.instance_id
    step = _named_step(flow, command.step)
    participants = first_participants(flow, command)
    return FlowState(
        flow=flow.flow,
        user_id=state_id.user_id,
        version=definition.version,
        epoch=epoch,
        revision=0,
        **entry_changes(step, now),
        service=command.service,
        ok=True,
        created_at=now,
        updated_at=now,
        entity_id=command.entity_id if instance_id is None else UNSET,
        payload=command.payload,
        instance_id=UNSET if instance_id is None else instance_id,
        participants=participants,
        awaits=awaited_roles(flow, step, participants),
    )


def transition(
    definition: FlowDefinition,
    state: FlowState,
    name: str,
    command: TransitionCommand,
    now: datetime,
    caller: Caller | None = None,
    mask: Mask | None = None,
) -> FlowState:
    """Return the state after a transition.

    The payload is edited and merged, ``previous`` is set only if the transition is reversible. If further
    votes are needed, the state stays with the caller's; the same vote again returns it as it is.

    Args:
        definition: The version that the state is pinned to.
        state: The state before the transition.
        name: The name of the transition.
        command: The payload, message and outcome.
        now: The time of the change.
        caller: The effective caller, whose permissions are checked; None for a timeout, which skips all.
        mask: The parts of the payload that the caller does not see: they stay, and no error has them.

    Raises:
        FlowError: No such transition, or a pause; see ``require_runnable``, and ``after_run`` for people.
    """
    require_active(state)
    source = current_step(definition, state)
    chosen = source.transitions.get(name)
    if chosen is None:
        raise _invalid_transition(source, state, name, caller, now)
    if caller is not None and has_voted(chosen, state, caller):
        return state
    if caller is not None:
        require_runnable(chosen, state, command.payload or {}, caller, now, mask)
    payload = edit_payload(state.payload, command, mask)
    if caller is not None and not is_decided(chosen, state, caller):
        return vote(chosen, state, caller, payload, command.message, now)
    return structs.replace(
        state,
        revision=state.revision + 1,
        **entry_changes(definition.flow.steps[chosen.step], now),
        **people.after_run(definition.flow, state, chosen, payload, caller),
        previous=source.step if chosen.reversible else UNSET,
        undo_roles=roles_to_undo(chosen, caller) if chosen.reversible else UNSET,
        ok=command.ok,
        message=command.message,
        payload=payload,
        updated_at=now,
    )


def run_kind(before: FlowState, after: FlowState) -> Literal["transitioned", "voted"] | None:
    """Return what ``transition`` made of a state: it moved, or has another vote; None if nothing changed."""
    if after is before:
        return None
    return "transitioned" if after.votes is UNSET else "voted"  # entering a step drops all votes


def reset(definition: FlowDefinition, state: FlowState, command: ResetCommand, now: datetime) -> FlowState:
    """Return the state restarted on ``definition``.

    Its progress is dropped (payload, message, previous, claims, votes, runs); its subject stays (service,
    entity), and so do users with roles on it.

    Raises:
        StatePausedError: The state is paused, which a reset would undo.
        InvalidRequestError: The flow has no such step.
    """
    require_active(state)
    step = _named_step(definition.flow, command.step)
    return structs.replace(
        state,
        version=definition.version,
        revision=state.revision + 1,
        **entry_changes(step, now),
        **people.after_reset(definition.flow, state, step),
        ok=True,
        previous=UNSET,
        undo_roles=UNSET,
        message=UNSET,
        payload=UNSET,
        updated_at=now,
    )


def replace(definition: FlowDefinition, state: FlowState, command: SetCommand, now: datetime) -> FlowState:
    """Return the state with every member of the command; absent members are removed.

    The revision continues, a paused state stays paused, and people with roles and their runs stay.

    Raises:
        InvalidRequestError: The flow has no such step.
    """
    step = _named_step(definition.flow, command.step)
    if command.previous is not UNSET:
        _named_step(definition.flow, command.previous, pointer="/previous")
    return structs.replace(
        state,
        version=definition.version,
        revision=state.revision + 1,
        **placement_changes(step, state, now),
        **people.after_set(definition.flow, state, step),
        service=command.service,
        ok=command.ok,
        previous=command.previous,
        undo_roles=UNSET,
        entity_id=command.entity_id if state.instance_id is UNSET else UNSET,
        payload=command.payload if command.remove is UNSET else edit_payload(state.payload, command),
        message=command.message,
        updated_at=now,
    )


def end(state: FlowState, status: Status, now: datetime) -> FlowState:
    """Return the last state of an epoch: ``cleared`` or ``expired``, without the user's data."""
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
        **people.AT_THE_END,
    )


def back(
    definition: FlowDefinition, state: FlowState, now: datetime, caller: Caller, mask: Mask | None = None
) -> FlowState:
    """Return the state at the step that a reversible transition left, with the payload as it is.

    No error has values that ``mask`` hides from the caller.

    Raises:
        InvalidTransitionError: The last transition was not reversible.
        InsufficientPermissionsError, GuardRefusedError: The caller may not undo it.
        StatePausedError: The state is paused.
    """
    require_active(state)
    source = current_step(definition, state)
    if state.previous is UNSET or state.previous not in definition.flow.steps:
        raise _invalid_transition(source, state, "back", caller, now)
    require_undo(undo_roles(definition, state), caller)
    require_undo_guards(undone_candidates(definition, state), state, caller, now, mask)
    target = definition.flow.steps[state.previous]
    return structs.replace(
        state,
        revision=state.revision + 1,
        **entry_changes(target, now),
        **people.after_undo(definition.flow, state, target),
        ok=True,
        previous=UNSET,
        undo_roles=UNSET,
        message=UNSET,
        updated_at=now,
    )


def pause(definition: FlowDefinition, state: FlowState, command: PauseCommand, now: datetime) -> FlowState:
    """Return the paused state, which waits for nobody.

    Raises:
        InvalidTransitionError: The state is completed.
    """
    if state.status == "completed":
        raise InvalidTransitionError(state.step, "pause", [])
    return structs.replace(
        state,
        revision=state.revision + 1,
        status="paused",
        pause_reason=command.reason,
        awaits=UNSET,
        updated_at=now,
        **pause_timeout(current_step(definition, state), state.timeout_at, now),
        **pause_expiry(state, now),
    )


def resume(definition: FlowDefinition, state: FlowState, now: datetime) -> FlowState:
    """Return the state after a pause."""
    step = current_step(definition, state)
    return structs.replace(
        state,
        revision=state.revision + 1,
        status=status_at(step),
        awaits=awaited_roles(definition.flow, step, state.participants),
        pause_reason=UNSET,
        updated_at=now,
        **resume_timeout(state, now),
        **resume_expiry(state, now),
    )


def stop_expiry(state: FlowState, now: datetime) -> FlowState:
    """Stop the expiry of a state that a version before 0.5 paused.

    The time that was left at its last change is waited after the state is resumed.
    """
    return structs.replace(
        state, revision=state.revision + 1, updated_at=now, **pause_expiry(state, state.updated_at)
    )


def recover(last: FlowState, epoch: str, revision: int, now: datetime) -> FlowState:
    """Return the last known state at a new position. The timeout of its step continues."""
    return structs.replace(last, epoch=epoch, revision=revision, updated_at=now)


def timeout(definition: FlowDefinition, state: FlowState, now: datetime) -> tuple[str, FlowState] | None:
    """Return the transition that a timeout runs now, and the state after it; None if none is due."""
    if state.status != "active" or state.timeout_at is UNSET or state.timeout_at > now:
        return None
    due = current_step(definition, state).timeout
    if due is None:
        return None
    return due.transition, transition(definition, state, due.transition, TransitionCommand(), now)


def with_transitions(
    definition: FlowDefinition,
    state: FlowState,
    caller: Caller,
    now: datetime,
    budget: GuardBudget | None = None,
) -> FlowState:
    """Return the state with the transitions that the caller may run now, in the author's order.

    It also has the roles that may undo the last transition.

    Args:
        definition: The version that the state is pinned to.
        state: A stored state.
        caller: The effective caller, whose permissions are checked.
        now: The time that guards see.
        budget: The budget that the guards share with those of other states; a new one by default.
    """
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


def _invalid_transition(
    step: FlowStep, state: FlowState, name: str, caller: Caller | None, now: datetime
) -> InvalidTransitionError:
    found = step.transitions.values()
    allowed: Iterable[FlowTransition] = (
        found if caller is None else runnable(found, state, caller, now, GuardBudget())
    )
    return InvalidTransitionError(state.step, name, [transition.transition for transition in allowed])


def _named_step(flow: Flow, name: str | None, pointer: str = "/step") -> FlowStep:
    step = flow.steps.get(flow.initial_step if name is None else name)
    if step is None:
        listed = ", ".join(flow.steps)
        raise InvalidRequestError([Fault(pointer, f"The flow has no step {name!r}; it has {listed}")])
    return step
