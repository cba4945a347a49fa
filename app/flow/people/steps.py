"""People of a state that enters a step, as changes of the state's members."""

from typing import Any

from msgspec import UNSET, UnsetType

from app.contracts.callers import Caller
from app.contracts.flow import Flow, FlowStep, FlowTransition
from app.contracts.people import TransitionBy
from app.contracts.state import FlowState, Payload
from app.flow.people.duties import recorded_runs
from app.flow.people.participants import (
    Participants,
    assigned,
    awaited_roles,
    declared_participants,
    restarted_participants,
)

AT_THE_END: dict[str, Any] = dict.fromkeys(("participants", "awaits", "claims", "votes", "runs"), UNSET)
"""The changes of a state that ends. The salts of its people stay: its records need them."""


def entry(flow: Flow, step: FlowStep, participants: Participants | UnsetType) -> dict[str, Any]:
    """Return the changes of a state that enters a step: claims and votes end, other roles are awaited."""
    return {
        "participants": participants,
        "awaits": awaited_roles(flow, step, participants),
        "claims": UNSET,
        "votes": UNSET,
    }


def after_run(
    flow: Flow,
    state: FlowState,
    chosen: FlowTransition,
    payload: Payload | UnsetType,
    caller: Caller | None,
) -> dict[str, Any]:
    """Return the changes of a state that a transition moves: roles are assigned, and the run is recorded.

    Args:
        flow: The flow.
        state: The state before.
        chosen: The transition.
        payload: The payload of the state after the transition.
        caller: The caller that runs it; None for a timeout, which is no run of a person.

    Raises:
        InvalidPayloadError: The payload has no user ids where the transition assigns a role.
    """
    participants = state.participants
    if chosen.assign:
        participants = assigned(participants, chosen.assign, payload, lenient=caller is None)
    run = None if caller is None else TransitionBy(chosen.transition, caller.user_id)
    return {
        **entry(flow, flow.steps[chosen.step], participants),
        "runs": recorded_runs(flow, state, run),
    }


def after_undo(flow: Flow, state: FlowState, step: FlowStep) -> dict[str, Any]:
    """Return the changes of a state that goes back to a step: the run that is undone stays recorded."""
    return {**entry(flow, step, state.participants), "runs": recorded_runs(flow, state)}


def after_set(flow: Flow, state: FlowState, step: FlowStep) -> dict[str, Any]:
    """Return the changes of a state that is put at a step; a paused state waits for nobody."""
    changes = entry(flow, step, declared_participants(flow, state))
    changes["runs"] = recorded_runs(flow, state)
    if state.status == "paused":
        changes["awaits"] = UNSET
    return changes


def after_reset(flow: Flow, state: FlowState, step: FlowStep) -> dict[str, Any]:
    """Return the changes of a state that begins again: users with roles stay, runs are forgotten."""
    return {**entry(flow, step, restarted_participants(flow, state)), "runs": UNSET}
