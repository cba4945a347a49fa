"""How often a JSON Schema may look at one value: what bounds the time that a payload takes.

A schema that leads to itself, or to one place by several ways, multiplies: two references to the next of 60
definitions are 2**60 steps, and so is a recursive schema with two ways on at each of the levels of a payload.
"""

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from app.contracts.errors import Fault
from app.flow.faults import escape
from app.flow.jsonable import MAX_DEPTH

MAX_LOOKS = 1000
MAX_SCHEMAS = 1000
MAX_PATTERNS = 20

_ONE = ("not", "if", "then", "else", "$ref")
_MANY = ("allOf", "anyOf", "oneOf")
_OF_EACH = ("additionalProperties", "propertyNames", "unevaluatedProperties", "contains", "unevaluatedItems")
_UNTAKEN = ("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor")
_BY_NAME = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
_DATA = ("const", "enum", "default", "examples")


def cost_faults(schema: dict[str, Any]) -> list[Fault]:
    """What of a schema leads out of it, leads nowhere, or may take too long."""
    parts = list(_parts(schema, ""))
    faults = [
        Fault(f"{at}/{name}", "is not taken here: name the place with a $ref such as #/$defs/name")
        for at, part in parts
        for name in (*_UNTAKEN, *(("$id",) if at else ()))
        if name in part
    ]
    faults += [
        Fault(f"{at}/$ref", _lost(part["$ref"]))
        for at, part in parts
        if isinstance(part.get("$ref"), str) and _target(schema, part["$ref"]) is None
    ]
    patterns = sum(("pattern" in part) + len(part.get("patternProperties", ())) for _, part in parts)
    if patterns > MAX_PATTERNS:
        faults.append(Fault("", f"has {patterns} patterns, more than {MAX_PATTERNS}"))
    if len(parts) > MAX_SCHEMAS:
        faults.append(Fault("", f"has {len(parts)} schemas in it, more than {MAX_SCHEMAS}"))
    return faults or _Looks(schema).faults()


class _Looks:
    """Counts by a schema, and by how many levels a value may have below it."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._counted: dict[tuple[int, int], int] = {}
        self._under_way: set[tuple[int, int]] = set()

    def faults(self) -> list[Fault]:
        try:
            for depth in range(MAX_DEPTH):  # from the bottom, so that Python need not go as deep
                self._of(self._root, depth)
            looks = self._of(self._root, MAX_DEPTH)
        except _EndlessError:
            return [Fault("", "has a $ref that leads to itself at the same value")]
        except RecursionError:
            return [Fault("", "leads from $ref to $ref through too many places")]
        if looks > MAX_LOOKS:
            message = f"may look at one value more than {MAX_LOOKS} times: name each place by fewer ways"
            return [Fault("", message)]
        return []

    def _of(self, part: Any, depth: int) -> int:
        if not isinstance(part, dict):
            return 1
        key = (id(part), depth)
        if key in self._counted:
            return self._counted[key]
        if key in self._under_way:
            raise _EndlessError
        self._under_way.add(key)
        looks = 1 + sum(self._of(other, depth) for other in self._at_same_value(part))
        if depth:
            looks += self._at_a_member(part, depth - 1)
        self._under_way.discard(key)
        self._counted[key] = min(looks, MAX_LOOKS + 1)
        return self._counted[key]

    def _at_same_value(self, part: dict[str, Any]) -> Iterator[Any]:
        for name in _ONE:
            if name in part:
                yield _target(self._root, part[name]) if name == "$ref" else part[name]
        for name in _MANY:
            yield from part.get(name, ())
        yield from part.get("dependentSchemas", {}).values()

    def _at_a_member(self, part: dict[str, Any], depth: int) -> int:
        """A member meets one of the named properties, one of the items, and all of the rest."""
        named = [self._of(other, depth) for other in part.get("properties", {}).values()]
        items = [self._of(other, depth) for other in part.get("prefixItems", ())]
        items += [self._of(part["items"], depth)] if "items" in part else []
        rest = [self._of(part[name], depth) for name in _OF_EACH if name in part]
        rest += [self._of(other, depth) for other in part.get("patternProperties", {}).values()]
        return max(named, default=0) + max(items, default=0) + sum(rest)


class _EndlessError(Exception):
    """A schema leads to itself, and no level of the value is between."""


def _parts(schema: Any, at: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema in a schema, itself first, with its place."""
    if not isinstance(schema, dict):
        return
    yield at, schema
    for name, member in schema.items():
        here = f"{at}/{escape(name)}"
        if name in _DATA:
            continue
        if name in _BY_NAME and isinstance(member, dict):
            for key, inner in member.items():
                yield from _parts(inner, f"{here}/{escape(key)}")
        elif isinstance(member, list):
            for number, inner in enumerate(member):
                yield from _parts(inner, f"{here}/{number}")
        else:
            yield from _parts(member, here)


def _lost(reference: str) -> str:
    if reference.startswith("#"):
        return f"leads to {reference}, which is not in this schema"
    return "leads out of this schema: a $ref is a place in it, such as #/$defs/name"


def _target(root: dict[str, Any], reference: str) -> Any:
    """What a ``$ref`` names, None when it is no place in the schema."""
    if reference != "#" and not reference.startswith("#/"):
        anchored = (part for _, part in _parts(root, "") if f"#{part.get('$anchor')}" == reference)
        return next(anchored, None)
    found: Any = root
    for segment in unquote(reference).split("/")[1:]:
        name = segment.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, dict) and name in found:
            found = found[name]
        else:
            return None
    return found if isinstance(found, dict | bool) else None
