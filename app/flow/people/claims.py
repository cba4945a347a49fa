"""Claims: leases on the tasks of a role, so that two people do not work on the same ones."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from msgspec import UNSET, structs

from app.contracts.callers import Caller
from app.contracts.commands import ClaimCommand
from app.contracts.definition import FlowDefinition
from app.contracts.errors import (
    ClaimedError,
    Fault,
    InsufficientPermissionsError,
    InvalidRequestError,
    InvalidTransitionError,
)
from app.contracts.flow import Flow, FlowTransition
from app.contracts.people import Claim
from app.contracts.state import FlowState
from app.contracts.wire.times import iso
from app.flow.people.callers import held_roles
from app.flow.position import current_step, require_active


def claim(
    definition: FlowDefinition, state: FlowState, command: ClaimCommand, now: datetime, caller: Caller
) -> FlowState | None:
    """Return the state with a claim of the caller; None if the same claim is there already.

    Claiming again renews the claim.

    Args:
        definition: The version that the state is pinned to.
        state: The state.
        command: The role; without one the caller's only role that can be claimed.
        now: The time of the change.
        caller: The effective caller (``caller_on``).

    Raises:
        StatePausedError: The state is paused.
        InvalidRequestError: The role cannot be claimed in this flow, or the command must name one of several.
        InvalidTransitionError: There is nothing to claim at the step.
        InsufficientPermissionsError: The caller does not have the role.
        ClaimedError: Another person has the claim, and the caller may not take it over.
    """
    require_active(state)
    current_step(definition, state)
    role, duration = _role_to_claim(definition.flow, state, command.role, caller)
    valid = valid_claims(state, now)
    present = next((each for each in valid if each.role == role), None)
    is_of_other = present is not None and present.user_id != caller.user_id
    if present is not None and is_of_other and not _may_take_over(definition.flow, state, role, caller):
        raise claimed_error(present)
    wanted = Claim(role, caller.user_id, now + duration)
    if present == wanted:
        return None
    return _with_claims(state, (*(each for each in valid if each.role != role), wanted), now)


def release(
    definition: FlowDefinition, state: FlowState, command: ClaimCommand, now: datetime, caller: Caller
) -> FlowState | None:
    """Return the state without a claim; None if there is no valid one.

    Args:
        definition: The version that the state is pinned to.
        state: The state.
        command: The role; without one that of the caller's only claim, or of the only claim that it may take
            over.
        now: The time of the change.
        caller: The effective caller (``caller_on``).

    Raises:
        InvalidRequestError: The role cannot be claimed in this flow, or the command must name one of several.
        InsufficientPermissionsError: The claim is of another person, and the caller may not take it over.
    """
    flow = definition.flow
    if command.role is not None:
        _require_claimable(flow, command.role)
    valid = valid_claims(state, now)
    chosen = [each for each in valid if command.role in (None, each.role)]
    own = [each for each in chosen if each.user_id == caller.user_id]
    free = own or [each for each in chosen if _may_take_over(flow, state, each.role, caller)]
    if chosen and not free:
        raise InsufficientPermissionsError(
            f"The claim on the tasks of {chosen[0].role} is of {chosen[0].user_id}; it is released by that "
            "user, or by those who may take it over",
            role=chosen[0].role,
            userId=chosen[0].user_id,
        )
    if not free:
        return None
    if len(free) > 1:
        raise _ambiguous([each.role for each in free])
    return _with_claims(state, [each for each in valid if each != free[0]], now)


def valid_claims(state: FlowState, now: datetime) -> list[Claim]:
    """Return the claims of a state that have not ended."""
    return [] if state.claims is UNSET else [each for each in state.claims if each.until > now]


def blocking_claim(
    transition: FlowTransition, state: FlowState, caller: Caller, now: datetime
) -> Claim | None:
    """Return a claim of another person that stops the caller from running a transition; None if none does.

    A claim is on a role: it does not stop callers with another role of the transition, nor administrators,
    who need none. Votes are not stopped.
    """
    if state.claims is UNSET or transition.approvals is not None or caller.is_administrator:
        return None
    usable = [role for role in transition.roles or () if role in caller.roles]
    by_others = {each.role: each for each in valid_claims(state, now) if each.user_id != caller.user_id}
    if not usable or any(role not in by_others for role in usable):
        return None
    return by_others[usable[0]]


def claimed_error(present: Claim) -> ClaimedError:
    """Create the error for a claim of another person."""
    return ClaimedError(present.role, present.user_id, iso(present.until))


def _role_to_claim(flow: Flow, state: FlowState, named: str | None, caller: Caller) -> tuple[str, timedelta]:
    """Return the role whose tasks the caller claims, and how long the claim lasts."""
    durations = _durations(flow)
    if named is not None:
        _require_claimable(flow, named)
    wanted = [role for role in state.awaits or () if role in durations and named in (None, role)]
    if not wanted:
        whose = "of any role" if named is None else f"of the role {named}"
        advice = f"no tasks {whose} can be claimed at this step; read the state again"
        raise InvalidTransitionError(state.step, "claim", [], advice=advice)
    held = [role for role in wanted if caller.has_a_role([role])]
    if not held:
        listed = ", ".join(wanted)
        raise InsufficientPermissionsError(
            f"Claiming tasks at this step requires one of the roles {listed}", roles=wanted
        )
    if len(held) > 1:
        raise _ambiguous(held)
    return held[0], durations[held[0]]


def _durations(flow: Flow) -> dict[str, timedelta]:
    """Return how long claims last, by the roles that can be claimed."""
    declared = flow.participants or {}
    return {role: each.claim for role, each in declared.items() if each.claim is not None}


def _require_claimable(flow: Flow, role: str) -> None:
    durations = _durations(flow)
    if role not in durations:
        listed = f"one of {', '.join(durations)}" if durations else "absent: no role can be claimed"
        raise InvalidRequestError([Fault("/role", f"must be {listed}")])


def _ambiguous(roles: Sequence[str]) -> InvalidRequestError:
    return InvalidRequestError([Fault("/role", f"must name one of {', '.join(roles)}")])


def _may_take_over(flow: Flow, state: FlowState, role: str, caller: Caller) -> bool:
    declared = (flow.participants or {}).get(role)
    takers = () if declared is None or declared.take_over is None else declared.take_over
    return caller.acts_for_all or not held_roles(state.participants, caller).isdisjoint(takers)


def _with_claims(state: FlowState, claims: Sequence[Claim], now: datetime) -> FlowState:
    return structs.replace(state, revision=state.revision + 1, claims=tuple(claims) or UNSET, updated_at=now)
