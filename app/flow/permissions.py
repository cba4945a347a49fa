"""Permissions: to see a flow, to start, reset and clear its states, and to run and undo transitions."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime

from msgspec import UNSET, UnsetType, structs

from app.contracts.callers import ADMIN, Caller
from app.contracts.errors import (
    Fault,
    GuardRefusedError,
    InsufficientPermissionsError,
    InvalidPayloadError,
    SeparationOfDutiesError,
)
from app.contracts.flow import Flow, FlowStep, FlowTransition
from app.contracts.state import FlowState, Payload
from app.flow.conditions.evaluation_breaker import Place
from app.flow.conditions.guard_inputs import GuardBudget, GuardInputs
from app.flow.conditions.guards import check_guard, compiled, may_hold
from app.flow.conditions.payload_schemas import payload_faults
from app.flow.people.approvals import has_voted, required_roles
from app.flow.people.claims import blocking_claim, claimed_error
from app.flow.people.duties import excluding_run
from app.flow.people.field_access import masks_fields
from app.flow.values.masking import Mask
from app.flow.values.payload import require_storable


def require_visible(flow: Flow, caller: Caller) -> None:
    """Raise InsufficientPermissionsError unless the caller may see the flow and its states."""
    if not caller.has_a_role(flow.roles):
        raise InsufficientPermissionsError(
            f"Flow {flow.flow} requires one of the roles {_listed(flow.roles)}",
            flowId=flow.flow,
            roles=flow.roles or [],
        )


def require_runnable(
    transition: FlowTransition,
    state: FlowState,
    payload: Payload,
    caller: Caller,
    now: datetime,
    mask: Mask | None = None,
) -> None:
    """Raise unless the caller may run a transition of the state's step with this payload.

    No error has values of the state that ``mask`` hides from the caller.

    Raises:
        InsufficientPermissionsError: The caller has none of the roles.
        SeparationOfDutiesError: The caller ran a transition after which another person must run this one.
        ClaimedError: Another person has claimed the tasks of the caller's roles.
        InvalidPayloadError: The payload cannot be stored or does not fit the schema; it lists every fault.
        GuardRefusedError: The guard does not pass.
    """
    require_role(transition, caller)
    require_other_person(transition, state, caller)
    require_unclaimed(transition, state, caller, now)
    require_fitting_payload(transition, state, payload)
    if transition.guard is not None:
        check_guard(transition.guard, transition.transition, state, payload, caller, now, mask)


def require_role(transition: FlowTransition, caller: Caller) -> None:
    """Raise InsufficientPermissionsError unless the caller has a role that the transition requires."""
    roles = _missing_roles(transition, caller)
    if roles is None:
        return
    needed = f"one of the roles {_listed(roles)}" if roles else "the timer"
    if required_roles(transition) is None:
        needed = "the owner of the state, or a service"
    raise InsufficientPermissionsError(
        f"Transition {transition.transition} requires {needed}",
        transition=transition.transition,
        roles=roles,
    )


def require_other_person(transition: FlowTransition, state: FlowState, caller: Caller) -> None:
    """Raise SeparationOfDutiesError if the caller ran a transition that excludes it from this one."""
    ran = excluding_run(transition, state, caller)
    if ran is not None:
        raise SeparationOfDutiesError(transition.transition, ran)


def require_unclaimed(transition: FlowTransition, state: FlowState, caller: Caller, now: datetime) -> None:
    """Raise ClaimedError if another person has claimed the tasks of the caller's roles."""
    blocking = blocking_claim(transition, state, caller, now)
    if blocking is not None:
        raise claimed_error(blocking)


def require_fitting_payload(transition: FlowTransition, state: FlowState, payload: Payload) -> None:
    """Raise InvalidPayloadError, with every fault, if a payload cannot be stored or does not fit."""
    require_storable(payload)
    if transition.payload_schema is not None:
        place = Place(state.flow, state.step, transition.transition)
        faults = payload_faults(transition.payload_schema, payload, place)
        if faults:
            raise InvalidPayloadError([Fault(f"/payload{one.pointer}", one.message) for one in faults])


def _missing_roles(transition: FlowTransition, caller: Caller) -> list[str] | None:
    """Return the roles of which the caller would need one for a transition; None if none is missing.

    A transition that needs votes requires the role of the voters too.
    """
    roles = required_roles(transition)
    if not caller.has_a_role(roles):
        return roles or []
    if transition.approvals is not None and not caller.has_a_role([transition.approvals.of]):
        return [transition.approvals.of]
    return None


def require_entrance(flow: Flow, name: str | None, caller: Caller) -> None:
    """Raise InsufficientPermissionsError if the caller may not start at the named step.

    If any transition has a role, a guard, a schema or a rule between people, only an administrator may start
    at a step that is not ``initial``: others would start past a check.
    """
    step = None if name is None else flow.steps.get(name)
    if step is None or step.initial or name == flow.initial_step or caller.is_administrator:
        return
    if has_requirements(flow):
        entrances = [
            step.step for step in flow.steps.values() if step.initial or step.step == flow.initial_step
        ]
        raise InsufficientPermissionsError(
            f"A state of flow {flow.flow} cannot start at {name}, only at {', '.join(entrances)}",
            flowId=flow.flow,
            step=name,
            steps=entrances,
        )


