"""The command that names the people of a state, and who may give it."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from msgspec import UNSET, UnsetType, structs

from app.contracts.callers import ADMIN, SERVICE, Caller
from app.contracts.commands import ParticipantsCommand
from app.contracts.definition import FlowDefinition
from app.contracts.errors import InsufficientPermissionsError
from app.contracts.flow import Flow, FlowStep
from app.contracts.people import Participant
from app.contracts.state import FlowState
from app.flow.people.participants import Participants, awaited_roles, checked
from app.flow.position import current_step


def assign_participants(
    definition: FlowDefinition,
    state: FlowState,
    command: ParticipantsCommand,
    now: datetime,
    caller: Caller,
) -> FlowState | None:
    """Return the state with the people of the command; None if it has them already.

    Users who lose a role lose their claims and votes by that role. A paused state may be changed: its step
    stays.

    Args:
        definition: The version that the state is pinned to.
        state: The state.
        command: All people and groups that have roles afterwards.
        now: The time of the change.
        caller: The effective caller (``caller_on``).

    Raises:
        InvalidRequestError: The command has faults; it lists all.
        InsufficientPermissionsError: The caller may not name the people of a role that changes.
    """
    step = current_step(definition, state)
    named = checked(definition.flow, command.participants)
    present = () if state.participants is UNSET else state.participants
    if set(named) == set(present):
        return None
    require_assignable(definition.flow, present, named, caller)
    participants = named or UNSET
    paused = state.status == "paused"
    return structs.replace(
        state,
        revision=state.revision + 1,
        participants=participants,
        awaits=UNSET if paused else awaited_roles(definition.flow, step, participants),
        updated_at=now,
        **_without_lost_roles(state, step, participants),
    )


def require_assignable(
    flow: Flow,
    before: Collection[Participant] | UnsetType,
    after: Collection[Participant] | UnsetType,
    caller: Caller,
) -> None:
    """Raise InsufficientPermissionsError unless the caller may name the people of each role that changes.

    Args:
        flow: The flow.
        before: The participants of the state; UNSET at the start.
        after: The participants that the caller wants.
        caller: The effective caller before the change (``caller_on``, ``caller_at_start``).
    """
    if caller.acts_for_all:
        return
    changed = set(before or ()) ^ set(after or ())
    for role in sorted({each.role for each in changed}):
        declared = (flow.participants or {}).get(role)
        given = None if declared is None else declared.assignable
        roles = given if isinstance(given, list) else None if given else []
        if not caller.has_a_role(roles):
            needed = "the owner of the state, or a service"
            if roles is not None:
                needed = (
                    f"one of the roles {', '.join(roles)}" if roles else f"the scope {SERVICE} or {ADMIN}"
                )
            raise InsufficientPermissionsError(
                f"Naming people with the role {role} requires {needed}",
                flowId=flow.flow,
                role=role,
                roles=roles or [],
            )


def _without_lost_roles(
    state: FlowState, step: FlowStep, participants: Participants | UnsetType
) -> dict[str, Any]:
    """Return the changes of claims and votes of people who lose the role for them, if any do.

    If a group loses a role, nobody knows who of those without an entry of their own was in it: all of them
    claim and vote again.
    """
    after = set() if participants is UNSET else set(participants)
    before = () if state.participants is UNSET else state.participants
    lost = {(each.role, each.user_id) for each in before if each.group is UNSET and each not in after}
    of_groups = {each.role for each in before if each.group is not UNSET and each not in after}
    changes: dict[str, Any] = {}
    if not lost and not of_groups:
        return changes

    def is_lost(role: str | None, user_id: str) -> bool:
        if (role, user_id) in lost:
            return True
        return role in of_groups and all((role, user_id) != (each.role, each.user_id) for each in after)

    if state.claims is not UNSET:
        claims = tuple(each for each in state.claims if not is_lost(each.role, each.user_id))
        changes["claims"] = claims or UNSET
    if state.votes is not UNSET:
        needed = {name: each.approvals.of for name, each in step.transitions.items() if each.approvals}
        votes = tuple(each for each in state.votes if not is_lost(needed.get(each.transition), each.user_id))
        changes["votes"] = votes or UNSET
    return changes
