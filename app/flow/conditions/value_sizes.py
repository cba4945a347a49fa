"""Upper bounds of the sizes of values, from which the cost of a guard is estimated.

Work is in nanoseconds of the machine on which the library was measured (see ``guard_cost``). Of intermediate
values only the sizes are known; the values of a payload are inspected.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

MEMBER, ENTRY, CONTAINER, CHARACTER = 250, 1000, 500, 3
"""Nanoseconds to convert to CEL, or to compare: a member of a list, an entry of an object, a list or an
object itself, and a byte of text."""


class Size:
    """An upper bound of the size of a value.

    Args:
        members: Members of a list or an object.
        characters: Bytes of a text.
        work: Nanoseconds to convert the value to CEL, or to compare it.
        inner: Makes the size of its members and the size of its names, when they are needed.
    """

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
        """The size of the largest member."""
        return self._insides()[0]

    @property
    def item(self) -> "Size":
        """The size of the loop variable: a member of a list, or a name of an object."""
        return joined(self._insides())

    def at(self, name: str) -> "Size":
        """Return the size of the member of an object with this name."""
        return self.member


NOTHING = Size()


class _SizeOfValues(Size):
    """The size of one known value, or of the largest of several."""

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
        """Group the members of all objects once: a guard may name many in a list of thousands."""
        if self._by_name is None:
            self._by_name = {}
            for value in self._values:
                for name, member in value.items() if isinstance(value, dict) else ():
                    self._by_name.setdefault(name, []).append(member)
        return self._by_name


class SizeOfObject(Size):
    """The size of an object, computed from the sizes of its members."""

    __slots__ = ("_named",)

    def __init__(self, named: Mapping[str, Size]) -> None:
        work = CONTAINER + sum(ENTRY + size.work + work_of(name) for name, size in named.items())
        super().__init__(len(named), work=work, inner=lambda: (joined(named.values()), size_of(*named)))
        self._named = named

    @property
    def item(self) -> Size:
        """The size of the loop variable: a name."""
        return self._insides()[1]

    def at(self, name: str) -> Size:
        """Return the size of a member; a missing one has none."""
        return self._named.get(name, NOTHING)


def size_of(*values: Any) -> Size:
    """Return the size of a JSON value, or of the largest of several."""
    sized = [value for value in values if isinstance(value, str | list | dict)]
    return _SizeOfValues(sized) if sized else NOTHING


def size_of_unknown(work: float) -> Size:
    """Return a size that no value exceeds whose conversion takes ``work``, nor do its members."""
    size = Size(members=work / MEMBER, characters=work / CHARACTER, work=work, inner=lambda: (size, size))
    return size


def work_of(value: Any) -> float:
    """Return the cost of converting a value to CEL, in nanoseconds."""
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
    """Return an upper bound of the size of any one of several values."""
    found = [size for size in dict.fromkeys(sizes) if size is not NOTHING]
    if len(found) < 2:
        return found[0] if found else NOTHING
    return _LargestOf(found)


class _LargestOf(Size):
    """The size of any one of several values: the largest of each measure."""

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


def size_of_text(text: str | bytes) -> Size:
    """Return the size of a literal."""
    return Size(characters=len(text) * 4, work=len(text) * 4 * CHARACTER)
