"""Checks of the rules between people: assignments, votes, and who is excluded from a transition."""

from collections.abc import Collection, Iterator
from typing import Any

from msgspec import Struct

from app.contracts.definition import Finding
from app.flow.lint.assignments import (
    SOURCE,
    RolesOnStates,
    assignments_of,
    is_surely_optional,
    member_of,
    types_of,
)
from app.flow.lint.common import as_object, is_integer, objects
from app.flow.lint.duties import duty_findings
from app.flow.lint.findings import error, warning
from app.flow.lint.participants import role_findings, texts_in
from app.flow.lint.permissions import transitions_of
from app.flow.lint.spelling import instead, quoted
from app.flow.people.participants import MAX_PARTICIPANTS
from app.flow.values.struct_errors import escape

MAX_SHOWN = 8
"""Roles that a message names."""
MAX_LISTED = 100
"""Assignments of one transition, and transitions that its ``notBy`` names."""
_MEMBERS = ("assign", "notBy", "approvals")
_DECLARED = "name a role of `participants`"
_IDS = {"string", "array"}


class _Names(Struct, frozen=True):
    """Names of transitions, to which rules refer.

    ``only_timed``: those that people can never run. Not ``complete``: a malformed part may have others.
    """

    transitions: Collection[str]
    only_timed: Collection[str]
    complete: bool


def people_findings(raw: dict[str, Any], steps: dict[str, Any]) -> Iterator[Finding]:
    """Yield findings about roles on states, and about rules between people."""
    governed = [
        (at, transition) for at, transition in transitions_of(steps) if any(m in transition for m in _MEMBERS)
    ]
    declared = raw.get("participants")
    if not isinstance(declared, dict | None) or (declared is None and not governed):
        return
    roles = RolesOnStates.read(raw, steps)
    yield from role_findings(raw, steps, roles)
    known = _names_of_transitions(steps)
    timed = _timed_transitions(steps)
    for at, transition in governed:
        is_timed = at in timed
        yield from _check_assignments(f"{at}/assign", transition, roles, is_timed=is_timed)
        yield from _check_not_by(f"{at}/notBy", transition, known, is_timed=is_timed)
        yield from _check_approvals(f"{at}/approvals", transition, roles, is_timed=is_timed)
    yield from duty_findings(raw, steps, roles)


def _names_of_transitions(steps: dict[str, Any]) -> _Names:
    names: dict[str, None] = {}
    by_people: set[str] = set()
    for _, step in objects(steps):
        for name, transition in objects(step.get("transitions")):
            names[name] = None
            if transition.get("roles") != []:
                by_people.add(name)
    complete = all(isinstance(as_object(step).get("transitions"), dict) for step in steps.values())
    return _Names(names, names.keys() - by_people, complete)


def _timed_transitions(steps: dict[str, Any]) -> set[str]:
    """Return the pointers to the transitions that timeouts run."""
    return {
        f"/steps/{escape(name)}/transitions/{escape(timed)}"
        for name, step in objects(steps)
        if isinstance(timed := as_object(step.get("timeout")).get("transition"), str)
    }


def _check_assignments(
    at: str, transition: dict[str, Any], roles: RolesOnStates, *, is_timed: bool
) -> Iterator[Finding]:
    listed = transition.get("assign")
    if not isinstance(listed, list):
        return
    yield from _check_length(at, listed)
    if len(listed) > MAX_LISTED:
        return
    schema = transition.get("payloadSchema")
    seen = set()
    for position, each in assignments_of(transition):
        role, here = each.get("role"), f"{at}/{position}"
        if isinstance(role, str) and role not in roles.declared:
            yield error(
                f"{here}/role",
                f"The flow declares no role {quoted(role)}",
                instead(role, roles.declared, _DECLARED),
            )
        elif isinstance(role, str) and role in seen:
            message = f"The role {quoted(role)} is assigned twice: the later assignment replaces the people"
            yield warning(f"{here}/role", message, "assign it once, from a member with a list of ids")
        seen.add(role if isinstance(role, str) else None)
        yield from _check_source(f"{here}/from", each.get("from"), schema, is_timed=is_timed)


def _check_source(at: str, source: object, schema: object, *, is_timed: bool) -> Iterator[Finding]:
    if not isinstance(source, str):
        return
    if not SOURCE.match(source):
        yield error(
            at,
            f"{quoted(source)} is not a member of the payload such as payload.approver",
            "write payload. and the name of the member, which has the id of a user or a list of ids",
        )
        return
    if not isinstance(schema, dict):
        return
    member = member_of(source)
    types = types_of(schema, member)
    if types and types.isdisjoint(_IDS):
        yield error(
            at,
            f"By the payload schema, {quoted(member)} is neither the id of a user nor a list of ids",
            'give it the type "string", or "array" with items of that type',
        )
    elif not is_timed and is_surely_optional(schema, member):
        yield warning(
            at,
            f"The payload schema does not require {quoted(member)}, without which the transition is refused",
            "list it in `required` of the schema",
        )


