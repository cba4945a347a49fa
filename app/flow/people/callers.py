"""Callers as a state knows them: who may see it, and with which roles they act on it."""

from collections.abc import Sequence

from msgspec import UNSET, UnsetType, structs

from app.contracts.callers import Caller
from app.contracts.flow import Flow
from app.contracts.people import Participant
from app.contracts.state import FlowState
from app.flow.people.participants import group_participants


def caller_on(flow: Flow, state: FlowState, caller: Caller) -> Caller:
    """Return the caller with the roles that it has on a state.

    The owner has the roles of its token, apart from those that the flow declares for participants, and those
    that it has on the state. A service has the roles of its token and those that it has on the state. Anybody
    else has the roles on the state alone, and is marked by ``participates``. Administrators pass every check
    of roles and stay as they are. The effective caller of an effective caller is itself.

    Args:
        flow: The flow, in the version that the state is pinned to.
        state: The state.
        caller: The authenticated caller.
    """
    if flow.participants is None and state.participants is UNSET and caller.user_id == state.user_id:
        return caller
    return _effective(flow, state.user_id, state.participants, caller)


def caller_at_start(flow: Flow, user_id: str, caller: Caller) -> Caller:
    """Return the caller with the roles that it has on a state of ``user_id`` that does not exist yet.

    Only groups have roles on it: people whom the caller names must not count for the permission to name them.
    """
    if flow.participants is None and caller.user_id == user_id:
        return caller
    return _effective(flow, user_id, group_participants(flow) or UNSET, caller)


def is_participant(state: FlowState, caller: Caller) -> bool:
    """Return whether the caller has a role on the state, by its user id or by a group."""
    return state.participants is not UNSET and any(_is_of(each, caller) for each in state.participants)


def may_see(state: FlowState, caller: Caller) -> bool:
    """Return whether the caller may see the state: its owner, a participant, or a reader of all states.

    Not so for the credential of an integration, for which the steps of the flow decide.
    """
    if caller.service:
        return False
    return caller.may_read(state.user_id) or is_participant(state, caller)


def held_roles(participants: Sequence[Participant] | UnsetType, caller: Caller) -> frozenset[str]:
    """Return the roles that the caller has as one of ``participants``."""
    if participants is UNSET:
        return frozenset()
    return frozenset(each.role for each in participants if _is_of(each, caller))


def _is_of(participant: Participant, caller: Caller) -> bool:
    if participant.group is UNSET:
        return participant.user_id == caller.user_id
    return participant.group in caller.groups


def _effective(
    flow: Flow, user_id: str, participants: Sequence[Participant] | UnsetType, caller: Caller
) -> Caller:
    if caller.is_administrator:
        return caller
    held = held_roles(participants, caller)
    participates = False
    if caller.acts_for_all:
        roles = caller.roles | held
    elif caller.user_id == user_id:
        roles = caller.roles.difference(flow.participants or ()) | held
    else:
        roles, participates = held, True
    if roles == caller.roles and participates == caller.participates:
        return caller
    return structs.replace(caller, roles=roles, participates=participates)
