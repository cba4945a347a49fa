"""How often a JSON Schema may look at one value: what bounds the time that a payload takes.

A schema that leads to itself, or to one place by several ways, multiplies: two references to the next of 60
definitions are 2**60 steps, and so is a recursive schema with two ways on at each of the levels of a payload.
"""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from msgspec import Struct, json

from app.contracts.errors import Fault
from app.flow.faults import escape
from app.flow.jsonable import MAX_DEPTH, count_values

MAX_LOOKS = 1000
MAX_SCHEMAS = 1000
MAX_PATTERNS = 20
MAX_REFERENCES = 100
COUNTED_STEPS = 20_000
"""Below, it is enough to know how many values there may be."""

_COUNTS = re.compile(r"\{[\d,]*\}")
_PLACE = re.compile(r"#(/|\Z)")
_ONE = ("not", "if", "then", "else", "$ref")
_MANY = ("allOf", "anyOf", "oneOf")
_OF_EACH = ("additionalProperties", "propertyNames", "unevaluatedProperties", "contains", "unevaluatedItems")
_UNTAKEN = ("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor")
MAPS_OF_SCHEMAS = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
DATA = ("const", "enum", "default", "examples")


def cost_faults(schema: dict[str, Any]) -> list[Fault]:
    """What of a schema leads out of it, leads nowhere, or may take too long."""
    parts = list(_parts(schema, ""))
    references = [part["$ref"] for _, part in parts if isinstance(part.get("$ref"), str)]
    targets = _targets(schema, parts, references)
    faults = [
        Fault(f"{at}/{name}", "is not taken here: name the place with a $ref such as #/$defs/name")
        for at, part in parts
        for name in (*_UNTAKEN, *(("$id",) if at else ()))
        if name in part
    ]
    faults += [
        Fault(f"{at}/$ref", _lost(part["$ref"]))
        for at, part in parts
        if isinstance(part.get("$ref"), str) and targets[part["$ref"]] is None
    ]
    patterns = sum(("pattern" in part) + len(part.get("patternProperties", ())) for _, part in parts)
    if patterns > MAX_PATTERNS:
        faults.append(Fault("", f"has {patterns} patterns, more than {MAX_PATTERNS}"))
    if len(parts) > MAX_SCHEMAS:
        faults.append(Fault("", f"has {len(parts)} schemas in it, more than {MAX_SCHEMAS}"))
    if len(references) > MAX_REFERENCES:
        faults.append(Fault("", f"has {len(references)} $ref in it, more than {MAX_REFERENCES}"))
    if faults or not references:
        return faults  # what has no references is looked at as often as it is long
    return _Looks(schema, targets).faults()


class Weight(Struct, frozen=True):
    """What of a schema is multiplied: ``members`` by the values of a payload, ``patterns`` by its bytes."""

    members: int
    patterns: int

    def steps(self, payload: Any) -> int:
        """About how many steps a payload takes at most, of some tenths of a microsecond."""
        size = len(json.encode(payload))
        values = size // 2  # a value and what parts it from the next
        if values * self.members > COUNTED_STEPS:
            values = count_values(payload)
        return (1 + values) * self.members + (size * self.patterns) // 8


def weight_of(schema: dict[str, Any]) -> Weight:
    """The weight of a schema: its parts with what they enumerate, and its patterns with what they count."""
    parts = [part for _, part in _parts(schema, "")]
    listed = sum(
        1 + count_values(part.get(name)) for part in parts for name in ("enum", "const") if name in part
    )
    patterns = [part["pattern"] for part in parts if isinstance(part.get("pattern"), str)]
    patterns += [pattern for part in parts for pattern in part.get("patternProperties", ())]
    counted = sum(
        len(pattern)
        + sum(min(int(n[:9]), 100_000) for n in re.findall(r"\d+", " ".join(_COUNTS.findall(pattern))))
        for pattern in patterns
    )
    return Weight(members=len(parts) + listed, patterns=counted)


class _Looks:
    """Counts by a schema, and by how many levels a value may have below it."""

    def __init__(self, root: dict[str, Any], targets: dict[str, Any]) -> None:
        self._root = root
        self._targets = targets
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
                yield self._targets[part[name]] if name == "$ref" else part[name]
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
        if name in DATA:
            continue
        if name in MAPS_OF_SCHEMAS and isinstance(member, dict):
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


def _targets(
    root: dict[str, Any], parts: list[tuple[str, dict[str, Any]]], references: list[str]
) -> dict[str, Any]:
    """What each ``$ref`` names, None when it is no place in the schema."""
    anchors = {f"#{part['$anchor']}": part for _, part in parts if isinstance(part.get("$anchor"), str)}
    return {
        reference: _at(root, reference) if _PLACE.match(reference) else anchors.get(reference)
        for reference in references
    }


def _at(root: dict[str, Any], reference: str) -> Any:
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
