"""The timeouts of steps."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from app.contracts.definition import Finding
from app.flow.lint.common import as_object, check_duration, duration, objects
from app.flow.lint.findings import error, warning
from app.flow.lint.spelling import instead, quoted
from app.flow.values.struct_errors import escape

MIN_TIMEOUT = timedelta(seconds=1)
MIN_CYCLE = timedelta(minutes=1)
"""A cycle of timeouts that is shorter changes a state all the time."""


def timeout_findings(at: str, step: dict[str, Any], ttl: object) -> Iterator[Finding]:
    """Yield findings about the timeout of a step in a flow with this ``ttl``."""
    timeout = as_object(step.get("timeout"))
    yield from check_duration(f"{at}/timeout/after", timeout.get("after"), MIN_TIMEOUT)
    named, transitions = timeout.get("transition"), step.get("transitions")
    if isinstance(named, str) and isinstance(transitions, dict) and named not in transitions:
        yield error(
            f"{at}/timeout/transition",
            f"The step has no transition {quoted(named)}",
            _advice_about_transition(named, transitions),
        )
    after, life = duration(timeout.get("after"), MIN_TIMEOUT), duration(ttl)
    if after is not None and life is not None and after >= life:
        yield warning(
            f"{at}/timeout/after",
            f"The state expires before this timeout: the ttl of the flow is {ttl}",
            "make it shorter than the ttl, or the ttl longer",
        )


def _advice_about_transition(named: str, transitions: dict[str, Any]) -> str:
    if not transitions:
        return "remove the timeout: a step without transitions ends the flow"
    leading = [name for name, transition in objects(transitions) if transition.get("step") == named]
    if leading:
        return f"name the transition that leads to this step: {quoted(leading[0])}"
    return instead(named, transitions, "name a transition of the same step")


def timeout_cycle_findings(steps: dict[str, Any]) -> Iterator[Finding]:
    """Yield findings about short cycles of steps that timeouts alone lead through."""
    timed = dict(_timed_transitions(steps))
    place = {name: at for at, name in enumerate(timed)}
    seen: set[str] = set()
    for start in timed:
        path: list[str] = []
        step = start
        while step in timed and step not in seen:
            seen.add(step)
            path.append(step)
            step = timed[step][0]
        if step not in path:
            continue
        cycle = path[path.index(step) :]
        period = sum((timed[each][1] for each in cycle), timedelta(0))
        if period < MIN_CYCLE:
            first = min(cycle, key=place.__getitem__)
            listed = ", ".join(map(quoted, cycle[:5]))
            yield warning(
                f"/steps/{escape(first)}/timeout/after",
                f"Timeouts alone lead in a cycle through {listed} every {period / timedelta(seconds=1):g} s",
                "wait longer, as each cycle is recorded, or lead to a step without a timeout",
            )


def _timed_transitions(steps: dict[str, Any]) -> Iterator[tuple[str, tuple[str, timedelta]]]:
    """Yield the steps with a timeout, each with its target and duration."""
    for name, step in objects(steps):
        timeout = as_object(step.get("timeout"))
        named, after = timeout.get("transition"), duration(timeout.get("after"), MIN_TIMEOUT)
        transition = as_object(step.get("transitions")).get(named) if isinstance(named, str) else None
        target = as_object(transition).get("step")
        if isinstance(target, str) and after is not None:
            yield name, (target, after)
