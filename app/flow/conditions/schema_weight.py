"""The number of steps that validating a payload takes, estimated before it is validated.

A step is the time of one keyword for one value, about 25 ns. The library compares numbers that are not
integers as exact fractions, which take much longer, the more the further they are from 1. A schema that
several ``$ref`` name counts at each place as often as it is named there.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import reduce
from operator import add
from typing import Any

from msgspec import Struct, json
from msgspec.structs import astuple

from app.flow.conditions.pattern_cost import WIDE, pattern_size
from app.flow.conditions.schema_cost import at_same_value, parts_of, targets_of, unevaluated_depth
from app.flow.values.storable_json import count_nodes

UNEVALUATED_FACTOR = 4
"""Number of times that the library visits a schema inside one with unevaluatedProperties."""
MAX_ORDINARY, MIN_ORDINARY = 1e30, 1e-30
"""Numbers outside this range, other than zero, are extreme: their fractions are long."""
MAX_PLACED_SCHEMAS = 20_000
"""Schemas whose places in a payload are distinguished; beyond, each may be at any place."""
FORMATS = {"idn-hostname": 20, "regex": 8}
ANY_FORMAT = 2
"""Cost of a format for each byte of a text, in the unit of patterns (3 ns)."""
REPORT, COPIED_VALUE, COPIED_BYTE = 700, 10, 0.4
"""Steps to make an error, and for each value and each byte of the value that it repeats."""

_COUNTS = re.compile(r"\{[\d,]*\}")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_OF_MEMBERS = ("patternProperties", "additionalProperties", "unevaluatedProperties")
_OF_ITEMS = ("items", "contains", "unevaluatedItems")


class Arithmetic(Struct, frozen=True):
    """Steps to compare a number with an integer of the schema, a fraction, and an extreme number."""

    integer: int
    fraction: int
    extreme: int


BOUND, LISTED, DIVISOR = Arithmetic(2, 40, 150), Arithmetic(12, 100, 1500), Arithmetic(15, 100, 2500)


class Weight(Struct, frozen=True):
    """Factors of the steps that a schema takes.

    Args:
        members: Factor of the values of a payload.
        patterns: Factor of its bytes, for patterns.
        formats: Factor of its bytes, for formats.
        numbers: Factor of its numbers.
        extremes: Factor of its extreme numbers.
        reports: Faults that one value may have.
        names: Faults that each name of an object may have; each error repeats the whole object.
    """

    members: int
    patterns: int
    formats: int = 0
    numbers: int = 0
    extremes: int = 0
    reports: int = 0
    names: int = 0

    def steps(self, payload: Any, limit: int) -> int:
        """Return an upper bound of the steps that a payload takes.

        Values are counted only where an estimate by the size alone is more than ``limit``.
        """
        size = len(json.encode(payload))
        values = size // 2  # a value and its separator
        steps = self._steps(size, values, values)
        if steps > limit:
            values = count_nodes(payload)
            steps = self._steps(size, values, _count_extremes(payload))
        return steps

    def _steps(self, size: int, values: int, extremes: int) -> int:
        texts = (size * (self.patterns + self.formats)) // 8
        return (1 + values) * self.members + texts + values * self.numbers + extremes * self.extremes

    def report_steps(self, payload: Any) -> float:
        """Return an upper bound of the steps to make an error of each fault that a payload may have.

        Each error has a copy of its value.
        """
        values = 1 + count_nodes(payload)
        copied = COPIED_BYTE * len(json.encode(payload)) + COPIED_VALUE * values
        about_names = self.names * values * (REPORT + copied)
        return about_names + self.reports * (values * REPORT + _depth_of(payload) * copied)

    def joined(self, other: "Weight", join: Callable[[int, int], int]) -> "Weight":
        """Combine two weights, factor by factor."""
        return Weight(*map(join, astuple(self), astuple(other)))


def weight_of(schema: dict[str, Any]) -> Weight:
    """Return the weight of a schema: that of the place of a payload with the largest weight.

    The weights of members and patterns are no less than those of the whole schema.
    """
    placed = list(parts_of(schema, ""))
    parts = [part for _, part in placed]
    references = [part["$ref"] for part in parts if isinstance(part.get("$ref"), str)]
    targets = targets_of(schema, placed, references)
    own = {id(part): _own_weight(part) for part in parts}
    most = _at_one_place(schema, own, targets)
    members = len(parts) + sum(map(_count_listed, parts))
    everything = Weight(members, sum(one.patterns for one in own.values()))
    repeated = UNEVALUATED_FACTOR ** max(0, unevaluated_depth(schema, targets) - 1)
    return Weight(*(number * repeated for number in astuple(most.joined(everything, max))))


def _own_weight(part: dict[str, Any]) -> Weight:
    """Return the weight of a schema without its subschemas."""
    patterns = [part["pattern"]] if isinstance(part.get("pattern"), str) else []
    patterns += part.get("patternProperties", ())
    named_format = part.get("format")
    numbers, extremes = _arithmetic_of(part)
    return Weight(
        members=1 + _count_listed(part) + _count_named(part),
        patterns=sum(map(_weight_of_pattern, patterns)),
        formats=FORMATS.get(named_format, ANY_FORMAT) if isinstance(named_format, str) else 0,
        numbers=numbers,
        extremes=extremes,
        reports=len(part) + _count_named(part) + len(part.get("required", ())),
        names=int("propertyNames" in part),
    )


def _count_listed(part: dict[str, Any]) -> int:
    return sum(1 + count_nodes(part.get(name)) for name in ("enum", "const") if name in part)


def _count_named(part: dict[str, Any]) -> int:
    """Count what a schema checks at each value without a subschema: dependent names, and boolean schemas."""
    inner = [member for name in ("allOf", "anyOf", "oneOf") for member in part.get(name, ())]
    inner += part.get("dependentSchemas", {}).values()
    return sum(isinstance(member, bool) for member in inner) + count_nodes(part.get("dependentRequired"))


def _weight_of_pattern(pattern: str) -> int:
    counts = [min(int(n[:9]), 100_000) for n in re.findall(r"\d+", " ".join(_COUNTS.findall(pattern)))]
    return max(len(pattern) + sum(counts), pattern_size(pattern, unicode=WIDE))


def _at_one_place(schema: dict[str, Any], own: Mapping[int, Weight], targets: Mapping[str, Any]) -> Weight:
    """Return the largest weight of all places of a payload."""
    most = Weight(0, 0)
    placed = 0
    known: set[frozenset[int]] = set()
    waiting = [[schema]]
    while waiting:
        place = _all_at_same_value(waiting.pop(), targets)
        key = frozenset(map(id, place))
        if key in known:
            continue
        known.add(key)
        placed += len(place)
        weights = [own[id(part)] for part in place if id(part) in own]
        most = most.joined(_sum(weights), max)
        if placed > MAX_PLACED_SCHEMAS:
            return most.joined(_sum(own.values()), max)
        waiting += _members_of(place)
    return most


def _sum(weights: Iterable[Weight]) -> Weight:
    return reduce(lambda one, other: one.joined(other, add), weights, Weight(0, 0))


def _all_at_same_value(parts: list[dict[str, Any]], targets: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the schemas that apply to one value, with their subschemas that do, as often as they apply."""
    found: list[dict[str, Any]] = []
    waiting: list[Any] = list(parts)
    while waiting and len(found) <= MAX_PLACED_SCHEMAS:
        part = waiting.pop()
        if isinstance(part, dict):
            found.append(part)
            waiting += at_same_value(part, targets)
    return found