def has_requirements(flow: Flow) -> bool:
    """True if any transition has a role, a guard, a schema or a rule between people."""
    return any(
        transition.roles is not None
        or transition.guard is not None
        or transition.payload_schema is not None
        or transition.approvals is not None
        or transition.not_by
        for step in flow.steps.values()
        for transition in step.transitions.values()
    )


def require_resettable(flow: Flow, caller: Caller) -> None:
    """Raise InsufficientPermissionsError unless the caller may reset states of the flow."""
    _require_permission(flow, "Resetting", flow.resettable, caller)


def require_clearable(flow: Flow, caller: Caller) -> None:
    """Raise InsufficientPermissionsError unless the caller may clear states of the flow."""
    _require_permission(flow, "Clearing", flow.clearable, caller)


def _require_permission(flow: Flow, what: str, given: bool | list[str] | None, caller: Caller) -> None:
    roles = given if isinstance(given, list) else [] if given is False else None
    if not caller.has_a_role(roles):
        raise InsufficientPermissionsError(
            f"{what} a state of flow {flow.flow} requires {_needed(roles or [])}",
            flowId=flow.flow,
            roles=roles or [],
        )


def restricts_roles(flow: Flow) -> bool:
    """True if any transition requires a role; a transition for the timer alone does not."""
    return any(
        required_roles(transition) for step in flow.steps.values() for transition in step.transitions.values()
    )


def require_undo(roles: Collection[str] | UnsetType, caller: Caller) -> None:
    """Raise InsufficientPermissionsError unless the caller has one of ``roles`` (``undo_roles``)."""
    if caller.has_a_role(None if roles is UNSET else roles):
        return
    needed = "the owner of the state, or a service" if roles is UNSET else _needed(roles)
    raise InsufficientPermissionsError(
        f"Undoing the last transition requires {needed}", transition="back", roles=list(roles or ())
    )


def require_undo_guards(
    candidates: Sequence[FlowTransition],
    state: FlowState,
    caller: Caller,
    now: datetime,
    mask: Mask | None = None,
) -> None:
    """Raise GuardRefusedError if every candidate has a guard on ``user`` and none passes for the caller.

    Other guards restrict the time of a transition, not its callers. The payload of the state is used in
    place of that of the transition, which was merged into it.

    Args:
        candidates: The transitions that may have led to the state.
        state: The state to undo.
        caller: The caller.
        now: The time that guards see.
        mask: The parts of the payload that the caller does not see.
    """
    guards = [(each.guard or "", each.transition) for each in candidates]
    if not guards or caller.is_administrator or any(not g or not compiled(g).reads_user for g, _ in guards):
        return
    before = structs.replace(state, step=state.previous or "", previous=UNSET)
    payload = {} if state.payload is UNSET else state.payload
    for n, (guard, name) in enumerate(guards, 1):
        try:
            check_guard(guard, name, before, payload, caller, now, mask)
        except GuardRefusedError:
            if n == len(guards):
                raise
        else:
            return


def runnable(
    transitions: Iterable[FlowTransition],
    state: FlowState,
    caller: Caller,
    now: datetime,
    budget: GuardBudget,
) -> Iterator[FlowTransition]:
    """Yield the transitions of a step that the caller may run now, given a payload that fits.

    A transition whose guard exceeds the budget is left out, and so is one for which the caller has voted.
    """
    inputs = None
    people_act = state.claims is not UNSET or state.votes is not UNSET
    for transition in transitions:
        if _missing_roles(transition, caller) is not None:
            continue
        if (people_act or transition.not_by) and _is_barred(transition, state, caller, now):
            continue
        if transition.guard is not None:
            inputs = inputs or GuardInputs(state, {}, caller, now)
            name = transition.transition
            if not may_hold(
                transition.guard, state, caller, now, transition=name, inputs=inputs, budget=budget
            ):
                continue
        yield transition


def _is_barred(transition: FlowTransition, state: FlowState, caller: Caller, now: datetime) -> bool:
    """True if the people of a state leave nothing to run: by their runs, votes and claims."""
    return (
        excluding_run(transition, state, caller) is not None
        or has_voted(transition, state, caller)
        or blocking_claim(transition, state, caller, now) is not None
    )


def depends_on_caller(flow: Flow, step: FlowStep) -> bool:
    """True if callers may run different transitions at a step, or see different fields."""
    return (
        flow.participants is not None
        or masks_fields(flow)
        or any(_transition_depends_on_caller(each) for each in step.transitions.values())
    )


def _transition_depends_on_caller(transition: FlowTransition) -> bool:
    """True if a transition may run for one caller and not for another."""
    return (
        transition.roles is not None
        or transition.approvals is not None
        or bool(transition.not_by)
        or (transition.guard is not None and compiled(transition.guard).reads_user)
    )


def _needed(roles: Collection[str]) -> str:
    return f"one of the roles {_listed(roles)}" if roles else f"the scope {ADMIN}"


def _listed(roles: Collection[str] | None) -> str:
    return ", ".join(roles or [])
