"""Checks for permissions that the author of a flow may not have intended."""

from collections.abc import Iterator
from typing import Any

from app.contracts.definition import Finding
from app.flow.conditions.guards import compiled, fault_of_guard
from app.flow.lint.common import as_object, check_roles, objects
from app.flow.lint.findings import warning
from app.flow.lint.spelling import quoted
from app.flow.values.struct_errors import escape

_OF_STATES = {"resettable": "reset", "clearable": "clear"}
"""Members of a flow with the permissions to reset and clear its states."""

Place = tuple[str, dict[str, Any]]
"""A transition and the pointer to it."""


def permission_findings(raw: dict[str, Any], steps: dict[str, Any]) -> Iterator[Finding]:
    """Yield findings about what users may do with their states."""
    for member in _OF_STATES:
        yield from _check_member(member, raw.get(member))
    on_states = as_object(raw.get("participants"))
    given = [roles for _, transition in transitions_of(steps) if (roles := roles_of(transition))]
    if not given:
        return
    for member, does in _OF_STATES.items():
        if raw.get(member) is None:
            yield warning(
                "",
                f"Transitions require roles, but everybody who may act on a state may {does} it",
                f'add "{member}": false for administrators only, a list of roles, or true to leave it so',
            )
    of_tokens = any(not isinstance(role, str) or role not in on_states for roles in given for role in roles)
    for at, transition in transitions_of(steps):
        is_open = transition.get("roles") is None and roles_of(transition) is None
        if is_open and of_tokens and not reads_caller(transition.get("guard")):
            yield warning(
                at,
                "Mixed roles: other transitions require a role, but the user of the state may run this one",
                "list the roles that may run it, or write a guard on user, such as user.id == state.userId",
            )
        yield from _check_undo(at, transition, steps)


def roles_of(transition: dict[str, Any]) -> list[Any] | None:
    """Return the roles of which a transition requires one; None if it requires none.

    A transition that needs votes requires the role of the voters if it lists no roles.
    """
    roles, voters = transition.get("roles"), as_object(transition.get("approvals")).get("of")
    if roles is None and isinstance(voters, str):
        return [voters]
    return roles if isinstance(roles, list) else None


def reads_caller(guard: object) -> bool:
    """True if a sound guard depends on the caller, by which its author has restricted the transition."""
    return isinstance(guard, str) and fault_of_guard(guard) is None and compiled(guard).reads_user


def _check_member(member: str, value: object) -> Iterator[Finding]:
    yield from check_roles(f"/{member}", value)
    if value == []:
        yield warning(
            f"/{member}",
            f"No role may {_OF_STATES[member]} a state, only administrators may",
            "write false, or list the roles that may",
        )


def transitions_of(steps: dict[str, Any]) -> Iterator[Place]:
    """Yield the transitions of a flow with their pointers."""
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
            f"The flow ends at {quoted(target)}, and undoing this transition opens a completed state again",
            "leave `reversible` out, unless those who may run the transition may also undo the end",
        )
