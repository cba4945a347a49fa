"""Checks a definition whole, before it is stored: every finding at once."""

import re
from datetime import timedelta
from typing import Any

import msgspec

from app.contracts.definition import Finding
from app.contracts.errors import Fault, InvalidDefinitionError
from app.contracts.flow import Flow
from app.flow.faults import escape, faults_of
from app.flow.jsonable import unkeepable

_SLUG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}\Z")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_\-]{0,63}\Z")
MAX_STEPS = 500
MIN_TIMEOUT = timedelta(seconds=1)
MAX_DURATION = timedelta(days=36_525)


def parse_flow(raw: object) -> tuple[Flow, list[Finding]]:
    """The flow and its warnings. Raises InvalidDefinitionError with every error in it."""
    findings = check_flow(raw)
    errors = [Fault(f.pointer, f.message) for f in findings if f.severity == "error"]
    if errors:
        raise InvalidDefinitionError(errors)
    return msgspec.convert(raw, Flow), findings


def check_flow(raw: object) -> list[Finding]:
    """Everything wrong with a definition as decoded from JSON, in the order of the document's
    parts: its shape first, then what the parts say of each other."""
    findings = [Finding(f.pointer, f.message) for f in unkeepable(raw, "")]
    if findings:
        return findings
    findings = [Finding(f.pointer, f.message) for f in faults_of(raw, Flow)]
    if not isinstance(raw, dict):
        return findings
    slug = raw.get("flow")
    if isinstance(slug, str):
        if ":" in slug:
            findings.append(Finding("/flow", "a flow's slug must not have a colon"))
        elif not _SLUG.match(slug):
            findings.append(
                Finding("/flow", "a slug is 1 to 64 letters, digits, '_', '-' or '.', no '-' or '.' first")
            )
    steps = raw.get("steps")
    if not isinstance(steps, dict):
        return findings
    if not steps:
        findings.append(Finding("/steps", "a flow needs at least one step"))
    if len(steps) > MAX_STEPS:
        findings.append(Finding("/steps", f"a flow has at most {MAX_STEPS} steps"))
    findings.extend(_check_duration("/ttl", raw.get("ttl")))
    initial = raw.get("initialStep")
    if isinstance(initial, str) and initial not in steps:
        findings.append(Finding("/initialStep", f"there is no step {initial!r}"))
    seen_indexes: dict[int, str] = {}
    for name, step in steps.items():
        findings.extend(_check_step(name, step, steps, seen_indexes))
    findings.extend(_check_references(raw, steps))
    if not any(f.severity == "error" for f in findings):
        findings.extend(_unreachable(steps, raw["initialStep"]))
    return findings


def _check_step(
    name: str, step: object, steps: dict[str, Any], seen_indexes: dict[int, str]
) -> list[Finding]:
    at = f"/steps/{escape(name)}"
    findings = [] if _NAME.match(name) else [Finding(at, _bad_name("step"))]
    if not isinstance(step, dict):
        return findings
    findings.extend(_check_key(at, name, step, "step"))
    index = step.get("index")
    if isinstance(index, int) and not isinstance(index, bool):
        if index < 0:
            findings.append(Finding(f"{at}/index", "an index is 0 or more"))
        if index in seen_indexes:
            findings.append(
                Finding(f"{at}/index", f"index {index} is that of step {seen_indexes[index]!r} too")
            )
        seen_indexes.setdefault(index, name)
    payload_map = step.get("payloadMap")
    if isinstance(payload_map, dict):
        findings.extend(_check_positions(f"{at}/payloadMap", payload_map))
    findings.extend(_check_timeout(at, step))
    transitions = step.get("transitions")
    if isinstance(transitions, dict):
        for key, transition in transitions.items():
            here = f"{at}/transitions/{escape(key)}"
            if not _NAME.match(key):
                findings.append(Finding(here, _bad_name("transition")))
            if not isinstance(transition, dict):
                continue
            findings.extend(_check_key(here, key, transition, "transition"))
            target = transition.get("step")
            if isinstance(target, str) and target not in steps:
                findings.append(Finding(f"{here}/step", f"there is no step {target!r}"))
    return findings


def _check_duration(
    at: str, duration: object, *, least: timedelta = timedelta(milliseconds=1)
) -> list[Finding]:
    if not isinstance(duration, str):
        return []
    try:
        given = msgspec.convert(duration, timedelta)
        usable = least <= given <= MAX_DURATION and not given % timedelta(milliseconds=1)
    except msgspec.ValidationError:
        usable = False
    if usable:
        return []
    bounds = f"of {least / timedelta(seconds=1):g} seconds to 100 years"
    return [Finding(at, f"takes an ISO 8601 duration such as P30D or PT12H, {bounds}")]


def _check_timeout(at: str, step: dict[str, Any]) -> list[Finding]:
    timeout = _object(step.get("timeout"))
    findings = _check_duration(f"{at}/timeout/after", timeout.get("after"), least=MIN_TIMEOUT)
    named, transitions = timeout.get("transition"), _object(step.get("transitions"))
    if isinstance(named, str) and named not in transitions:
        findings.append(Finding(f"{at}/timeout/transition", f"the step has no transition {named!r}"))
    return findings


def _check_key(at: str, key: str, value: dict[str, Any], member: str) -> list[Finding]:
    name = value.get(member)
    if isinstance(name, str) and name != key:
        return [Finding(f"{at}/{member}", f"is {name!r}, but its key is {key!r}")]
    return []


def _check_positions(at: str, payload_map: dict[str, Any]) -> list[Finding]:
    """Sparse and repeated positions make tokens that read back wrong; the base system's own flows
    have a repeated one, so that it is no error."""
    positions = [p for p in payload_map.values() if isinstance(p, int) and not isinstance(p, bool)]
    findings = [
        Finding(f"{at}/{escape(key)}", "a position is 0 or more")
        for key, p in payload_map.items()
        if isinstance(p, int) and p < 0
    ]
    if len(set(positions)) < len(positions):
        findings.append(Finding(at, "two payload keys share a position in tokens", "warning"))
    elif not findings and sorted(positions) != list(range(len(positions))):
        findings.append(Finding(at, "positions in tokens are not 0, 1, 2 and so on", "warning"))
    return findings


def _check_references(raw: dict[str, Any], steps: dict[str, Any]) -> list[Finding]:
    config = _object(raw.get("config"))
    findings = []
    for name, step in steps.items():
        if not isinstance(step, dict):
            continue
        for member, table in (("service", "services"), ("module", "modules"), ("path", "pathes")):
            value = step.get(member)
            known = _object(config.get(table))
            if isinstance(value, str) and value.startswith("$") and value[1:] not in known:
                findings.append(
                    Finding(
                        f"/steps/{escape(name)}/{member}",
                        f"{value} is not in config.{table}; it stays as it is",
                        "warning",
                    )
                )
    return findings


def _unreachable(steps: dict[str, Any], initial: str) -> list[Finding]:
    """Steps that nothing leads to: neither the start, nor an ``initial`` step, nor a transition."""
    reached = {initial} | {name for name, step in steps.items() if step.get("initial") is True}
    frontier = list(reached)
    while frontier:
        for transition in steps[frontier.pop()]["transitions"].values():
            if transition["step"] not in reached:
                reached.add(transition["step"])
                frontier.append(transition["step"])
    return [
        Finding(f"/steps/{escape(name)}", "no transition leads here and no flow begins here", "warning")
        for name in steps
        if name not in reached
    ]


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _bad_name(what: str) -> str:
    return f"the name of a {what} is 1 to 64 letters, digits, '_' or '-', no '-' first"
