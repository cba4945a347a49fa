"""Who may see a flow, and who may run a transition with what it comes with."""

from datetime import datetime

from app.contracts.command import Caller
from app.contracts.errors import Fault, InsufficientPermissionsError, InvalidPayloadError
from app.contracts.flow import Flow, FlowStep, FlowTransition
from app.contracts.state import FlowState, Payload
from app.flow.guards import check_guard, compiled, may_hold
from app.flow.jsonable import unkeepable
from app.flow.payload_schemas import payload_faults


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
    if transition.payload_schema is not None:
        faults = unkeepable(payload, "/payload") or [
            Fault(f"/payload{fault.pointer}", fault.message)
            for fault in payload_faults(transition.payload_schema, payload)
        ]
        if faults:
            raise InvalidPayloadError(faults)
    if transition.guard is not None:
        check_guard(transition.guard, transition.transition, state, payload, caller, now)


def may_run(transition: FlowTransition, state: FlowState, caller: Caller, now: datetime) -> bool:
    """Whether the caller may run the transition now, given a payload that fits."""
    return caller.has_a_role(transition.roles) and (
        transition.guard is None or may_hold(transition.guard, state, caller, now)
    )


def depends_on_caller(flow: Flow, step: FlowStep) -> bool:
    """Whether what is seen of a state at this step is not the same for everybody who may follow it."""
    return flow.roles is not None or any(
        transition.roles is not None
        or (transition.guard is not None and compiled(transition.guard).reads_user)
        for transition in step.transitions.values()
    )


def _listed(roles: list[str] | None) -> str:
    return ", ".join(roles or [])
