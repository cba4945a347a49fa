"""Roles of participants as a definition has them: who can get them, and how many people."""

import re
from collections.abc import Iterator
from typing import Any, Self

from msgspec import Struct

from app.flow.lint.common import as_object, is_integer
from app.flow.lint.permissions import transitions_of
from app.flow.people.participants import MAX_PARTICIPANTS

SOURCE = re.compile(r"payload\.[^\s./\x00-\x1f\x7f]{1,256}\Z")
"""A member of the payload as ``assign`` names it."""
_OPEN = ("$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "dependentRequired", "dependentSchemas")
"""Keywords by which a schema may require what it does not list itself."""


class Assigned(Struct, frozen=True):
    """A transition that assigns a role, to at most ``most`` people."""

    transition: dict[str, Any]
    most: int


class RolesOnStates(Struct, frozen=True):
    """The declared roles, and the transitions that assign each.

    ``most`` is the largest number of people to whom one transition assigns a role.
    """

    declared: dict[str, Any]
    assigned: dict[str, list[Assigned]]
    most: dict[str, int]

    @classmethod
    def read(cls, raw: dict[str, Any], steps: dict[str, Any]) -> Self:
        """Read the roles of a flow."""
        declared = as_object(raw.get("participants"))
        assigned: dict[str, list[Assigned]] = {}
        for _, transition in transitions_of(steps):
            schema = as_object(transition.get("payloadSchema"))
            for _, each in assignments_of(transition):
                role, source = each.get("role"), each.get("from")
                if isinstance(role, str) and role in declared:
                    most = (
                        most_people(schema, member_of(source))
                        if isinstance(source, str)
                        else MAX_PARTICIPANTS
                    )
                    assigned.setdefault(role, []).append(Assigned(transition, most))
        at_once = {role: max(each.most for each in places) for role, places in assigned.items()}
        return cls(declared, assigned, at_once)

    def is_open(self, role: str) -> bool:
        """True if people get the role by a group, or if callers may name them."""
        declared = as_object(self.declared.get(role))
        return bool(declared.get("group")) or bool(declared.get("assignable"))

    def is_fixed(self, role: str) -> bool:
        """True if people get the role by transitions alone, apart from services and administrators."""
        return role in self.assigned and not self.is_open(role)


def assignments_of(transition: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the assignments of a transition that are objects, with their positions."""
    listed = transition.get("assign")
    for position, each in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(each, dict):
            yield position, each


def member_of(source: str) -> str:
    """Return the member of the payload that an assignment reads."""
    return source.removeprefix("payload.")


def is_surely_optional(schema: dict[str, Any], member: str) -> bool:
    """True if a payload schema accepts a payload without the member."""
    required = schema.get("required")
    if isinstance(required, list) and member in required:
        return False
    return not any(keyword in schema for keyword in _OPEN)


def types_of(schema: dict[str, Any], member: str) -> set[str]:
    """Return the types that a payload schema allows for a member; none if it does not say."""
    given = _schema_of(schema, member).get("type")
    if isinstance(given, str):
        return {given}
    return {each for each in given if isinstance(each, str)} if isinstance(given, list) else set()


def most_people(schema: dict[str, Any], member: str) -> int:
    """Return the largest number of people whom a member that fits a payload schema can name."""
    wanted = _schema_of(schema, member)
    values = [wanted["const"]] if "const" in wanted else wanted.get("enum")
    if isinstance(values, list):
        return min(MAX_PARTICIPANTS, max((_count(value) for value in values), default=0))
    types = types_of(schema, member)
    if types and "array" not in types:
        return 1
    most = wanted.get("maxItems")
    if not is_integer(most) or not 0 <= most < MAX_PARTICIPANTS:
        return MAX_PARTICIPANTS
    return most if types == {"array"} else max(most, 1)


def _count(value: object) -> int:
    return len(value) if isinstance(value, list) else 1


def _schema_of(schema: dict[str, Any], member: str) -> dict[str, Any]:
    """Return the schema of a member, also one that is referred to in ``$defs``."""
    wanted = as_object(as_object(schema.get("properties")).get(member))
    reference = wanted.get("$ref")
    if isinstance(reference, str) and len(wanted) == 1:
        return as_object(as_object(schema.get("$defs")).get(reference.removeprefix("#/$defs/")))
    return wanted
