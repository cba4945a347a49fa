"""Integers written with a fraction of zero: 1.0 is an integer in JSON Schema."""

import re
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

MAX_REPAIRS = 20
"""Members that are expected to be integers; each costs a conversion."""
_MAX_EXACT = 2**53
_FLOAT_FOR_INTEGER = re.compile(r"Expected `int(?: \| [^`]*)?`, got `float` - at `\$(.*)`\Z")
_SEGMENT = re.compile(r"\.([^.\[]+)|\[\.\.\.\]")
_ALL = "..."


def convert_json(value: object, shape: type[T]) -> T:
    """Convert as ``msgspec.convert`` does, and take whole doubles where integers are expected.

    Only those are changed: 1.0 in a payload stays a double.

    Raises:
        msgspec.ValidationError: The value does not have the shape.
    """
    repaired: set[str] = set()
    while True:
        try:
            return msgspec.convert(value, shape)
        except msgspec.ValidationError as refusal:
            found = _FLOAT_FOR_INTEGER.search(str(refusal))
            path = re.sub(r"\[\d+\]", "[...]", found[1]) if found else ""
            if not path or path in repaired or len(repaired) == MAX_REPAIRS:
                raise
            repaired.add(path)
            value = _with_integers(value, [name or _ALL for name in _SEGMENT.findall(path)])


def _with_integers(value: Any, path: list[str]) -> Any:
    """Replace the whole doubles at a path; ``...`` are all members of a list or a map."""
    if not path:
        whole = isinstance(value, float) and value.is_integer() and abs(value) <= _MAX_EXACT
        return int(value) if whole else value
    first, rest = path[0], path[1:]
    if isinstance(value, dict):
        names = [name for name in value if first in (_ALL, name)]
        return {**value, **{name: _with_integers(value[name], rest) for name in names}}
    if isinstance(value, list):
        return [_with_integers(member, rest) for member in value]
    return value
