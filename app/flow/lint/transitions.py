"""Checks of the transitions of a step."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
from jsonschema_rs import Draft202012Validator, RegexOptions

from app.contracts.definition import Finding
from app.flow.conditions.guards import FIELDS, constant_value, fault_of_guard
from app.flow.conditions.payload_schemas import DIALECT, faults_of_schema
from app.flow.lint.common import check_key, check_roles, check_texts
from app.flow.lint.findings import error, warning
from app.flow.lint.keywords import keyword_findings
from app.flow.lint.spelling import instead, nearest, quoted

MAX_EVALUATED_REFERENCES = 24
"""References of a schema up to which it is evaluated for an empty payload."""
_GUARD_ADVICE = {
    "Syntax error": "write a condition in CEL: && is and, || is or, ! is not, == is equals",
    "not true or false": "compare it with something: a guard is a condition",
    "no matching overload": "compare values of one type",
    "can never be evaluated": "correct this part: it has no value, whatever the guard reads",
    "divides by zero": "divide by another number, and check first what may be zero: x != 0 && …",
    "which no list has": "count from 0; the last member of a list x is x[size(x) - 1]",
    "argument of matches": "write a regular expression of RE2",
    "argument of timestamp": "write it like '2026-12-31T23:59:59Z'",
    "argument of duration": "write it like '90s' or '1h30m'",
    "argument of get": "name a time zone, such as 'Europe/Paris' or '+02:00'",
    "is not a valid argument": "write a valid argument",
}
_SIMPLER = "make it simpler, or let the program that runs the transition decide"
_KEYWORD_ADVICE = {
    "type": "write array, boolean, integer, null, number, object or string, or a list of them",
    "pattern": "write a regular expression without look-around and back-references",
    "$ref": "refer to an existing place in this schema, such as #/$defs/name",
    "$schema": f"leave it out, or write {DIALECT}",
}
_UNDECLARED = re.compile(r"undeclared reference to '([^']*)'")


def transition_findings(
    at: str, name: str, transition: object, steps: dict[str, Any], *, is_timed: bool
) -> Iterator[Finding]:
    """Yield findings about one transition.

    Args:
        at: The pointer to it.
        name: Its key.
        transition: The transition as it is written.
        steps: The steps of the flow.
        is_timed: True if the timeout of its step runs it, without a caller and without a payload.
    """
    yield from check_key(at, name, transition, "transition")
    if not isinstance(transition, dict):
        return
    target = transition.get("step")
    if isinstance(target, str) and target not in steps:
        advice = instead(target, steps, "add that step, or lead to an existing one")
        yield error(f"{at}/step", f"There is no step {quoted(target)}", advice)
    yield from check_texts(at, transition)
    yield from _check_guard(f"{at}/guard", transition.get("guard"), is_timed=is_timed)
    yield from _check_schema(f"{at}/payloadSchema", transition.get("payloadSchema"), is_timed=is_timed)
    yield from check_roles(f"{at}/roles", transition.get("roles"))
    if transition.get("roles") == [] and not is_timed:
        yield warning(
            f"{at}/roles",
            "No role may run this transition, and no timeout does",
            "list the roles that may, leave `roles` out for everybody, or let the timeout of the step run it",
        )


def never_runs(transition: dict[str, Any], *, is_timed: bool) -> bool:
    """True if nobody can ever run a transition."""
    return not is_timed and (transition.get("roles") == [] or _is_false(transition.get("guard")))


def _check_guard(at: str, guard: object, *, is_timed: bool) -> Iterator[Finding]:
    if not isinstance(guard, str):
        return
    fault = fault_of_guard(guard)
    if fault is not None:
        yield error(at, fault, _advice_about_guard(fault))
    elif is_timed:
        yield error(
            at,
            "The timeout of the step runs this transition, whether its guard holds or not",
            "give the timeout a transition of its own, and put the guard on the transitions that follow it",
        )
    elif _is_false(guard):
        yield warning(
            at,
            "The guard never holds: no user can run this transition",
            "write a condition that can hold, or remove the transition",
        )


def _check_schema(at: str, schema: object, *, is_timed: bool) -> Iterator[Finding]:
    if not isinstance(schema, dict):
        return
    faults = faults_of_schema(schema)
    for fault in faults:
        *around, keyword = fault.pointer.split("/")
        is_name = around[-1:] in (["properties"], ["$defs"], ["patternProperties"], ["dependentSchemas"])
        advice = None if is_name else _KEYWORD_ADVICE.get(keyword)
        yield error(
            f"{at}{fault.pointer}",
            fault.message,
            advice or "write a JSON Schema of the dialect 2020-12",
        )
    yield from keyword_findings(at, schema)
    refusal = _empty_payload_fault(schema) if is_timed and not faults else None
    if refusal is not None:
        yield error(
            at,
            f"The timeout of the step runs this transition without payload: {refusal}",
            "remove the schema, or give the timeout a transition of its own",
        )


def _empty_payload_fault(schema: dict[str, Any]) -> str | None:
    """Return the reason why a sound schema refuses an empty payload; None if it accepts one.

    A schema with so many references that the validation might not end is not evaluated.
    """
    if msgspec.json.encode(schema).count(b'"$ref"') > MAX_EVALUATED_REFERENCES:
        return None
    validator = Draft202012Validator(schema, pattern_options=RegexOptions())
    first = next(iter(validator.iter_errors({})), None)
    return None if first is None else first.message


def _advice_about_guard(fault: str) -> str:
    undeclared = _UNDECLARED.search(fault)
    if undeclared is None:
        return next((advice for part, advice in _GUARD_ADVICE.items() if part in fault), _SIMPLER)
    alike = nearest(undeclared[1], FIELDS)
    return f"did you mean {alike!r}?" if alike else f"a guard reads {', '.join(FIELDS)}"


def _is_false(guard: object) -> bool:
    return isinstance(guard, str) and constant_value(guard) is False