def _check_not_by(at: str, transition: dict[str, Any], known: _Names, *, is_timed: bool) -> Iterator[Finding]:
    listed = transition.get("notBy")
    if not isinstance(listed, list):
        return
    yield from _check_length(at, listed)
    if len(listed) > MAX_LISTED:
        return
    if listed and is_timed and transition.get("roles") == []:
        yield warning(
            at,
            "The rule has no effect: only the timeout of the step runs this transition",
            "leave it out, or list the roles that may run the transition",
        )
    seen: set[str] = set()
    for position, name in texts_in(listed):
        here = f"{at}/{position}"
        if name not in known.transitions:
            if known.complete:
                advice = instead(name, known.transitions, "name a transition of the flow")
                yield error(here, f"The flow has no transition {quoted(name)}", advice)
        elif name in seen:
            yield warning(here, f"The transition {quoted(name)} is listed twice", "list it once")
        elif name in known.only_timed:
            yield warning(
                here,
                f"{quoted(name)} excludes nobody: no person runs it",
                "name a transition that people run, or leave it out",
            )
        seen.add(name)


def _check_approvals(
    at: str, transition: dict[str, Any], roles: RolesOnStates, *, is_timed: bool
) -> Iterator[Finding]:
    approvals = transition.get("approvals")
    if not isinstance(approvals, dict):
        return
    if is_timed:
        yield error(
            at,
            "The timeout of the step runs this transition, without any vote",
            "give the timeout a transition of its own",
        )
    if transition.get("reversible") is True:
        yield warning(
            at,
            "Several people are needed for this transition, but one of them may undo it",
            "leave `reversible` out",
        )
    role, count = approvals.get("of"), approvals.get("count")
    if isinstance(role, str) and role not in roles.declared:
        yield error(
            f"{at}/of", f"The flow declares no role {quoted(role)}", instead(role, roles.declared, _DECLARED)
        )
    elif isinstance(role, str):
        yield from _check_voters(at, role, transition.get("roles"))
    yield from _check_count(f"{at}/count", count, role, roles)


def _check_voters(at: str, role: str, listed: object) -> Iterator[Finding]:
    """Yield findings about roles of a transition beside that of its voters, who need both."""
    if not isinstance(listed, list):
        return
    if role not in listed:
        yield warning(
            f"{at}/of",
            f"The role {quoted(role)} alone may not vote: `roles` of the transition does not list it",
            f"add {quoted(role)} to `roles` of the transition, or leave `roles` out",
        )
        return
    others = [quoted(other) for _, other in texts_in(listed) if other != role]
    if others:
        shown = f"{', '.join(others[:MAX_SHOWN])}{', …' if len(others) > MAX_SHOWN else ''}"
        yield warning(
            f"{at.removesuffix('/approvals')}/roles",
            f"Only people with the role {quoted(role)} vote, not those with {shown}",
            "leave the other roles out, or give them a transition of their own",
        )


def _check_count(at: str, count: object, role: object, roles: RolesOnStates) -> Iterator[Finding]:
    if isinstance(count, float) and count.is_integer():
        yield error(at, f"The number of votes is {count}, but must have no fraction", f"write {int(count)}")
    if not is_integer(count):
        return
    if not 1 <= count <= MAX_PARTICIPANTS:
        yield error(
            at,
            f"The number of votes must be 1 or more, and at most {MAX_PARTICIPANTS}",
            "write the number of people who must agree, from 2",
        )
        return
    if count == 1:
        yield warning(
            at,
            "One vote is no vote: whoever runs the transition moves the state",
            "write 2 or more, or leave `approvals` out",
        )
    if isinstance(role, str) and roles.is_fixed(role):
        most = roles.most[role]
        if count > most:
            people = "one person has" if most == 1 else f"{most} people have"
            yield warning(
                at,
                f"There are never {count} votes: at most {people} the role {quoted(role)}, by `assign`",
                "lower the number, assign more people, or give the role a `group`",
            )


def _check_length(at: str, listed: list[Any]) -> Iterator[Finding]:
    if not listed:
        yield warning(at, "The list is empty, and has no effect", "leave it out")
    elif len(listed) > MAX_LISTED:
        yield error(at, f"The list has more than {MAX_LISTED} members", "shorten it")
