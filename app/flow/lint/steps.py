"""Checks of the steps of a flow, each by itself and beside the others."""

from collections.abc import Iterator
from typing import Any

from app.contracts.definition import Finding
from app.flow.conditions.guards import is_expensive
from app.flow.lint.common import as_object, check_key, check_texts, is_integer, objects
from app.flow.lint.findings import error, warning
from app.flow.lint.spelling import instead, quoted
from app.flow.lint.timeouts import timeout_findings
from app.flow.lint.transitions import transition_findings
from app.flow.values.struct_errors import escape
from app.kit.deadline import require_time

MAX_STEPS = 500
MAX_TRANSITIONS = 100
"""Transitions of one step: every response with a state lists those that may run."""
MAX_EXPENSIVE_GUARDS = 5
"""Guards at one step that loop or match: every response with a state evaluates them."""
MAX_INDEX = 2**53 - 1
"""The largest integer that a client in JavaScript reads exactly."""
MAX_POSITION = 255
"""A token has a place for each position up to the last."""
_TABLES = (("service", "services"), ("module", "modules"), ("path", "pathes"))


def step_findings(raw: dict[str, Any], steps: dict[str, Any]) -> Iterator[Finding]:
    """Yield findings about all steps and their members."""
    if not steps:
        yield error("/steps", "A flow must have at least one step", "add the step at which it starts")
    if len(steps) > MAX_STEPS:
        yield error("/steps", f"A flow can have at most {MAX_STEPS} steps", "split it into several flows")
    owners: dict[int, str] = {}
    for name, step in steps.items():
        require_time()
        at = f"/steps/{escape(name)}"
        yield from check_key(at, name, step, "step")
        if isinstance(step, dict):
            yield from _check_index(f"{at}/index", name, step.get("index"), owners)
            yield from check_texts(at, step)
            yield from _check_positions(f"{at}/payloadMap", as_object(step.get("payloadMap")))
            yield from _check_references(at, step, as_object(raw.get("config")))
            yield from _check_transitions(at, step, steps)
            yield from timeout_findings(at, step, raw.get("ttl"))


def _check_index(at: str, name: str, index: object, owners: dict[int, str]) -> Iterator[Finding]:
    if isinstance(index, float) and index.is_integer():
        yield error(at, f"The index is {index}, but must have no fraction", f"write {int(index)}")
    if not is_integer(index):
        return
    if not 0 <= index <= MAX_INDEX:
        yield error(
            at, "An index must be 0 or more, and at most 2^53-1", "give a small number that no other step has"
        )
    elif index in owners:
        yield error(
            at,
            f"Index {index} belongs to step {quoted(owners[index])} too",
            "give a number that no other step has, nor a removed step had",
        )
    owners.setdefault(index, name)


def _check_positions(at: str, payload_map: dict[str, Any]) -> Iterator[Finding]:
    """Yield findings about sparse and repeated positions, which make tokens that are read back wrong.

    They are warnings, as the base system's own flows have a repeated position.
    """
    faults = [fault for key, p in payload_map.items() for fault in _check_position(f"{at}/{escape(key)}", p)]
    yield from faults
    owners: dict[int, str] = {}
    shared: dict[int, list[str]] = {}
    for key, position in payload_map.items():
        if is_integer(position) and owners.setdefault(position, key) != key:
            shared.setdefault(position, [owners[position]]).append(key)
    if shared:
        listed = "; ".join(
            f"{', '.join(map(quoted, keys[:5]))} at {p}" for p, keys in list(shared.items())[:5]
        )
        yield warning(
            at,
            f"Two payload keys share a position in tokens: {listed}",
            "give each its own position; only the last of those with the same one is in the token",
        )
    elif not faults and all(map(is_integer, payload_map.values())) and max(owners, default=-1) >= len(owners):
        yield warning(
            at,
            f"Positions in tokens are not 0, 1, 2 and so on, but {', '.join(map(str, sorted(owners)[:20]))}",
            "number them from 0 without gaps; those left out are empty places in every token",
        )


def _check_position(at: str, position: object) -> Iterator[Finding]:
    if isinstance(position, float) and position.is_integer():
        yield error(at, f"The position is {position}, but must have no fraction", f"write {int(position)}")
    elif is_integer(position) and not 0 <= position <= MAX_POSITION:
        yield error(
            at, f"A position must be 0 or more, and at most {MAX_POSITION}", "number them 0, 1, 2 and so on"
        )


def _check_references(at: str, step: dict[str, Any], config: dict[str, Any]) -> Iterator[Finding]:
    for member, table in _TABLES:
        value = step.get(member)
        known = as_object(config.get(table))
        if isinstance(value, str) and value.startswith("$") and value[1:] not in known:
            yield warning(
                f"{at}/{member}",
                f"{quoted(value)[1:-1]} is not in config.{table}; it stays as it is",
                instead(value[1:], known, f"add it there{', or use what there is' if known else ''}"),
            )


def _check_transitions(at: str, step: dict[str, Any], steps: dict[str, Any]) -> Iterator[Finding]:
    transitions = as_object(step.get("transitions"))
    if len(transitions) > MAX_TRANSITIONS:
        yield error(
            f"{at}/transitions",
            f"A step can have at most {MAX_TRANSITIONS} transitions",
            "put the choice into the payload of one transition, and decide by guards of the next step",
        )
    guards = {each["guard"] for _, each in objects(transitions) if isinstance(each.get("guard"), str)}
    if sum(map(is_expensive, guards)) > MAX_EXPENSIVE_GUARDS:
        yield error(
            f"{at}/transitions",
            f"The step has more than {MAX_EXPENSIVE_GUARDS} guards that loop or match",
            "decide by what an earlier transition put into the payload, or in the program that runs this one",
        )
    timed = as_object(step.get("timeout")).get("transition")
    for name, transition in transitions.items():
        yield from transition_findings(
            f"{at}/transitions/{escape(name)}", name, transition, steps, is_timed=name == timed
        )
