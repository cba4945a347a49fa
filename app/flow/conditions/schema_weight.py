"""How many steps it takes to compare a payload with a schema, counted before it is done.

A step is about what one keyword takes for one value: 25 ns. The library compares numbers that are no integers
by exact fractions, which take much more, the more the further they are from one. A schema that several
``$ref`` name counts at each place as often as it is named there.
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

UNEVALUATED = 4
"""How often the library goes through a schema in another one that has unevaluatedProperties."""
LARGEST, SMALLEST = 1e30, 1e-30
"""Numbers beyond them, other than zero, are extreme: their fractions are long."""
MAX_LOOKED = 20_000
"""Schemas at all places of a payload that are told apart; beyond, each may be at any place."""
FORMATS = {"idn-hostname": 20, "regex": 8}
ANY_FORMAT = 2
"""Of each byte of a text that a format is checked for, in the unit of patterns (3 ns)."""
REPORT, COPIED_VALUE, COPIED_BYTE = 700, 10, 0.4
"""Steps for an error, and for each value and each byte of what it is about."""

_COUNTS = re.compile(r"\{[\d,]*\}")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_OF_MEMBERS = ("patternProperties", "additionalProperties", "unevaluatedProperties")
_OF_ITEMS = ("items", "contains", "unevaluatedItems")


class Arithmetic(Struct, frozen=True):
    """Steps for a number with an integer of the schema, with another number, and with an extreme one."""

    integer: int
    fraction: int
    extreme: int


BOUND, LISTED, DIVISOR = Arithmetic(2, 40, 150), Arithmetic(12, 100, 1500), Arithmetic(15, 100, 2500)


class Weight(Struct, frozen=True):
    """Parts of a schema that are multiplied: ``members`` by values of a payload, ``patterns`` and ``formats``
    by its bytes, ``numbers`` by its numbers and ``extremes`` by those that are extreme. ``reports``: the
    faults that one value may have; ``names``: those of each name in it, which are about the whole object."""

    members: int
    patterns: int
    formats: int = 0
    numbers: int = 0
    extremes: int = 0
    reports: int = 0
    names: int = 0

    def steps(self, payload: Any, limit: int) -> int:
        """About how many steps a payload takes at most. Values are counted only where that tells whether
        it is more than ``limit``."""
        size = len(json.encode(payload))
        values = size // 2  # a value and what parts it from the next
        steps = self._steps(size, values, values)
        if steps > limit:
            values = count_nodes(payload)
            steps = self._steps(size, values, _count_extremes(payload))
        return steps

    def _steps(self, size: int, values: int, extremes: int) -> int:
        texts = (size * (self.patterns + self.formats)) // 8
        return (1 + values) * self.members + texts + values * self.numbers + extremes * self.extremes

    def report_steps(self, payload: Any) -> float:
        """About how many steps it takes at most to make an error of each fault that a payload may have, each
        with a copy of the value that it is about."""
        values = 1 + count_nodes(payload)
        copied = COPIED_BYTE * len(json.encode(payload)) + COPIED_VALUE * values
        about_names = self.names * values * (REPORT + copied)
        return about_names + self.reports * (values * REPORT + _depth_of(payload) * copied)

    def joined(self, other: "Weight", join: Callable[[int, int], int]) -> "Weight":
        """The weight of two, part by part."""
        return Weight(*map(join, astuple(self), astuple(other)))


def weight_of(schema: dict[str, Any]) -> Weight:
    """The weight of a schema: what it asks of one value, at the place where most is asked; of members and
    patterns no less than all of them."""
    placed = list(parts_of(schema, ""))
    parts = [part for _, part in placed]
    references = [part["$ref"] for part in parts if isinstance(part.get("$ref"), str)]
    targets = targets_of(schema, placed, references)
    own = {id(part): _own_weight(part) for part in parts}
    most = _at_one_place(schema, own, targets)
    members = len(parts) + sum(map(_count_listed, parts))
    everything = Weight(members, sum(one.patterns for one in own.values()))
    repeated = UNEVALUATED ** max(0, unevaluated_depth(schema, targets) - 1)
    return Weight(*(number * repeated for number in astuple(most.joined(everything, max))))


def _own_weight(part: dict[str, Any]) -> Weight:
    """The weight of a schema without those in it."""
    patterns = [part["pattern"]] if isinstance(part.get("pattern"), str) else []
    patterns += part.get("patternProperties", ())
    asked = part.get("format")
    numbers, extremes = _arithmetic_of(part)
    return Weight(
        members=1 + _count_listed(part) + _count_named(part),
        patterns=sum(map(_weight_of_pattern, patterns)),
        formats=FORMATS.get(asked, ANY_FORMAT) if isinstance(asked, str) else 0,
        numbers=numbers,
        extremes=extremes,
        reports=len(part) + _count_named(part) + len(part.get("required", ())),
        names=int("propertyNames" in part),
    )


def _count_listed(part: dict[str, Any]) -> int:
    return sum(1 + count_nodes(part.get(name)) for name in ("enum", "const") if name in part)


def _count_named(part: dict[str, Any]) -> int:
    """The cost of a schema at each value without a schema in it: names on which others depend, and true and
    false where a schema may stand."""
    inner = [member for name in ("allOf", "anyOf", "oneOf") for member in part.get(name, ())]
    inner += part.get("dependentSchemas", {}).values()
    return sum(isinstance(member, bool) for member in inner) + count_nodes(part.get("dependentRequired"))


def _weight_of_pattern(pattern: str) -> int:
    counts = [min(int(n[:9]), 100_000) for n in re.findall(r"\d+", " ".join(_COUNTS.findall(pattern)))]
    return max(len(pattern) + sum(counts), pattern_size(pattern, unicode=WIDE))


def _at_one_place(schema: dict[str, Any], own: Mapping[int, Weight], targets: Mapping[str, Any]) -> Weight:
    """The most that is asked of a value at any one place of a payload."""
    most = Weight(0, 0)
    looked = 0
    known: set[frozenset[int]] = set()
    waiting = [[schema]]
    while waiting:
        place = _all_at_same_value(waiting.pop(), targets)
        key = frozenset(map(id, place))
        if key in known:
            continue
        known.add(key)
        looked += len(place)
        weights = [own[id(part)] for part in place if id(part) in own]
        most = most.joined(_sum(weights), max)
        if looked > MAX_LOOKED:
            return most.joined(_sum(own.values()), max)
        waiting += _members_of(place)
    return most


def _sum(weights: Iterable[Weight]) -> Weight:
    return reduce(lambda one, other: one.joined(other, add), weights, Weight(0, 0))


def _all_at_same_value(parts: list[dict[str, Any]], targets: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Schemas that look at one value, with those in them that do: those that are there twice twice."""
    found: list[dict[str, Any]] = []
    waiting: list[Any] = list(parts)
    while waiting and len(found) <= MAX_LOOKED:
        part = waiting.pop()
        if isinstance(part, dict):
            found.append(part)
            waiting += at_same_value(part, targets)
    return found


def _members_of(place: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """For each member or item that a value may have, the schemas that look at it."""
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
    """The steps that the numbers of a schema take for a number, and those beyond for an extreme one."""
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
    return number != 0 and not SMALLEST < abs(number) < LARGEST
