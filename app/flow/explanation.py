"""Explanations of transitions: every condition of one is checked, where a command stops at the first."""

from collections.abc import Callable
from datetime import datetime
from functools import partial

from msgspec import UNSET, UnsetType

from app.contracts.callers import Caller
from app.contracts.definition import FlowDefinition
from app.contracts.errors import FlowError, InvalidTransitionError
from app.contracts.flow import FlowTransition
from app.contracts.people import Participant
from app.contracts.state import FlowState, Payload
from app.contracts.wire.explanations import CheckView, Condition, TransitionExplanation
from app.contracts.wire.times import iso
from app.flow import permissions
from app.flow.conditions.guard_inputs import GuardBudget, GuardInputs
from app.flow.conditions.guards import compiled, refused
from app.flow.people.approvals import has_voted, required_roles
from app.flow.position import current_step, require_active

_UNSEEN = "It depends on fields that you may not see, so it is not explained for an assumed payload or role: "


def explain_transition(
    definition: FlowDefinition,
    state: FlowState,
    name: str,
    payload: Payload | UnsetType,
    caller: Caller,
    now: datetime,
    *,
    shown: FlowState,
    budget: GuardBudget,
    assumed: bool,
) -> TransitionExplanation:
    """Explain whether a caller may run a transition now.

    Args:
        definition: The version that the state is pinned to.
        state: The state, with its transitions (``rules.with_transitions``).
        name: The name of a transition, which the current step may not have.
        payload: The payload that the caller would send; UNSET: not known.
        caller: The effective caller (app.flow.people.callers).
        now: The time of the explanation.
        shown: The state as the reader of the explanation may see it, whose values a guard is reported with.
        budget: The budget that the guards of all explained transitions share.
        assumed: The reader chose the payload or the roles. A guard that compares them with fields that the
            reader does not see has no result, as it could find their values by asking again and again.
    """
    step = current_step(definition, state)
    chosen = step.transitions.get(name)
    checks = [_check("status", partial(require_active, state), f"The state is {state.status}")]
    if chosen is None:
        missing = InvalidTransitionError(state.step, name, list(step.transitions))
        checks.append(_refused("step", missing))
        return TransitionExplanation(transition=name, step="", possible=False, checks=checks)
    checks.append(
        CheckView(condition="step", passed=True, message=f"Step {state.step} has transition {name}")
    )
    checks += _deadline(state, now)
    checks += _of_people(chosen, state, caller, now)
    checks += _of_payload(chosen, state, payload)
    if chosen.guard is not None:
        given = {} if payload is UNSET else payload
        inputs, reported = (GuardInputs(each, given, caller, now) for each in (state, shown))
        if assumed and not compiled(chosen.guard).reads_alike(inputs, reported):
            checks.append(CheckView(condition="guard", passed=None, message=_UNSEEN + chosen.guard))
        else:
            checks.append(_guard(chosen, inputs, reported, budget, with_payload=payload is not UNSET))
    return _explained(chosen, state, checks)


def _explained(chosen: FlowTransition, state: FlowState, checks: list[CheckView]) -> TransitionExplanation:
    roles = required_roles(chosen)
    return TransitionExplanation(
        transition=chosen.transition,
        step=chosen.step,
        possible=_all_of([check.passed for check in checks]),
        checks=checks,
        roles=UNSET if roles is None else list(roles),
        by=_holders(roles, state),
        votes=_missing_votes(chosen, state),
        guard=UNSET if chosen.guard is None else chosen.guard,
        payload_schema=UNSET if chosen.payload_schema is None else chosen.payload_schema,
    )


def _of_people(
    transition: FlowTransition, state: FlowState, caller: Caller, now: datetime
) -> list[CheckView]:
    roles = required_roles(transition)
    required = f"one of the roles {', '.join(roles)}" if roles else "to act on the state"
    checks = [
        _check("role", partial(permissions.require_role, transition, caller), f"The caller has {required}"),
    ]
    if transition.not_by:
        listed = ", ".join(transition.not_by)
        passed = f"The caller ran none of {listed}"
        checks.append(
            _check("duties", partial(permissions.require_other_person, transition, state, caller), passed)
        )
    if state.claims is not UNSET and transition.approvals is None:
        passed = "Nobody else has claimed the task"
        checks.append(
            _check("claim", partial(permissions.require_unclaimed, transition, state, caller, now), passed)
        )
    if has_voted(transition, state, caller):
        checks.append(
            CheckView(condition="vote", passed=False, message="The caller has voted for it already")
        )
    return checks


def _of_payload(
    transition: FlowTransition, state: FlowState, payload: Payload | UnsetType
) -> list[CheckView]:
    if transition.payload_schema is None and payload is UNSET:
        return []
    check = partial(permissions.require_fitting_payload, transition, state)
    if payload is not UNSET:
        return [_check("payload", partial(check, payload), "The payload fits")]
    without = _check("payload", partial(check, {}), "No payload is needed")
    if without.passed:
        return [without]
    message = "It depends on the payload, which must fit the schema"
    return [CheckView(condition="payload", passed=None, message=message, details=without.details)]


def _guard(
    transition: FlowTransition,
    inputs: GuardInputs,
    reported: GuardInputs,
    budget: GuardBudget,
    *,
    with_payload: bool,
) -> CheckView:
    """Check the guard of a transition, and report the values that it read as far as they are shown."""
    expression, name = transition.guard or "", transition.transition
    guard = compiled(expression)
    if guard.reads_payload and not with_payload:
        return CheckView(condition="guard", passed=None, message=f"It depends on the payload: {expression}")
    reason, values = guard.refusal(inputs, budget, name), guard.seen(reported)
    if reason is None:
        message = f"The condition holds: {expression}"
        return CheckView(condition="guard", passed=True, message=message, details={"values": values})
    return _refused("guard", refused(guard, name, reason, inputs, reported))


def _deadline(state: FlowState, now: datetime) -> list[CheckView]:
    """Check the times of a state: a change at ``now`` comes too late if one has passed."""
    checks = []
    for moment, what in ((state.timeout_at, "The step times out"), (state.expires_at, "The state expires")):
        if moment is not UNSET:
            at = iso(moment)
            checks.append(
                CheckView(
                    condition="deadline", passed=moment > now, message=f"{what} at {at}", details={"at": at}
                )
            )
    return checks


def _holders(roles: list[str] | None, state: FlowState) -> list[Participant] | UnsetType:
    if not roles or state.participants is UNSET:
        return UNSET
    return [each for each in state.participants if each.role in roles]


def _missing_votes(transition: FlowTransition, state: FlowState) -> int | UnsetType:
    if transition.approvals is None:
        return UNSET
    votes = () if state.votes is UNSET else state.votes
    voters = {each.user_id for each in votes if each.transition == transition.transition}
    return max(transition.approvals.count - len(voters), 0)


def _check(condition: Condition, require: Callable[[], object], passed: str) -> CheckView:
    try:
        require()
    except FlowError as refusal:
        return _refused(condition, refusal)
    return CheckView(condition=condition, passed=True, message=passed)


def _refused(condition: Condition, refusal: FlowError) -> CheckView:
    return CheckView(
        condition=condition,
        passed=False,
        message=refusal.message,
        code=refusal.code,
        details=refusal.details or UNSET,
    )


def _all_of(results: list[bool | None]) -> bool | None:
    """Return false if one is false, null if one is not known, otherwise true."""
    if False in results:
        return False
    return None if None in results else True
