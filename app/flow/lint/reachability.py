"""Reachability: steps that no transition leads to, and steps from which no end can be reached."""

from collections.abc import Iterator
from typing import Any

from app.contracts.definition import Finding
from app.flow.lint.common import as_object
from app.flow.lint.findings import warning
from app.flow.lint.graph import Edges, components, reached, reversed_edges
from app.flow.lint.spelling import quoted
from app.flow.lint.transitions import never_runs
from app.flow.values.struct_errors import escape

_MAX_NAMED = 10


def reachability_findings(raw: dict[str, Any], steps: dict[str, Any]) -> Iterator[Finding]:
    """Yield findings about the connections of steps; none while a step or transition is malformed."""
    if not is_well_formed(raw, steps):
        return
    edges = targets_of(steps)
    entered = reached(edges, entries_of(raw, steps))
    yield from _unreached(edges, entered)
    yield from _traps(steps, entered)


def targets_of(steps: dict[str, Any]) -> dict[str, list[str]]:
    """Return the steps that the transitions of each step lead to."""
    return {
        name: list(dict.fromkeys(each["step"] for each in step["transitions"].values()))
        for name, step in steps.items()
    }


def entries_of(raw: dict[str, Any], steps: dict[str, Any]) -> list[str]:
    """Return the steps at which users may start."""
    return [name for name, step in steps.items() if name == raw["initialStep"] or step.get("initial") is True]


def is_well_formed(raw: dict[str, Any], steps: dict[str, Any]) -> bool:
    """True if the initial step exists, and each transition leads to an existing step."""
    initial = raw.get("initialStep")
    if not isinstance(initial, str) or initial not in steps:
        return False
    for step in steps.values():
        if not isinstance(step, dict) or not isinstance(step.get("transitions"), dict):
            return False
        for transition in step["transitions"].values():
            target = as_object(transition).get("step")
            if not isinstance(target, str) or target not in steps:
                return False
    return True


def _unreached(edges: Edges, entered: set[str]) -> Iterator[Finding]:
    sources = reversed_edges(edges)
    for name in edges:
        if name in entered:
            continue
        others = [source for source in sources[name] if source != name]
        message = "No transition leads here and no state starts here"
        if others:
            message = f"No transition leads here but from {_listed(others)}, which cannot be reached either"
        advice = 'lead a transition here, give the step "initial": true if states start here, or remove it'
        yield warning(f"/steps/{escape(name)}", message, advice)


def _traps(steps: dict[str, Any], entered: set[str]) -> Iterator[Finding]:
    """Yield findings about steps from which a state never reaches an end."""
    edges = {name: _runnable(step) for name, step in steps.items()}
    stuck = [name for name, step in steps.items() if step["transitions"] and not edges[name]]
    for name in stuck:
        if name in entered:
            yield warning(
                f"/steps/{escape(name)}",
                "No transition leads out of this step: no user can run any of them",
                "allow users to run one of them, or remove all of them to end the flow here",
            )
    ends = [name for name, step in steps.items() if not step["transitions"]]
    if not ends:
        yield warning(
            "/steps",
            "The flow has no end: every step has transitions",
            "add a step without transitions, unless the flow should never end",
        )
        return
    finite = reached(reversed_edges(edges), [*ends, *stuck])
    endless = {name: targets for name, targets in edges.items() if name in entered and name not in finite}
    place = {name: at for at, name in enumerate(steps)}
    for component in components(endless):
        if any(target not in component for name in component for target in endless[name]):
            continue  # it leads on, into a trap that is reported itself
        names = sorted(component, key=place.__getitem__)
        only = "leads only to itself" if len(names) == 1 else "lead only to each other"
        yield warning(
            f"/steps/{escape(names[0])}",
            f"No end can be reached from here: {_listed(names)} {only}",
            "lead a transition to a step that ends the flow, unless it should never end",
        )


def _runnable(step: dict[str, Any]) -> list[str]:
    timed = as_object(step.get("timeout")).get("transition")
    return list(
        dict.fromkeys(
            transition["step"]
            for name, transition in step["transitions"].items()
            if not never_runs(transition, is_timed=name == timed)
        )
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(quoted(name) for name in names[:_MAX_NAMED]) + more
