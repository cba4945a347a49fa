"""Checks that every part of the system can store JSON and read it back exactly."""

import math
from collections.abc import Iterable
from typing import Any

from app.contracts.errors import Fault
from app.flow.values.struct_errors import escape
from app.kit.numbers import MAX_INTEGER, MIN_INTEGER

MAX_DEPTH = 32
MAX_NAME_CHARACTERS = 1_024
"""Characters of the name of a member."""
NUMBER_RULE = "an integer must fit 64 bits, or be exact as a double (IEEE 754); send others as text"


def storage_errors(value: object, at: str, max_depth: int = MAX_DEPTH) -> list[Fault]:
    """Return every place in ``value`` that cannot be stored, by its JSON pointer below ``at``.

    These are integers beyond 64 bits, numbers that are not finite, names with NUL or of more than
    ``MAX_NAME_CHARACTERS``, lone surrogates, and more than ``max_depth`` levels.
    """
    if _is_storable(value, max_depth):  # without a pointer for every place, which costs the most
        return []
    faults: list[Fault] = []
    _collect_faults(value, at, max_depth, faults, max_depth)
    return faults


def _is_storable(value: Any, levels: int) -> bool:
    kind = type(value)  # by identity, the most frequent first: this runs for every value of every payload
    if kind is str:
        return _is_unicode(value)
    if kind is int:
        fits: bool = MIN_INTEGER <= value <= MAX_INTEGER
        return fits
    if kind is dict:
        if not levels:
            return False
        for key, member in value.items():
            if type(key) is not str or len(key) > MAX_NAME_CHARACTERS or "\0" in key or not _is_unicode(key):
                return False
            if not _is_storable(member, levels - 1):
                return False
        return True
    if kind is list:
        if not levels:
            return False
        for member in value:  # noqa: SIM110 - a generator costs as much again
            if not _is_storable(member, levels - 1):
                return False
        return True
    return _scalar_fault(value) is None


def count_nodes(value: object) -> int:
    """Count the members of all lists and objects in a value."""
    if isinstance(value, dict):
        return len(value) + sum(count_nodes(member) for member in value.values())
    return len(value) + sum(count_nodes(member) for member in value) if isinstance(value, list) else 0


def _collect_faults(value: Any, at: str, levels: int, faults: list[Fault], max_depth: int) -> None:
    members: Iterable[tuple[object, Any]]
    if isinstance(value, dict):
        members = value.items()
        if not all(isinstance(key, str) and "\0" not in key and _is_unicode(key) for key in value):
            faults.append(Fault(at, "a name must be Unicode text without NUL characters"))
            return
        if any(len(key) > MAX_NAME_CHARACTERS for key in value):
            faults.append(Fault(at, f"a name must have at most {MAX_NAME_CHARACTERS} characters"))
            return
    elif isinstance(value, list):
        members = enumerate(value)
    else:
        fault = _scalar_fault(value)
        if fault:
            faults.append(Fault(at, fault))
        return
    if not levels:
        faults.append(Fault(at, f"The value is nested deeper than {max_depth} levels"))
        return
    for key, member in members:
        _collect_faults(member, f"{at}/{escape(key)}", levels - 1, faults, max_depth)


def _scalar_fault(value: object) -> str | None:
    if isinstance(value, str):
        return None if _is_unicode(value) else "text must be Unicode without lone surrogates"
    if isinstance(value, float):
        return None if math.isfinite(value) else "a number must be finite"
    if isinstance(value, int):
        return None if MIN_INTEGER <= value <= MAX_INTEGER else NUMBER_RULE
    return None if value is None else f"{type(value).__name__} is not a JSON value"


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