def _members_of(place: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the schemas that apply to each member or item that a value may have."""
    rest: list[Any] = [part[name] for part in place for name in _OF_MEMBERS[1:] if name in part]
    rest += [other for part in place for other in part.get("patternProperties", {}).values()]
    items: list[Any] = [part[name] for part in place for name in _OF_ITEMS if name in part]
    named: dict[str, list[Any]] = {}
    numbered: dict[int, list[Any]] = {}
    for part in place:
        for name, other in part.get("properties", {}).items():
            named.setdefault(name, []).append(other)
        for number, other in enumerate(part.get("prefixItems", ())):
            numbered.setdefault(number, []).append(other)
    names = [part["propertyNames"] for part in place if "propertyNames" in part]
    for group in (
        rest,
        items,
        names,
        *(one + rest for one in named.values()),
        *(one + items for one in numbered.values()),
    ):
        schemas = [part for part in group if isinstance(part, dict)]
        if schemas:
            yield schemas


def _arithmetic_of(part: dict[str, Any]) -> tuple[int, int]:
    """Return the steps that the numbers of a schema take for a number, and those for an extreme number."""
    found = [(BOUND, part[name]) for name in _BOUNDS if name in part]
    found += [(DIVISOR, part["multipleOf"])] if "multipleOf" in part else []
    found += [
        (LISTED, number) for name in ("enum", "const") if name in part for number in _numbers(part[name])
    ]
    plain = extremes = 0
    for arithmetic, number in found:
        if _is_extreme(number):
            plain += arithmetic.extreme
        elif isinstance(number, int) or float(number).is_integer():
            plain += arithmetic.integer
            extremes += arithmetic.extreme
        else:
            plain += arithmetic.fraction
            extremes += arithmetic.extreme
    return plain, extremes


def _numbers(value: Any) -> Iterator[float]:
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found
        elif isinstance(found, int | float) and not isinstance(found, bool):
            yield found


def _depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth_of, value.values()), default=0)
    return 1 + max(map(_depth_of, value), default=0) if isinstance(value, list) else 1


def _count_extremes(value: Any) -> int:
    kind = type(value)
    if kind is float:
        return _is_extreme(value)
    if kind is list:
        return sum(map(_count_extremes, value))
    return sum(map(_count_extremes, value.values())) if kind is dict else 0


def _is_extreme(number: float) -> bool:
    return number != 0 and not MIN_ORDINARY < abs(number) < MAX_ORDINARY
