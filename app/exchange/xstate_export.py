"""Converts a flow to a state machine of XState v5.

A step becomes a state, a transition the event of its name, a step without transitions a final state, a
timeout a delayed transition, a guard a guard of the type ``cel``. The rest goes into ``meta`` of the state,
transition or machine that it belongs to, under ``server-flow``, so that ``from_xstate`` restores the flow.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from msgspec import to_builtins

from app.contracts.flow import Flow, FlowStep, FlowTransition
from app.exchange.conversion_report import CEL, KEY, ConversionReport, Exported
from app.flow.tokens.javascript import members_of
from app.flow.values.struct_errors import escape

MAX_DELAY_MS = 2**31 - 1
"""The longest delay of XState: its clock is ``setTimeout``, which treats longer delays as 1 ms."""

_FLOW_MEMBERS = {
    "ttl": "XState has no lifetime of a state",
    "roles": "XState does not know its reader",
    "resettable": "XState does not know its caller",
    "clearable": "XState does not know its caller",
    "instances": "XState has no identity of a machine that runs",
    "participants": "XState does not know its callers",
    "sensitive": "XState does not know its reader",
    "visible": "XState does not know its reader",
    "searchable": "XState does not store its context",
}
_TRANSITION_MEMBERS = {
    "explicit": "XState has no next command that would skip it",
    "reversible": "XState does not remember the step before, and has no way back",
    "guard": "XState calls the guard named cel with params.expression, which your program provides",
    "payloadSchema": "XState does not check the payload of an event",
    "roles": "XState does not know the sender of an event",
    "assign": "XState does not know people",
    "notBy": "XState does not remember the senders of events",
    "approvals": "XState does not count the senders of an event",
    "conflict": "XState receives one event after another",
}
_INITIAL = "XState starts at its only initial state"
_RESUME = "XState has no pause"
_TOO_LONG = f"XState's clock cannot wait longer than {MAX_DELAY_MS} ms, and would not wait at all"
_PROTO = "JavaScript reserves this name, and XState loses it"


def to_xstate(flow: Flow) -> Exported:
    """Convert a valid flow. The report lists the parts that XState carries as data and does not act on."""
    report = ConversionReport()
    raw = to_builtins(flow)
    for member, reason in _FLOW_MEMBERS.items():
        if member in raw:
            report.converted(f"/{member}", reason)
    names = list(flow.steps)
    own_meta = _without(raw, "flow", "initialStep", "steps", "description", "meta")
    if _in_javascript(flow.steps) != names:
        own_meta["steps"] = names
    machine = {
        "id": flow.flow,
        **_description_and_meta(flow.description, flow.meta, own_meta),
        "initial": flow.initial_step,
        "states": {name: _state(step, report) for name, step in flow.steps.items()},
    }
    return Exported(machine, report.all)


def _state(step: FlowStep, report: ConversionReport) -> dict[str, Any]:
    at = f"/steps/{escape(step.step)}"
    own_meta = _without(to_builtins(step), "step", "transitions", "description", "meta")
    if step.initial:
        report.converted(f"{at}/initial", _INITIAL)
    _report_name(step.step, at, report)
    after = _after(step, at, report)
    if after:
        del own_meta["timeout"]
    on = {}
    for name, transition in step.transitions.items():
        _report_name(name, f"{at}/transitions/{escape(name)}", report)
        if _is_timed_only(step, transition) and after:
            continue
        on[name] = _event(step, transition)
        _report_transition(transition, f"{at}/transitions/{escape(name)}", report)
    names = list(step.transitions)
    if [*_in_javascript(on), *(name for name in names if name not in on)] != names:
        own_meta["transitions"] = names
    return {
        **({} if step.transitions else {"type": "final"}),
        **_description_and_meta(step.description, step.meta, own_meta),
        **({"on": on} if on else {}),
        **({"after": after} if after else {}),
    }


def _event(step: FlowStep, transition: FlowTransition) -> dict[str, Any]:
    own_meta = _without(to_builtins(transition), "transition", "step", "guard", "description", "meta")
    guard = {"type": CEL, "params": {"expression": transition.guard}}
    return {
        **_target(step, transition),
        **({} if transition.guard is None else {"guard": guard}),
        **_description_and_meta(transition.description, transition.meta, own_meta),
    }


def _after(step: FlowStep, at: str, report: ConversionReport) -> dict[str, Any]:
    """Convert the timeout of a step to a delayed transition.

    It has no guard, because a timeout runs its transition unconditionally. A transition that only the timeout
    may run becomes no event.
    """
    timeout = step.timeout
    if timeout is None:
        return {}
    delay = timeout.after // timedelta(milliseconds=1)
    if delay > MAX_DELAY_MS:
        report.converted(f"{at}/timeout", _TOO_LONG)
        return {}
    if timeout.resume != "remaining":
        report.converted(f"{at}/timeout/resume", _RESUME)
    own_meta = _without(to_builtins(timeout), "after")
    transition = step.transitions[timeout.transition]
    texts = _description_and_meta(None, None, own_meta)
    if _is_timed_only(step, transition):
        own = _without(to_builtins(transition), "transition", "step", "description", "meta")
        texts = _description_and_meta(transition.description, transition.meta, {**own, **own_meta})
    return {str(delay): {**_target(step, transition), **texts}}


def _target(step: FlowStep, transition: FlowTransition) -> dict[str, Any]:
    """Return the target; a state that leads to itself needs ``reenter`` to restart its timer."""
    again = {"reenter": True} if transition.step == step.step else {}
    return {"target": transition.step, **again}


def _is_timed_only(step: FlowStep, transition: FlowTransition) -> bool:
    timeout = step.timeout
    return transition.roles == [] and timeout is not None and timeout.transition == transition.transition


def _report_transition(transition: FlowTransition, at: str, report: ConversionReport) -> None:
    raw = to_builtins(transition)
    for member, reason in _TRANSITION_MEMBERS.items():
        if member in raw:
            report.converted(f"{at}/{member}", reason)


def _report_name(name: str, at: str, report: ConversionReport) -> None:
    if name == "__proto__":
        report.converted(at, _PROTO)


def _description_and_meta(
    description: str | None, meta: dict[str, Any] | None, own_meta: dict[str, Any]
) -> dict[str, Any]:
    """Return ``description`` and ``meta`` as XState has them.

    The author's own meta is beside the service's, or inside it if it is empty or has the same member.
    """
    if meta is not None and (not meta or KEY in meta):
        own_meta, meta = {**own_meta, "meta": meta}, None
    combined = {**(meta or {}), **({KEY: own_meta} if own_meta else {})}
    return {
        **({} if description is None else {"description": description}),
        **({"meta": combined} if combined else {}),
    }


def _in_javascript(members: Mapping[str, Any]) -> list[str]:
    """Return the names in the order in which JavaScript enumerates them."""
    return [name for name, _ in members_of(members)]


def _without(raw: dict[str, Any], *members: str) -> dict[str, Any]:
    return {name: value for name, value in raw.items() if name not in members}
