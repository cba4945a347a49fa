"""The terms by which states are found: values of searchable fields, in the clear."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from app.contracts.state import Payload
from app.flow.values.masking import WILDCARD

MAX_SEARCHABLE = 10
"""Searchable fields of one flow."""
MAX_TERMS = 50
"""Terms of one state: further values are not found."""
MAX_SEARCHABLE_POINTER = 256
"""Characters of a pointer to a searchable field."""
MAX_VALUE_BYTES = 256
"""Bytes of a value as JSON: a longer one is not found."""


def search_term(flow_id: str, pointer: str, value: Any) -> str | None:
    """Return the term of a value in a field; None for one by which no state is found.

    Equal numbers have the same term: 1 and 1.0.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, dict | list):
        return None
    text = msgspec.json.encode(value)
    if len(text) > MAX_VALUE_BYTES:
        return None
    return f"{flow_id};{pointer}={text.decode()}"


def search_terms(flow_id: str, searchable: Sequence[str], payload: Payload | UnsetType) -> tuple[str, ...]:
    """Return the terms of a payload, at most ``MAX_TERMS``, without duplicates."""
    if payload is UNSET:
        return ()
    terms: dict[str, None] = {}
    for pointer in searchable:
        segments = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
        for value in _values(payload, segments):
            term = search_term(flow_id, pointer, value)
            if term is not None and len(terms) < MAX_TERMS:
                terms[term] = None
    return tuple(terms)


def _values(value: Any, segments: Sequence[str]) -> Iterator[Any]:
    """Yield the values to which a pointer leads."""
    if not segments:
        yield value
        return
    name, *rest = segments
    members: dict[str, Any] = {}
    if isinstance(value, dict):
        members = value
    elif isinstance(value, list):
        members = {str(n): element for n, element in enumerate(value)}
    for key, member in members.items():
        if name in (key, WILDCARD):
            yield from _values(member, rest)
