"""Approvals: transitions that need the votes of several people."""

from datetime import datetime

from msgspec import UNSET, UnsetType, structs

from app.contracts.callers import Caller
from app.contracts.flow import FlowTransition
from app.contracts.people import TransitionBy
from app.contracts.state import FlowState, Payload
from app.flow.position import require_active


def required_roles(transition: FlowTransition) -> list[str] | None:
    """Return the roles of which a transition requires one; None if it requires none.

    Without roles of its own, a transition that needs votes requires the role of the voters.
    """
    if transition.roles is None and transition.approvals is not None:
        return [transition.approvals.of]
    return transition.roles


def has_voted(transition: FlowTransition, state: FlowState, caller: Caller) -> bool:
    """Return whether the caller has voted for the transition at the present step."""
    if state.votes is UNSET:
        return False
    return TransitionBy(transition.transition, caller.user_id) in state.votes


def is_decided(transition: FlowTransition, state: FlowState, caller: Caller) -> bool:
    """Return whether the state moves if the caller runs the transition: no further vote is needed."""
    if transition.approvals is None:
        return True
    votes = () if state.votes is UNSET else state.votes
    voters = {each.user_id for each in votes if each.transition == transition.transition}
    return len(voters | {caller.user_id}) >= transition.approvals.count


def vote(
    transition: FlowTransition,
    state: FlowState,
    caller: Caller,
    payload: Payload | UnsetType,
    message: str | UnsetType,
    now: datetime,
) -> FlowState:
    """Return the state with the caller's vote, which replaces one for another transition.

    It stays at its step. A message replaces the present one.
    """
    votes = () if state.votes is UNSET else state.votes
    others = (each for each in votes if each.user_id != caller.user_id)
    return structs.replace(
        state,
        revision=state.revision + 1,
        votes=(*others, TransitionBy(transition.transition, caller.user_id)),
        payload=payload,
        message=state.message if message is UNSET else message,
        updated_at=now,
    )


def withdraw(state: FlowState, now: datetime, caller: Caller) -> FlowState | None:
    """Return the state without the caller's vote; None if it has none at the present step.

    Raises:
        StatePausedError: The state is paused.
    """
    require_active(state)
    votes = () if state.votes is UNSET else state.votes
    others = tuple(each for each in votes if each.user_id != caller.user_id)
    if len(others) == len(votes):
        return None
    return structs.replace(state, revision=state.revision + 1, votes=others or UNSET, updated_at=now)
