"""How often a JSON Schema may look at one value: what bounds the time that a payload takes.

A schema that leads to itself, or to one place by several ways, multiplies: two references to the next of 60
definitions are 2**60 steps, and so is a recursive schema with two ways on at each of the levels of a payload.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from app.contracts.errors import Fault
from app.flow.values.storable_json import MAX_DEPTH
from app.flow.values.struct_errors import escape

MAX_LOOKS = 1000
MAX_SCHEMAS = 1000
MAX_PATTERNS = 20
MAX_REFERENCES = 100
MAX_UNEVALUATED = 5
"""In each other at the same value: the library goes through what is below three times for each."""

_PLACE = re.compile(r"#(/|\Z)")
MAX_NESTED = 200
"""Levels at one value, with those through ``$ref``."""
_ONE = ("not", "if", "then", "else", "$ref")
_MANY = ("allOf", "anyOf", "oneOf")
_OF_EACH = ("additionalProperties", "propertyNames", "unevaluatedProperties", "contains", "unevaluatedItems")
_UNTAKEN = ("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor")
MAPS_OF_SCHEMAS = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
LISTS_OF_SCHEMAS = ("allOf", "anyOf", "oneOf", "prefixItems")
DATA = ("const", "enum", "default", "examples")


def cost_faults(schema: dict[str, Any]) -> list[Fault]:
    """Find what in a schema leads out of it, leads nowhere, or may take too long."""
    parts = list(parts_of(schema, ""))
    references = [part["$ref"] for _, part in parts if isinstance(part.get("$ref"), str)]
    targets = targets_of(schema, parts, references)
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
    if faults:
        return faults
    if references and (faults := _Looks(schema, targets).faults()):
        return faults  # what has no references is looked at as often as it is long
    if unevaluated_depth(schema, targets) > MAX_UNEVALUATED:
        message = f"has more than {MAX_UNEVALUATED} unevaluatedProperties or unevaluatedItems in each other"
        return [Fault("", message)]
    return []


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
        looks = 1 + sum(self._of(other, depth) for other in at_same_value(part, self._targets))
        if depth:
            looks += self._at_a_member(part, depth - 1)
        self._under_way.discard(key)
        self._counted[key] = min(looks, MAX_LOOKS + 1)
        return self._counted[key]

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


def at_same_value(part: dict[str, Any], targets: Mapping[str, Any]) -> Iterator[Any]:
    """The schemas in a schema that look at the same value. ``targets``: of each ``$ref``."""
    for name in _ONE:
        if name in part:
            yield targets.get(part[name]) if name == "$ref" else part[name]
    for name in _MANY:
        yield from part.get(name, ())
    yield from part.get("dependentSchemas", {}).values()


def unevaluated_depth(root: dict[str, Any], targets: Mapping[str, Any]) -> int:
    """How many schemas with unevaluatedProperties or unevaluatedItems are in each other at one value."""
    depths: dict[int, int] = {}

    def depth_of(part: Any, above: int) -> int:
        if not isinstance(part, dict) or above > MAX_NESTED:
            return above if above > MAX_NESTED else 0
        if id(part) not in depths:
            inner = [depth_of(other, above + 1) for other in at_same_value(part, targets)]
            own = "unevaluatedProperties" in part or "unevaluatedItems" in part
            depths[id(part)] = max(inner, default=0) + own
        return depths[id(part)]

    return max(depth_of(part, 0) for _, part in parts_of(root, ""))


def parts_of(schema: Any, at: str) -> Iterator[tuple[str, dict[str, Any]]]:
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
                yield from parts_of(inner, f"{here}/{escape(key)}")
        elif isinstance(member, list):
            for number, inner in enumerate(member):
                yield from parts_of(inner, f"{here}/{number}")
        else:
            yield from parts_of(member, here)


def _lost(reference: str) -> str:
    if reference.startswith("#"):
        return f"leads to {reference}, which is not in this schema"
    return "leads out of this schema: a $ref is a place in it, such as #/$defs/name"


def targets_of(
    root: dict[str, Any], parts: list[tuple[str, dict[str, Any]]], references: list[str]
) -> dict[str, Any]:
    """The target of each ``$ref``, None if it is no place in the schema."""
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
