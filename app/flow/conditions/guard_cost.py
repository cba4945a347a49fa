"""An upper bound of the cost of a guard, from its syntax tree and the sizes of the values.

The unit is a nanosecond of the machine on which the library was measured; every factor is above what was
measured.
"""

from collections.abc import Mapping
from math import inf

from app.flow.conditions.cel_tree import CALL, COMPREHENSION, IDENT, LIST, MESSAGE, SELECT, Node
from app.flow.conditions.guard_reads import variable_of
from app.flow.conditions.pattern_cost import pattern_size
from app.flow.conditions.value_sizes import (
    CHARACTER,
    CONTAINER,
    ENTRY,
    MEMBER,
    NOTHING,
    Size,
    joined,
    size_of_text,
)

NODE = 200
"""Cost of each part of an expression, each time that it is evaluated."""
COPIED_MEMBER = 100
"""Cost of copying a member: joining lists copies them, and so does each step of a loop that makes a list."""
ARITHMETIC = 1000
"""Cost of an operation that Python calculates, as where an integer meets a double."""
CONVERTED_CHARACTER = 20
NAMED = 5
"""Cost of each byte of a name that is looked up in an object: a missing name is quoted in the error."""
TIME_ZONE = 60_000
MAX_ZONE_CHARACTERS = 256
"""The library caches every name of a time zone for ever, also one that does not exist."""
COMPILED, MATCHED = 2000, 10
"""Cost of one unit of ``pattern_size``: to compile it, and to match it with one character."""
COMPARED = 0.05
"""Cost of comparing one character of a searched text at one place of the text that is searched."""
MAX_NUMBER_CHARACTERS = 64
"""Characters of a number, a time or a duration as text."""

