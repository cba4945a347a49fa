"""People on a state: who may see it, and which roles they have."""

from msgspec import UNSET

from app.contracts.callers import Caller
from app.contracts.state import FlowState


def is_participant(state: FlowState, caller: Caller) -> bool:
    """Return true if the caller has a role on the state, as a user or by a group of the token."""
    return state.participants is not UNSET and any(
        one.user_id == caller.user_id or one.group in caller.groups for one in state.participants
    )


def may_see(state: FlowState, caller: Caller) -> bool:
    """Return true if the caller may see the state: its owner, those who act for users, participants."""
    return caller.acts_for(state.user_id) or is_participant(state, caller)
