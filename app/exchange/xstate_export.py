"""A flow as a state machine of XState v5.

A step is a state, a transition the event of its name, a step without transitions a final state, a timeout
a delayed transition, a guard a guard of the type ``cel``. The rest is in ``meta`` of the state, transition
or machine that it belongs to, under ``server-flow``, so that from_xstate gives the same flow again.
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
"""The longest time that XState can wait for: its clock is ``setTimeout``, which takes more for 1 ms."""

_OF_A_FLOW = {
    "ttl": "XState has no end of time for a state",
    "roles": "XState does not know who looks",
    "resettable": "XState does not know who acts",
    "clearable": "XState does not know who acts",
}
_OF_A_TRANSITION = {
    "explicit": "XState has no next that would skip it",
    "reversible": "XState does not remember the step before, and has no way back",
    "guard": "XState calls the guard named cel with params.expression, which your program provides",
    "payloadSchema": "XState does not check what comes with an event",
    "roles": "XState does not ask who sends an event",
}
_INITIAL = "XState begins at its one initial state"
_RESUME = "XState knows no pause"
_TOO_LONG = f"XState's clock cannot wait longer than {MAX_DELAY_MS} ms, and would not wait at all"
_PROTO = "JavaScript takes this name for something else, and XState loses it"


def to_xstate(flow: Flow) -> Exported:
    """The machine of a sound flow. Listed is what XState keeps as data and does not act on."""
    notes = ConversionReport()
    raw = to_builtins(flow)
    for member, reason in _OF_A_FLOW.items():
        if member in raw:
            notes.kept(f"/{member}", reason)
    names = list(flow.steps)
    ours = _without(raw, "flow", "initialStep", "steps", "description", "meta")
    if _in_javascript(flow.steps) != names:
        ours["steps"] = names
    machine = {
        "id": flow.flow,
        **_texts(flow.description, flow.meta, ours),
        "initial": flow.initial_step,
        "states": {name: _state(step, notes) for name, step in flow.steps.items()},
    }
    return Exported(machine, notes.all)


def _state(step: FlowStep, notes: ConversionReport) -> dict[str, Any]:
    at = f"/steps/{escape(step.step)}"
    ours = _without(to_builtins(step), "step", "transitions", "description", "meta")
    if step.initial:
        notes.kept(f"{at}/initial", _INITIAL)
    _note_name(step.step, at, notes)
    after = _after(step, at, notes)
    if after:
        del ours["timeout"]
    on = {}
    for name, transition in step.transitions.items():
        _note_name(name, f"{at}/transitions/{escape(name)}", notes)
        if _is_timed_only(step, transition) and after:
            continue
        on[name] = _event(step, transition)
        _note_transition(transition, f"{at}/transitions/{escape(name)}", notes)
    names = list(step.transitions)
    if [*_in_javascript(on), *(name for name in names if name not in on)] != names:
        ours["transitions"] = names
    return {
        **({} if step.transitions else {"type": "final"}),
        **_texts(step.description, step.meta, ours),
        **({"on": on} if on else {}),
        **({"after": after} if after else {}),
    }


def _event(step: FlowStep, transition: FlowTransition) -> dict[str, Any]:
    ours = _without(to_builtins(transition), "transition", "step", "guard", "description", "meta")
    guard = {"type": CEL, "params": {"expression": transition.guard}}
    return {
        **_target(step, transition),
        **({} if transition.guard is None else {"guard": guard}),
        **_texts(transition.description, transition.meta, ours),
    }


def _after(step: FlowStep, at: str, notes: ConversionReport) -> dict[str, Any]:
    """The delayed transition of a step's timeout. Nothing is asked when a timeout runs a transition, so
    that it has no guard; and a transition that nobody else may run is here alone."""
    timeout = step.timeout
    if timeout is None:
        return {}
    delay = timeout.after // timedelta(milliseconds=1)
    if delay > MAX_DELAY_MS:
        notes.kept(f"{at}/timeout", _TOO_LONG)
        return {}
    if timeout.resume != "remaining":
        notes.kept(f"{at}/timeout/resume", _RESUME)
    ours = _without(to_builtins(timeout), "after")
    transition = step.transitions[timeout.transition]
    texts = _texts(None, None, ours)
    if _is_timed_only(step, transition):
        own = _without(to_builtins(transition), "transition", "step", "description", "meta")
        texts = _texts(transition.description, transition.meta, {**own, **ours})
    return {str(delay): {**_target(step, transition), **texts}}


def _target(step: FlowStep, transition: FlowTransition) -> dict[str, Any]:
    """Without ``reenter`` a state that leads to itself is not left, and its time goes on."""
    again = {"reenter": True} if transition.step == step.step else {}
    return {"target": transition.step, **again}


def _is_timed_only(step: FlowStep, transition: FlowTransition) -> bool:
    timeout = step.timeout
    return transition.roles == [] and timeout is not None and timeout.transition == transition.transition


def _note_transition(transition: FlowTransition, at: str, notes: ConversionReport) -> None:
    raw = to_builtins(transition)
    for member, reason in _OF_A_TRANSITION.items():
        if member in raw:
            notes.kept(f"{at}/{member}", reason)


def _note_name(name: str, at: str, notes: ConversionReport) -> None:
    if name == "__proto__":
        notes.kept(at, _PROTO)


def _texts(description: str | None, meta: dict[str, Any] | None, ours: dict[str, Any]) -> dict[str, Any]:
    """``description`` and ``meta`` as XState has them. The author's own meta is beside ours, or in it where
    it would be taken for ours or for none."""
    if meta is not None and (not meta or KEY in meta):
        ours, meta = {**ours, "meta": meta}, None
    whole = {**(meta or {}), **({KEY: ours} if ours else {})}
    return {
        **({} if description is None else {"description": description}),
        **({"meta": whole} if whole else {}),
    }


def _in_javascript(members: Mapping[str, Any]) -> list[str]:
    """The names in the order that they have once JavaScript has read them."""
    return [name for name, _ in members_of(members)]


def _without(raw: dict[str, Any], *members: str) -> dict[str, Any]:
    return {name: value for name, value in raw.items() if name not in members}
