"""Conflicts of a transition with changes of the state's payload that its caller did not know.

A field is any member of the payload, at any depth, named by a JSON pointer. Lists are compared as wholes.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import UNSET, Struct

from app.contracts.commands import TransitionCommand
from app.contracts.record import MergedField
from app.contracts.state import Payload
from app.flow.values.struct_errors import escape


class Conflicts(Struct, frozen=True):
    """The fields that a request sets or removes, and that have changed meanwhile.

    ``merged`` are those in which the request may replace the other change, ``refused`` pointers to the rest.
    """

    merged: tuple[MergedField, ...] = ()
    refused: tuple[str, ...] = ()


NO_CONFLICTS = Conflicts()


def find_conflicts(
    base: Payload, present: Payload, command: TransitionCommand, declared: Sequence[str]
) -> Conflicts:
    """Compare the fields that a request sends with those that have changed.

    A field that has the same value after both changes is no conflict. The removal of an element of a list
    that has changed is always one: its position may be that of another element.

    Args:
        base: The payload that the caller knew.
        present: The payload of the state.
        command: The request.
        declared: Pointers to the fields, with all that is in them, in which the request may replace another
            change.
    """
    given = {} if command.payload is UNSET else command.payload
    found: dict[str, MergedField] = {}
    refused: dict[str, None] = {}
    for name in given:
        values = base.get(name, UNSET), present.get(name, UNSET), given[name]
        found |= {field.pointer: field for field in _conflicts(*values, _at("", name))}
    for pointer in () if command.remove is UNSET else command.remove:
        path = [segment.replace("~1", "/").replace("~0", "~") for segment in pointer.split("/")[1:]]
        if path[0] in given:
            continue  # the value that is sent replaces what is left of the member
        depth = min(_depth_of_list(base, path), _depth_of_list(present, path))
        place = "".join(_at("", name) for name in path[:depth])
        before, now = _value(base, path[:depth]), _value(present, path[:depth])
        if depth == len(path):
            found |= {field.pointer: field for field in _conflicts(before, now, UNSET, place)}
        elif not is_same(before, now):
            refused[place] = None  # its positions are those of another list
    fields = frozenset(declared)
    refused |= {pointer: None for pointer in found if not _is_declared(pointer, fields)}
    merged = tuple(field for pointer, field in found.items() if pointer not in refused)
    return Conflicts(merged, tuple(refused)) if found or refused else NO_CONFLICTS


def is_same(one: Any, other: Any) -> bool:
    """Return whether two JSON values are the same; ``true`` is no number, and 1.0 is 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _conflicts(base: Any, theirs: Any, ours: Any, at: str) -> Iterator[MergedField]:
    """Yield the fields at and below ``at`` that both changes set; UNSET stands for no value."""
    if is_same(base, theirs) or is_same(theirs, ours):
        return
    if not all(value is UNSET or isinstance(value, dict) for value in (base, theirs, ours)):
        yield MergedField(at, theirs, ours)
        return
    before, earlier, later = ({} if value is UNSET else value for value in (base, theirs, ours))
    in_members = False
    for name in before | earlier:
        changed = before.get(name, UNSET), earlier.get(name, UNSET)
        for field in _conflicts(*changed, later.get(name, UNSET), _at(at, name)):
            in_members = True
            yield field
    if not in_members and (theirs is UNSET or ours is UNSET):
        yield MergedField(at, theirs, ours)


def _depth_of_list(value: Any, path: Sequence[str]) -> int:
    """Return how many segments of a path lead to the first list on it; all of them if there is none."""
    for depth, name in enumerate(path):
        if isinstance(value, list):
            return depth
        value = value.get(name, UNSET) if isinstance(value, dict) else UNSET
    return len(path)


def _value(payload: Payload, path: Sequence[str]) -> Any:
    value: Any = payload
    for name in path:
        value = value.get(name, UNSET) if isinstance(value, dict) else UNSET
    return value


def _at(parent: str, name: str) -> str:
    return f"{parent}/{escape(name)}"


def _is_declared(pointer: str, declared: frozenset[str]) -> bool:
    """Return whether a field, or one around it, is declared."""
    end = len(pointer)
    while end > 0:
        if pointer[:end] in declared:
            return True
        end = pointer.rfind("/", 0, end)
    return False
