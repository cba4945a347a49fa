"""Checks of the roles that people have on a single state."""

from collections.abc import Collection, Iterator
from datetime import timedelta
from typing import Any

from app.contracts.definition import Finding
from app.flow.lint.assignments import RolesOnStates
from app.flow.lint.common import MAX_ROLES, as_object, check_duration, check_roles, check_texts, objects
from app.flow.lint.findings import error, warning
from app.flow.lint.permissions import roles_of, transitions_of
from app.flow.lint.spelling import ROLE_RULE, instead, is_role, nearest, quoted
from app.flow.values.struct_errors import escape

MIN_CLAIM = timedelta(seconds=1)


def role_findings(raw: dict[str, Any], steps: dict[str, Any], roles: RolesOnStates) -> Iterator[Finding]:
    """Yield findings about the declared roles, and about those of transitions that resemble them."""
    declared = roles.declared
    if len(declared) > MAX_ROLES:
        yield error(
            "/participants",
            f"The flow declares more than {MAX_ROLES} roles",
            "let people with similar tasks share a role",
        )
        return
    known = dict.fromkeys([*declared, *token_roles(raw, steps)])
    used, claimable = _roles_in_use(steps)
    for role in declared:
        at = f"/participants/{escape(role)}"
        if not is_role(role):
            yield error(
                at,
                f"{quoted(role)} is not a role: a role has {ROLE_RULE}",
                "rename it, and put the text for people into `title`",
            )
    for role, member in objects(declared):
        at = f"/participants/{escape(role)}"
        yield from check_texts(at, member)
        yield from _check_group(f"{at}/group", member.get("group"))
        yield from _check_assignable(f"{at}/assignable", member.get("assignable"), known)
        yield from _check_take_over(f"{at}/takeOver", member, declared)
        yield from check_duration(f"{at}/claim", member.get("claim"), MIN_CLAIM)
        if isinstance(member.get("claim"), str) and role not in claimable:
            yield _useless_claim(f"{at}/claim", is_used=role in used)
    yield from _check_obtainable(roles)
    yield from _check_spelling(raw, steps, declared)


def token_roles(raw: dict[str, Any], steps: dict[str, Any]) -> Iterator[str]:
    """Yield the roles that the flow requires of users, and those of its transitions."""
    for listed in (raw.get("roles"), raw.get("resettable"), raw.get("clearable")):
        yield from (role for _, role in texts_in(listed))
    for _, transition in transitions_of(steps):
        yield from (role for _, role in texts_in(transition.get("roles")))


def _roles_in_use(steps: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Return the roles of all transitions, and those of transitions without votes."""
    used, claimable = set(), set()
    for _, transition in transitions_of(steps):
        listed = {role for _, role in texts_in(roles_of(transition))}
        used |= listed
        if transition.get("approvals") is None:
            claimable |= listed
    return used, claimable


def _check_group(at: str, group: object) -> Iterator[Finding]:
    if isinstance(group, str) and not is_role(group):
        yield error(
            at,
            f"{quoted(group)} is not a group: a group has {ROLE_RULE}",
            "write the group as in the claim `groups` of tokens",
        )


def _check_assignable(at: str, assignable: object, known: Collection[str]) -> Iterator[Finding]:
    yield from check_roles(at, assignable)
    if assignable == []:
        yield warning(
            at,
            "No role may name the people with this role, only services and administrators may",
            "write false, or list the roles that may",
        )
    for position, role in texts_in(assignable):
        if role not in known and is_role(role):
            yield warning(
                f"{at}/{position}",
                f"{quoted(role)} is no role of `participants`: only owners of states can have it, by a token",
                instead(role, known, "name a role of `participants`"),
            )


def _check_take_over(at: str, member: dict[str, Any], declared: dict[str, Any]) -> Iterator[Finding]:
    listed = member.get("takeOver")
    yield from check_roles(at, listed)
    for position, role in texts_in(listed):
        if role not in declared and is_role(role):
            yield error(
                f"{at}/{position}",
                f"The flow declares no role {quoted(role)}",
                instead(role, declared, "name a role of `participants`"),
            )
    if isinstance(listed, list) and member.get("claim") is None:
        yield warning(
            at,
            "There is nothing to take over: the tasks of this role cannot be claimed",
            'add "claim": "PT15M", or leave `takeOver` out',
        )


def _useless_claim(at: str, *, is_used: bool) -> Finding:
    message = "There is nothing to claim: no transition lists this role in its `roles`"
    if is_used:
        message = (
            "There is nothing to claim: each transition of this role has `approvals`, for several people"
        )
    return warning(
        at, message, "leave it out, or list the role in `roles` of a transition without `approvals`"
    )


def _check_obtainable(roles: RolesOnStates) -> Iterator[Finding]:
    """Yield findings about roles that nobody but a service or an administrator can give to anybody."""
    obtainable = {
        role
        for role, member in roles.declared.items()
        if role in roles.assigned or as_object(member).get("group") or _is_named_by_others(role, roles)
    }
    before = -1
    while before != len(obtainable):
        before = len(obtainable)
        obtainable |= {
            role
            for role, member in objects(roles.declared)
            if any(each in obtainable for _, each in texts_in(member.get("assignable")))
        }
    for role, member in objects(roles.declared):
        if role in obtainable or member.get("assignable") == []:
            continue
        if member.get("assignable") is None:
            yield warning(
                f"/participants/{escape(role)}",
                "Nobody can get this role, unless a service or an administrator names people",
                'add "group", "assignable": true, or `assign` to a transition; or leave it so by '
                '"assignable": false',
            )
        elif isinstance(member.get("assignable"), list):
            yield warning(
                f"/participants/{escape(role)}/assignable",
                "Nobody can get this role: only roles that nobody can get may name people",
                "list a role that people have, or write true",
            )


def _is_named_by_others(role: str, roles: RolesOnStates) -> bool:
    """True if callers who need no declared role may name people, or if it is left to services on purpose."""
    assignable = as_object(roles.declared[role]).get("assignable")
    return isinstance(assignable, bool) or any(each not in roles.declared for _, each in texts_in(assignable))


def _check_spelling(
    raw: dict[str, Any], steps: dict[str, Any], declared: dict[str, Any]
) -> Iterator[Finding]:
    """Yield findings about required roles that are probably misspelt roles of participants."""
    lists = [(f"/{member}", raw.get(member)) for member in ("resettable", "clearable")]
    lists += [(f"{at}/roles", transition.get("roles")) for at, transition in transitions_of(steps)]
    similar: dict[str, str | None] = {}
    for at, listed in lists:
        for position, role in texts_in(listed):
            if role in declared:
                continue
            if role not in similar:
                similar[role] = nearest(role, declared)
            alike = similar[role]
            if alike is not None:
                yield warning(
                    f"{at}/{position}",
                    f"{quoted(role)} is no role of `participants`: only the owner can have it, by a token",
                    f"did you mean {quoted(alike)}?",
                )


def texts_in(listed: object) -> list[tuple[int, str]]:
    """Return the texts in a list, with their positions."""
    found = enumerate(listed) if isinstance(listed, list) else ()
    return [(position, each) for position, each in found if isinstance(each, str)]
