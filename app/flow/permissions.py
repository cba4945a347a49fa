"""Checks who may see a flow, and who may run a transition with its payload."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime

from msgspec import UNSET, UnsetType, structs

from app.contracts.callers import ADMIN, Caller
from app.contracts.errors import (
    Fault,
    GuardRefusedError,
    InsufficientPermissionsError,
    InvalidPayloadError,
)
from app.contracts.flow import Flow, FlowStep, FlowTransition
from app.contracts.state import FlowState, Payload
from app.flow.conditions.evaluation_breaker import Place
from app.flow.conditions.guard_inputs import GuardBudget, GuardInputs
from app.flow.conditions.guards import check_guard, compiled, may_hold
from app.flow.conditions.payload_schemas import payload_faults
from app.flow.values.payload import require_storable


def require_visible(flow: Flow, caller: Caller) -> None:
    """Raise InsufficientPermissionsError unless the caller may see the flow and what becomes of it."""
    if not caller.has_a_role(flow.roles):
        raise InsufficientPermissionsError(
            f"Flow {flow.flow} needs one of the roles {_listed(flow.roles)}",
            flowId=flow.flow,
            roles=flow.roles or [],
        )


def require_runnable(
    transition: FlowTransition, state: FlowState, payload: Payload, caller: Caller, now: datetime
) -> None:
    """Raise unless the caller may run the transition of the state's step with this payload:
    InsufficientPermissionsError, InvalidPayloadError with every fault, GuardRefusedError."""
    if not caller.has_a_role(transition.roles):
        needed = f"one of the roles {_listed(transition.roles)}" if transition.roles else "the timer"
        raise InsufficientPermissionsError(
            f"Transition {transition.transition} needs {needed}",
            transition=transition.transition,
            roles=transition.roles or [],
        )
    require_storable(payload)
    if transition.payload_schema is not None:
        place = Place(state.flow, state.step, transition.transition)
        faults = payload_faults(transition.payload_schema, payload, place)
        if faults:
            raise InvalidPayloadError([Fault(f"/payload{one.pointer}", one.message) for one in faults])
    if transition.guard is not None:
        check_guard(transition.guard, transition.transition, state, payload, caller, now)


def require_entrance(flow: Flow, name: str | None, caller: Caller) -> None:
    """Raise InsufficientPermissionsError when the caller may not begin at the named step. Where transitions
    ask for anything, only an administrator begins beyond the ``initial`` steps: behind what is asked."""
    step = None if name is None else flow.steps.get(name)
    if step is None or step.initial or name == flow.initial_step or ADMIN in caller.scopes:
        return
    if asks_anything(flow):
        entrances = [
            step.step for step in flow.steps.values() if step.initial or step.step == flow.initial_step
        ]
        raise InsufficientPermissionsError(
            f"Flow {flow.flow} does not begin at {name}, but at {', '.join(entrances)}",
            flowId=flow.flow,
            step=name,
            steps=entrances,
        )


def asks_anything(flow: Flow) -> bool:
    """True if any transition has a role, a guard or a schema."""
    return any(
        transition.roles is not None or transition.guard is not None or transition.payload_schema is not None
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
            f"{what} a state of flow {flow.flow} needs {_needed(roles or [])}",
            flowId=flow.flow,
            roles=roles or [],
        )


def restricts_roles(flow: Flow) -> bool:
    """True if any transition requires a role of those who run it. One for the timer alone does not."""
    return any(transition.roles for step in flow.steps.values() for transition in step.transitions.values())


def require_undo(roles: Collection[str] | UnsetType, caller: Caller) -> None:
    """Raise InsufficientPermissionsError unless the caller has one of the roles that may undo the last
    transition of a state."""
    if roles is UNSET or caller.has_a_role(roles):
        return
    raise InsufficientPermissionsError(
        f"Undoing the last transition needs {_needed(roles)}", transition="back", roles=list(roles)
    )


def require_undo_guards(
    ways: Sequence[FlowTransition], state: FlowState, caller: Caller, now: datetime
) -> None:
    """Raise GuardRefusedError when each of the transitions that may have led to the state has a guard on
    ``user``, and none holds for the caller. Other guards say when a transition may run, not who may.

    The payload of the transition is part of that of the state, which stands for both.
    """
    guards = [(way.guard or "", way.transition) for way in ways]
    if not guards or ADMIN in caller.scopes or any(not g or not compiled(g).reads_user for g, _ in guards):
        return
    before = structs.replace(state, step=state.previous or "", previous=UNSET)
    payload = {} if state.payload is UNSET else state.payload
    for n, (guard, name) in enumerate(guards, 1):
        try:
            check_guard(guard, name, before, payload, caller, now)
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
    """The transitions of a step that the caller may run now, given a payload that fits. One whose guard
    is not evaluated within the budget is not among them."""
    inputs = None
    for transition in transitions:
        if not caller.has_a_role(transition.roles):
            continue
        if transition.guard is not None:
            inputs = inputs or GuardInputs(state, {}, caller, now)
            name = transition.transition
            if not may_hold(
                transition.guard, state, caller, now, transition=name, inputs=inputs, budget=budget
            ):
                continue
        yield transition


def depends_on_caller(step: FlowStep) -> bool:
    """True if not everybody may run the same transitions at this step."""
    return any(
        transition.roles is not None
        or (transition.guard is not None and compiled(transition.guard).reads_user)
        for transition in step.transitions.values()
    )


def _needed(roles: Collection[str]) -> str:
    return f"one of the roles {_listed(roles)}" if roles else f"the scope {ADMIN}"


def _listed(roles: Collection[str] | None) -> str:
    return ", ".join(roles or [])
