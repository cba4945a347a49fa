"""The number of visits of a JSON Schema to one value, which bounds the time that a payload takes.

References multiply: 60 definitions, each with two references to the next, are 2**60 visits; so is a recursive
schema with two references to itself, at the levels of a payload.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from app.contracts.errors import Fault
from app.flow.values.storable_json import MAX_DEPTH
from app.flow.values.struct_errors import escape

MAX_VISITS = 1000
MAX_SCHEMAS = 1000
MAX_PATTERNS = 20
MAX_REFERENCES = 100
MAX_UNEVALUATED = 5
"""Such keywords inside each other at one value: for each the library visits the schemas below three times."""

_PLACE = re.compile(r"#(/|\Z)")
MAX_NESTED = 200
"""Levels of schemas that apply to one value, with those through ``$ref``."""
_ONE = ("not", "if", "then", "else", "$ref")
_MANY = ("allOf", "anyOf", "oneOf")
_OF_EACH = ("additionalProperties", "propertyNames", "unevaluatedProperties", "contains", "unevaluatedItems")
_UNSUPPORTED = ("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor")
MAPS_OF_SCHEMAS = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
LISTS_OF_SCHEMAS = ("allOf", "anyOf", "oneOf", "prefixItems")
DATA = ("const", "enum", "default", "examples")


def cost_faults(schema: dict[str, Any]) -> list[Fault]:
    """Return the faults of references that leave a schema or lead nowhere, and of what may take too long."""
    parts = list(parts_of(schema, ""))
    references = [part["$ref"] for _, part in parts if isinstance(part.get("$ref"), str)]
    targets = targets_of(schema, parts, references)
    faults = [
        Fault(
            f"{at}/{name}", "This keyword is not supported: name the place with a $ref such as #/$defs/name"
        )
        for at, part in parts
        for name in (*_UNSUPPORTED, *(("$id",) if at else ()))
        if name in part
    ]
    faults += [
        Fault(f"{at}/$ref", _lost(part["$ref"]))
        for at, part in parts
        if isinstance(part.get("$ref"), str) and targets[part["$ref"]] is None
    ]
    patterns = sum(("pattern" in part) + len(part.get("patternProperties", ())) for _, part in parts)
    if patterns > MAX_PATTERNS:
        faults.append(Fault("", f"The schema has {patterns} patterns, more than {MAX_PATTERNS}"))
    if len(parts) > MAX_SCHEMAS:
        faults.append(Fault("", f"The schema has {len(parts)} schemas in it, more than {MAX_SCHEMAS}"))
    if len(references) > MAX_REFERENCES:
        faults.append(Fault("", f"The schema has {len(references)} $ref in it, more than {MAX_REFERENCES}"))
    if faults:
        return faults
    if references:  # without, a schema makes as many visits as it has members
        faults = _VisitCounter(schema, targets).faults()
    if faults:
        return faults
    if unevaluated_depth(schema, targets) > MAX_UNEVALUATED:
        message = f"The schema nests more than {MAX_UNEVALUATED} unevaluatedProperties or unevaluatedItems"
        return [Fault("", message)]
    return []


class _VisitCounter:
    """Counts visits by schema, and by the number of levels that a value may have below it."""

    def __init__(self, root: dict[str, Any], targets: dict[str, Any]) -> None:
        self._root = root
        self._targets = targets
        self._counted: dict[tuple[int, int], int] = {}
        self._counting: set[tuple[int, int]] = set()

    def faults(self) -> list[Fault]:
        """Return the fault of a schema with too many visits, or with endless ones."""
        try:
            for depth in range(MAX_DEPTH):  # from the bottom, so that Python need not go as deep
                self._count(self._root, depth)
            visits = self._count(self._root, MAX_DEPTH)
        except _EndlessError:
            return [Fault("", "The schema has a $ref that leads to itself at the same value")]
        except RecursionError:
            return [Fault("", "The schema has a chain of too many $ref")]
        if visits > MAX_VISITS:
            message = f"The schema may visit one value more than {MAX_VISITS} times: use fewer references"
            return [Fault("", message)]
        return []

    def _count(self, part: Any, depth: int) -> int:
        if not isinstance(part, dict):
            return 1
        key = (id(part), depth)
        if key in self._counted:
            return self._counted[key]
        if key in self._counting:
            raise _EndlessError
        self._counting.add(key)
        visits = 1 + sum(self._count(other, depth) for other in at_same_value(part, self._targets))
        if depth:
            visits += self._count_at_member(part, depth - 1)
        self._counting.discard(key)
        self._counted[key] = min(visits, MAX_VISITS + 1)
        return self._counted[key]

    def _count_at_member(self, part: dict[str, Any], depth: int) -> int:
        """Count the visits to a member: one of the properties, one of the items, and all other keywords."""
        named = [self._count(other, depth) for other in part.get("properties", {}).values()]
        items = [self._count(other, depth) for other in part.get("prefixItems", ())]
        items += [self._count(part["items"], depth)] if "items" in part else []
        rest = [self._count(part[name], depth) for name in _OF_EACH if name in part]
        rest += [self._count(other, depth) for other in part.get("patternProperties", {}).values()]
        return max(named, default=0) + max(items, default=0) + sum(rest)


class _EndlessError(Exception):
    """A schema refers to itself at the same value."""


def at_same_value(part: dict[str, Any], targets: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the subschemas that apply to the same value; ``targets`` are those of each ``$ref``."""
    for name in _ONE:
        if name in part:
            yield targets.get(part[name]) if name == "$ref" else part[name]
    for name in _MANY:
        yield from part.get(name, ())
    yield from part.get("dependentSchemas", {}).values()


def unevaluated_depth(root: dict[str, Any], targets: Mapping[str, Any]) -> int:
    """Return how deep schemas with unevaluatedProperties or unevaluatedItems nest at one value."""
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
    """Yield every schema in a schema, itself first, each with its pointer."""
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
        return f"The $ref leads to {reference}, which is not in this schema"
    return "The $ref leads out of this schema: it must name a place in it, such as #/$defs/name"


def targets_of(
    root: dict[str, Any], parts: list[tuple[str, dict[str, Any]]], references: list[str]
) -> dict[str, Any]:
    """Return the target of each ``$ref``; None if it is not in the schema."""
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
