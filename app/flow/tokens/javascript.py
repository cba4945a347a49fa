"""Conversions of JavaScript, which state tokens are made with."""

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, TypeVar

T = TypeVar("T")

ARRAY_LIMIT = 2**32 - 1
"""The first integer that is not an index of an array."""
_INDEX = re.compile(r"(?:0|[1-9][0-9]{0,9})\Z")
_BLANKS = "\t\n\v\f\r \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
_INTEGER = re.compile(rf"[{_BLANKS}]*([+-]?)(?:(0[xX])([0-9a-fA-F]*)|([0-9]+))")
_SURROGATE = re.compile("[\ud800-\udfff]")


def text_of(value: Any) -> str:
    """Return the result of ``toString`` for a JSON value.

    All numbers are doubles, so that integers beyond 2**53 lose the precision that they lose in JavaScript;
    null is empty, as in an array; the members of an array are joined by commas, those of an object are not
    listed.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return _number(float(value))
    if isinstance(value, list):
        return ",".join(map(text_of, value))
    return "[object Object]"


def _number(value: float) -> str:
    if value == 0:
        return "0"
    decimal = Decimal(repr(value))
    point = decimal.adjusted() + 1
    shortest = "".join(map(str, decimal.as_tuple().digits)).rstrip("0")
    sign = "-" if value < 0 else ""
    if len(shortest) <= point <= 21:
        return f"{sign}{shortest:0<{point}}"
    if 0 < point <= 21:
        return f"{sign}{shortest[:point]}.{shortest[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{shortest}"
    fraction = f".{shortest[1:]}" if shortest[1:] else ""
    return f"{sign}{shortest[0]}{fraction}e{point - 1:+d}"


def parse_int(text: str) -> float | None:
    """Return the integer at the beginning of a text, as ``parseInt`` without a radix; None for NaN.

    Blanks and a sign may precede the digits, which may be hexadecimal after ``0x``; the rest is ignored.
    """
    match = _INTEGER.match(text)
    if match is None:
        return None
    sign, hexadecimal, hex_digits, digits = match.groups()
    if hexadecimal and not hex_digits:
        return None
    try:
        number = float.fromhex(hex_digits) if hexadecimal else float(digits)
    except OverflowError:
        number = float("inf")
    return -number if sign == "-" else number


def members_of(value: Mapping[str, T]) -> list[tuple[str, T]]:
    """Return the members of an object in the order of ``Object.entries``.

    Names that are indexes of an array come first, by number, then the others as they were written.
    """
    indexes = sorted((name for name in value if _is_index(name)), key=int)
    return [*((name, value[name]) for name in indexes), *(m for m in value.items() if not _is_index(m[0]))]


def _is_index(name: str) -> bool:
    return _INDEX.match(name) is not None and int(name) < ARRAY_LIMIT


def json_of(value: object) -> bytes:
    r"""Return the result of ``JSON.stringify`` in UTF-8, with lone surrogates as ``\udxxx``.

    Args:
        value: Text and integers, and lists and objects of them.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    paired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return paired.encode("utf-8", "backslashreplace")


def well_formed(text: str) -> str:
    """Replace each lone surrogate by U+FFFD, as ``toWellFormed`` does."""
    return _SURROGATE.sub("\ufffd", text)