_SCALARS = frozenset({"_&&_", "_||_", "!_", "@not_strictly_false", "__not_strictly_false__", "type"})
_COMPARISONS = frozenset({"_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "startsWith", "endsWith"})
_ARITHMETIC = frozenset({"-_", "_-_", "_*_", "_/_", "_%_"})
_CONVERSIONS = frozenset({"string", "bytes", "int", "uint", "double", "bool", "timestamp", "duration"})


class TooExpensiveError(Exception):
    """The estimated cost of an expression is above the limit."""


class CostCounter:
    """Counts the cost of an expression with values of given sizes.

    Args:
        values: The sizes of the variables.
        limit: Nanoseconds; ``size`` raises TooExpensiveError above them.
    """

    def __init__(self, values: Mapping[str, Size], limit: float = inf) -> None:
        self._values = values
        self._declared = frozenset(values)
        self._limit = limit
        self._times = 1.0
        self.spent = 0.0

    def size(self, node: Node, scope: Mapping[str, Size]) -> Size:
        """Add the cost of a node, and return the size of its value.

        Args:
            node: Part of an expression.
            scope: The sizes of the variables of the loops around it.

        Raises:
            TooExpensiveError: The expression costs more than the limit.
        """
        self._spend(NODE)
        if node.kind == IDENT:
            # The name may mean the variable of a loop or a declared one: the larger counts.
            return joined((scope.get(node.name, NOTHING), self._value(node)))
        if node.kind == SELECT:
            return self._size_of_member(node, scope)
        if node.kind == CALL:
            return self._size_of_call(node, [self.size(part, scope) for part in node.parts])
        if node.kind == LIST:
            return self._size_of_list([self.size(part, scope) for part in node.parts])
        if node.kind == MESSAGE:
            return self._size_of_map(node, [self.size(part, scope) for part in node.parts])
        if node.kind == COMPREHENSION:
            return self._size_of_loop(node, scope)
        return NOTHING if node.text is None else size_of_text(node.text)

    def _spend(self, cost: float) -> None:
        self.spent += cost * self._times
        if self.spent > self._limit:
            raise TooExpensiveError

    def _value(self, node: Node) -> Size:
        variable = variable_of(node, self._declared)
        return NOTHING if variable is None else self._values[variable]

    def _size_of_member(self, node: Node, scope: Mapping[str, Size]) -> Size:
        whole = self._value(node)
        operand = self.size(node.parts[0], scope)
        if node.tests:
            return NOTHING
        return joined((whole, operand.at(node.name)))

    def _size_of_list(self, sizes: list[Size]) -> Size:
        self._spend(NODE * len(sizes))
        work = CONTAINER + MEMBER * len(sizes) + sum(size.work for size in sizes)
        return Size(members=len(sizes), work=work, inner=lambda: (joined(sizes), NOTHING))

    def _size_of_map(self, node: Node, sizes: list[Size]) -> Size:
        work = CONTAINER + ENTRY * len(sizes) + sum(size.work for size in sizes)
        self._spend(ENTRY * len(sizes) + sum(size.characters for size in sizes))
        if not node.name:
            return Size(members=len(sizes), work=work, inner=lambda: (joined(sizes), joined(sizes)))
        # A protobuf message: values are converted to it and back.
        self._spend(5 * work)
        every = joined([*sizes, *(size.member for size in sizes)])
        members = len(sizes) + sum(size.members for size in sizes)
        return Size(members, every.characters, work, inner=lambda: (every, every))

    def _size_of_loop(self, node: Node, scope: Mapping[str, Size]) -> Size:
        over, start, condition, step, result = node.parts
        ranged = self.size(over, scope)
        first = self.size(start, scope)
        rounds = ranged.members
        inner = {**scope, node.name: ranged.item, node.accumulator: first}
        last = first
        if start.kind in (LIST, MESSAGE):  # the loop makes a list, to which each step adds
            spent, self.spent = self.spent, 0.0
            added = self.size(step, inner)
            self.spent = spent
            last = _repeated(added, rounds)
            # The list grows from empty, so that half of it is copied on average.
            inner[node.accumulator] = Size(
                last.members / 2, work=last.work / 2, inner=lambda: (added.member, NOTHING)
            )
        times, self._times = self._times, self._times * max(rounds, 1)
        self.size(condition, inner)
        self.size(step, inner)
        self._times = times
        return self.size(result, {**scope, node.accumulator: last})

    def _size_of_call(self, node: Node, sizes: list[Size]) -> Size:
        name = node.name
        if name in _SCALARS:
            return NOTHING
        if name in _ARITHMETIC:
            self._spend(ARITHMETIC)
            return NOTHING
        if name == "dyn":
            return joined(sizes)
        if name in _CONVERSIONS and len(sizes) == 1:
            self._spend(ARITHMETIC + CONVERTED_CHARACTER * sizes[0].characters)
            characters = max(sizes[0].characters, MAX_NUMBER_CHARACTERS)
            return Size(characters=characters, work=characters * CHARACTER)
        if name == "size" and len(sizes) == 1:
            self._spend(2 * sizes[0].characters)
            return NOTHING
        if name == "_?_:_":
            return joined(sizes[1:])
        if len(sizes) == 2:
            return self._size_of_binary_call(node, *sizes)
        return self._size_of_unknown_call(node, sizes)

    def _size_of_binary_call(self, node: Node, left: Size, right: Size) -> Size:
        if node.name in _COMPARISONS:
            self._spend(min(left.work, right.work))
            return NOTHING
        if node.name == "_+_":
            return self._size_of_sum(left, right)
        if node.name == "_[_]":
            self._spend(NAMED * right.characters)
            name = node.parts[1].text
            return left.at(name) if isinstance(name, str) else left.member
        if node.name in ("@in", "_in_"):
            self._spend(right.members * COPIED_MEMBER + left.characters)
            self._spend(min(right.members * left.work, right.work))
            return NOTHING
        if node.name == "contains":
            self._spend(left.characters * (1 + COMPARED * right.characters))
            return NOTHING
        if node.name == "matches":
            pattern = node.parts[1].text
            if not isinstance(pattern, str):
                raise TooExpensiveError
            self._spend(pattern_size(pattern) * (COMPILED + MATCHED * left.characters))
            return NOTHING
        return self._size_of_unknown_call(node, [left, right])

    def _size_of_sum(self, left: Size, right: Size) -> Size:
        members, characters = left.members + right.members, left.characters + right.characters
        self._spend(ARITHMETIC + COPIED_MEMBER * members + CHARACTER * characters)
        return Size(
            members,
            characters,
            left.work + right.work,
            lambda: (joined((left.member, right.member)), NOTHING),
        )

    def _size_of_unknown_call(self, node: Node, sizes: list[Size]) -> Size:
        """Count a function without a rule of its own, or an accessor of a time."""
        self._spend(ARITHMETIC + 2 * sum(size.work for size in sizes))
        if node.name.startswith("get"):
            if len(sizes) == 2:
                if sizes[1].characters > MAX_ZONE_CHARACTERS:
                    raise TooExpensiveError
                self._spend(TIME_ZONE if node.parts[1].text is None else ARITHMETIC)
            return NOTHING
        work = sum(size.work for size in sizes)
        every = joined(sizes)
        members, characters = sum(s.members for s in sizes), sum(s.characters for s in sizes)
        return Size(members, characters, work, lambda: (every, every))


def _repeated(added: Size, rounds: float) -> Size:
    return Size(
        members=added.members * rounds,
        characters=added.characters * rounds,
        work=CONTAINER + added.work * rounds,
        inner=lambda: (added.member, NOTHING),
    )
