"""Who may do what in a flow: permissions that its author may not have meant to give."""

from collections.abc import Iterator
from typing import Any

from app.contracts.definition import Finding
from app.flow.faults import escape
from app.flow.lint.findings import warning
from app.flow.lint.members import as_object, objects
from app.flow.lint.names import quoted

Place = tuple[str, dict[str, Any]]
"""A transition and the pointer to it."""


def permission_findings(steps: dict[str, Any]) -> Iterator[Finding]:
    """Findings of what users may do with their states, in a flow that requires roles of them."""
    transitions = list(_transitions(steps))
    if any(_restricts(transition) for _, transition in transitions):
        for at, transition in transitions:
            yield from _check_undo(at, transition, steps)


def _restricts(transition: dict[str, Any]) -> bool:
    """Whether it requires a role of a user: one for the timer alone does not."""
    return isinstance(transition.get("roles"), list) and transition["roles"] != []


def _transitions(steps: dict[str, Any]) -> Iterator[Place]:
    for step, each in objects(steps):
        for name, transition in objects(each.get("transitions")):
            yield f"/steps/{escape(step)}/transitions/{escape(name)}", transition


def _check_undo(at: str, transition: dict[str, Any], steps: dict[str, Any]) -> Iterator[Finding]:
    target = transition.get("step")
    if transition.get("reversible") is not True or not isinstance(target, str):
        return
    if as_object(steps.get(target)).get("transitions") == {}:
        yield warning(
            f"{at}/reversible",
            f"the flow ends at {quoted(target)}, and undoing this transition opens a completed state again",
            "leave `reversible` out, unless whoever may run the transition may also take back the end",
        )
