"""The most that evaluating a guard can cost: its syntax tree, with the sizes of the actual values.

The unit is a nanosecond of the machine on which the library was measured; the factors are above what was
measured. Of values that are made on the way only the sizes are known; those of a payload are looked at.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import inf
from typing import Any

from app.flow.conditions.cel_tree import CALL, COMPREHENSION, IDENT, LIST, MESSAGE, SELECT, Node
from app.flow.conditions.pattern_cost import pattern_size

NODE = 200
"""Of each part of an expression, each time that it is evaluated."""
MEMBER, ENTRY, CONTAINER, CHARACTER = 250, 1000, 500, 3
"""Of a member of a list, an entry of an object, a list or an object, and a byte of text: to bring it into
CEL, and to compare it."""
COPIED_MEMBER = 100
"""Lists are joined by copying their members; a loop that makes a list copies it at each step."""
ARITHMETIC = 1000
"""Where an integer meets a double, Python calculates."""
CONVERTED_CHARACTER = 20
NAMED = 5
"""Of each byte of a name that is looked up in an object: where there is none, the error quotes it."""
TIME_ZONE = 60_000
MAX_ZONE_CHARACTERS = 256
"""The library remembers every name of a time zone for ever, also of one that does not exist."""
COMPILED, MATCHED = 2000, 10
"""Of one unit of ``pattern_size``: to compile it, and to match it with one character."""
COMPARED = 0.05
"""Of each place in a text that is compared with each character of what is searched in it."""
LONGEST_NUMBER = 64
"""Characters of a number, a time or a duration as text."""

_SCALARS = frozenset({"_&&_", "_||_", "!_", "@not_strictly_false", "__not_strictly_false__", "type"})
_COMPARISONS = frozenset({"_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "startsWith", "endsWith"})
_ARITHMETIC = frozenset({"-_", "_-_", "_*_", "_/_", "_%_"})
_CONVERSIONS = frozenset({"string", "bytes", "int", "uint", "double", "bool", "timestamp", "duration"})


class Size:
    """At most how large a value is: ``members`` of a list or object, ``characters`` of a text (bytes), and
    ``work`` to bring it into CEL or to compare it. ``inner`` makes the sizes of its members and of its names,
    when they are needed."""

    __slots__ = ("_inner", "_made", "characters", "members", "work")

    def __init__(
        self,
        members: float = 0,
        characters: float = 0,
        work: float = 0,
        inner: "Callable[[], tuple[Size, Size]] | None" = None,
    ) -> None:
        self.members = members
        self.characters = characters
        self.work = work
        self._inner = inner
        self._made: tuple[Size, Size] | None = None

    def _insides(self) -> "tuple[Size, Size]":
        if self._made is None:
            self._made = (NOTHING, NOTHING) if self._inner is None else self._inner()
        return self._made

    @property
    def member(self) -> "Size":
        """The largest of the members."""
        return self._insides()[0]

    @property
    def item(self) -> "Size":
        """The value of one turn of a loop: a member, or a name of an object."""
        return joined(self._insides())

    def at(self, name: str) -> "Size":
        """The member of an object with a name."""
        return self.member


NOTHING = Size()


class _Known(Size):
    """The size of one value that is known, or the largest of several."""

    __slots__ = ("_by_name", "_named", "_values")

    def __init__(self, values: list[Any]) -> None:
        texts = [value for value in values if isinstance(value, str)]
        self._values = [value for value in values if isinstance(value, list | dict)]
        super().__init__(
            members=max(map(len, self._values), default=0),
            characters=max(map(_bytes_of, texts), default=0),
            work=max(map(work_of, values), default=0),
        )
        self._by_name: dict[str, list[Any]] | None = None
        self._named: dict[str, Size] = {}

    def _insides(self) -> tuple[Size, Size]:
        if self._made is None:
            lists = [member for value in self._values if isinstance(value, list) for member in value]
            objects = [value for value in self._values if isinstance(value, dict)]
            inner = [member for value in objects for member in value.values()]
            self._made = size_of(*lists, *inner), size_of(*(name for value in objects for name in value))
        return self._made

    @property
    def item(self) -> Size:
        if all(isinstance(value, list) for value in self._values):
            return self.member
        if all(isinstance(value, dict) for value in self._values):
            return self._insides()[1]
        return joined(self._insides())

    def at(self, name: str) -> Size:
        if name not in self._named:
            self._named[name] = size_of(*self._members_by_name().get(name, ()))
        return self._named[name]

    def _members_by_name(self) -> dict[str, list[Any]]:
        """The members of all objects, found once: a guard may name many in a list of thousands."""
        if self._by_name is None:
            self._by_name = {}
            for value in self._values:
                for name, member in value.items() if isinstance(value, dict) else ():
                    self._by_name.setdefault(name, []).append(member)
        return self._by_name


class SizeOfObject(Size):
    """The size of an object, of the sizes of its members."""

    __slots__ = ("_named",)

    def __init__(self, named: Mapping[str, Size]) -> None:
        work = CONTAINER + sum(ENTRY + size.work + work_of(name) for name, size in named.items())
        super().__init__(len(named), work=work, inner=lambda: (joined(named.values()), size_of(*named)))
        self._named = named

    @property
    def item(self) -> Size:
        return self._insides()[1]

    def at(self, name: str) -> Size:
        return self._named.get(name, NOTHING)


def size_of(*values: Any) -> Size:
    """The size of a value of JSON, or of the largest of several."""
    sized = [value for value in values if isinstance(value, str | list | dict)]
    return _Known(sized) if sized else NOTHING


def unknown(work: float) -> Size:
    """Any value that takes so much work, as its members do."""
    size = Size(members=work / MEMBER, characters=work / CHARACTER, work=work, inner=lambda: (size, size))
    return size


def work_of(value: Any) -> float:
    """The cost of converting a value to CEL."""
    kind = type(value)
    if kind is str:
        return CHARACTER * _bytes_of(value)
    if kind is list:
        return CONTAINER + MEMBER * len(value) + sum(map(work_of, value))
    if kind is dict:
        names = sum(map(work_of, value))
        return CONTAINER + ENTRY * len(value) + names + sum(map(work_of, value.values()))
    return 0.0


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else 4 * len(text)


def joined(sizes: Iterable[Size]) -> Size:
    """At most how large any one of some values is."""
    found = [size for size in dict.fromkeys(sizes) if size is not NOTHING]
    if len(found) < 2:
        return found[0] if found else NOTHING
    return _Joined(found)


class _Joined(Size):
    __slots__ = ("_sizes",)

    def __init__(self, sizes: list[Size]) -> None:
        super().__init__(
            max(size.members for size in sizes),
            max(size.characters for size in sizes),
            max(size.work for size in sizes),
            lambda: (joined(size.member for size in sizes), joined(size.item for size in sizes)),
        )
        self._sizes = sizes

    @property
    def item(self) -> Size:
        return self._insides()[1]

    def at(self, name: str) -> Size:
        return joined(size.at(name) for size in self._sizes)


def reads_of(root: Node, names: Iterable[str]) -> dict[str, set[str] | None]:
    """Which of the variables ``names`` an expression may read, each with the members of it that it names;
    None: any of them."""
    declared = frozenset(names)
    found: dict[str, set[str] | None] = {}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        waiting += node.parts
        variable = _variable(node, declared)
        if variable is not None:
            found.setdefault(variable, set())
    # A member that is named is all that is read, unless the variable is also used without one.
    for node, parent in _pairs(root):
        variable = _variable(node, declared)
        members = None if variable is None else found[variable]
        if variable is None or members is None:
            continue
        name = _named_member(parent) if parent is not None and parent.parts[0] is node else None
        if name is None:
            found[variable] = None
        else:
            members.add(name)
    return found


def _pairs(root: Node) -> Iterator[tuple[Node, Node | None]]:
    waiting: list[tuple[Node, Node | None]] = [(root, None)]
    while waiting:
        node, parent = waiting.pop()
        yield node, parent
        waiting += [(part, node) for part in node.parts]


def _named_member(node: Node) -> str | None:
    if node.kind == SELECT:
        return node.name
    if node.kind == CALL and node.name == "_[_]" and isinstance(node.parts[1].text, str):
        return node.parts[1].text
    return None


def _variable(node: Node, declared: frozenset[str]) -> str | None:
    """The variable that a part is: a name, or names with dots."""
    names = []
    while node.kind == SELECT:
        if node.tests:
            return None
        names.append(node.name)
        node = node.parts[0]
    if node.kind != IDENT:
        return None
    whole = ".".join([node.name.removeprefix("."), *reversed(names)])
    return whole if whole in declared else None


class TooExpensiveError(Exception):
    """An expression may cost more than the limit."""


class CostCounter:
    """Counts what an expression costs with values of some sizes. Raises TooExpensiveError when that is more
    than ``limit``."""

    def __init__(self, values: Mapping[str, Size], limit: float = inf) -> None:
        self._values = values
        self._declared = frozenset(values)
        self._limit = limit
        self._times = 1.0
        self.spent = 0.0

    def size(self, node: Node, scope: Mapping[str, Size]) -> Size:
        """Count a part, and return how large its value may be. ``scope``: the variables of loops."""
        self._spend(NODE)
        if node.kind == IDENT:
            # Which of two variables of one name is meant may differ: the larger counts.
            return joined((scope.get(node.name, NOTHING), self._value(node)))
        if node.kind == SELECT:
            return self._selected(node, scope)
        if node.kind == CALL:
            return self._called(node, [self.size(part, scope) for part in node.parts])
        if node.kind == LIST:
            return self._listed([self.size(part, scope) for part in node.parts])
        if node.kind == MESSAGE:
            return self._mapped(node, [self.size(part, scope) for part in node.parts])
        if node.kind == COMPREHENSION:
            return self._looped(node, scope)
        return NOTHING if node.text is None else size_of_text(node.text)

    def _spend(self, cost: float) -> None:
        self.spent += cost * self._times
        if self.spent > self._limit:
            raise TooExpensiveError

    def _value(self, node: Node) -> Size:
        variable = _variable(node, self._declared)
        return NOTHING if variable is None else self._values[variable]

    def _selected(self, node: Node, scope: Mapping[str, Size]) -> Size:
        whole = self._value(node)
        operand = self.size(node.parts[0], scope)
        if node.tests:
            return NOTHING
        return joined((whole, operand.at(node.name)))

    def _listed(self, sizes: list[Size]) -> Size:
        self._spend(NODE * len(sizes))
        work = CONTAINER + MEMBER * len(sizes) + sum(size.work for size in sizes)
        return Size(members=len(sizes), work=work, inner=lambda: (joined(sizes), NOTHING))

    def _mapped(self, node: Node, sizes: list[Size]) -> Size:
        work = CONTAINER + ENTRY * len(sizes) + sum(size.work for size in sizes)
        self._spend(ENTRY * len(sizes) + sum(size.characters for size in sizes))
        if not node.name:
            return Size(members=len(sizes), work=work, inner=lambda: (joined(sizes), joined(sizes)))
        # A message, to which and from which values are converted.
        self._spend(5 * work)
        every = joined([*sizes, *(size.member for size in sizes)])
        members = len(sizes) + sum(size.members for size in sizes)
        return Size(members, every.characters, work, inner=lambda: (every, every))

    def _looped(self, node: Node, scope: Mapping[str, Size]) -> Size:
        over, start, condition, step, result = node.parts
        ranged = self.size(over, scope)
        first = self.size(start, scope)
        rounds = ranged.members
        inner = {**scope, node.name: ranged.item, node.accumulator: first}
        last = first
        if start.kind in (LIST, MESSAGE):  # it makes a list: each step adds to it
            spent, self.spent = self.spent, 0.0
            added = self.size(step, inner)
            self.spent = spent
            last = _repeated(added, rounds)
            # It grows from nothing, so that half of it is copied on average.
            inner[node.accumulator] = Size(
                last.members / 2, work=last.work / 2, inner=lambda: (added.member, NOTHING)
            )
        times, self._times = self._times, self._times * max(rounds, 1)
        self.size(condition, inner)
        self.size(step, inner)
        self._times = times
        return self.size(result, {**scope, node.accumulator: last})

    def _called(self, node: Node, sizes: list[Size]) -> Size:
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
            characters = max(sizes[0].characters, LONGEST_NUMBER)
            return Size(characters=characters, work=characters * CHARACTER)
        if name == "size" and len(sizes) == 1:
            self._spend(2 * sizes[0].characters)
            return NOTHING
        if name == "_?_:_":
            return joined(sizes[1:])
        if len(sizes) == 2:
            return self._of_two(node, *sizes)
        return self._unknown(node, sizes)

    def _of_two(self, node: Node, left: Size, right: Size) -> Size:
        if node.name in _COMPARISONS:
            self._spend(min(left.work, right.work))
            return NOTHING
        if node.name == "_+_":
            return self._added(left, right)
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
        return self._unknown(node, [left, right])

    def _added(self, left: Size, right: Size) -> Size:
        members, characters = left.members + right.members, left.characters + right.characters
        self._spend(ARITHMETIC + COPIED_MEMBER * members + CHARACTER * characters)
        return Size(
            members,
            characters,
            left.work + right.work,
            lambda: (joined((left.member, right.member)), NOTHING),
        )

    def _unknown(self, node: Node, sizes: list[Size]) -> Size:
        """A function that is not known here, or an accessor of a time."""
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


def size_of_text(text: str | bytes) -> Size:
    """The size of a literal."""
    return Size(characters=len(text) * 4, work=len(text) * 4 * CHARACTER)


def _repeated(added: Size, rounds: float) -> Size:
    return Size(
        members=added.members * rounds,
        characters=added.characters * rounds,
        work=CONTAINER + added.work * rounds,
        inner=lambda: (added.member, NOTHING),
    )
