"""Integers beyond 64 bits, which JSON allows and the database does not."""

from decimal import Decimal
from typing import Any

MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1
_MAX_DEPTH = 64
"""Levels of lists and objects that are read: values that are as deep are refused elsewhere."""
_JAVASCRIPT_DIGITS = 10**21
"""JavaScript writes smaller numbers without an exponent."""


def with_doubles(value: Any, depth: int = _MAX_DEPTH) -> Any:
    """Replace integers beyond 64 bits by the doubles that they are, at any level of a JSON value.

    JavaScript writes the double 1e20 as 100000000000000000000 and 2**63 as 9223372036854776000. Integers that
    are no double stay as they are, to be refused. Nothing is changed in place.
    """
    kind = type(value)
    if kind is str or kind is float or kind is bool or value is None or depth == 0:
        return value
    if isinstance(value, dict):
        changed = {}
        for name, member in value.items():
            new = with_doubles(member, depth - 1)
            if new is not member:
                changed[name] = new
        return {**value, **changed} if changed else value
    if isinstance(value, list):
        members = [with_doubles(member, depth - 1) for member in value]
        same = all(new is member for new, member in zip(members, value, strict=True))
        return value if same else members
    if isinstance(value, int) and not MIN_INTEGER <= value <= MAX_INTEGER:
        return _double_of(value)
    return value


def _double_of(number: int) -> float | int:
    try:
        double = float(number)
    except OverflowError:
        return number
    is_exact = double == number
    if not is_exact and abs(number) < _JAVASCRIPT_DIGITS:
        is_exact = int(Decimal(repr(double))) == number
    return double if is_exact else number
