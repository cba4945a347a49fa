"""Projection of a payload to some of its members, by JSON pointers (RFC 6901)."""

import re
from collections.abc import Sequence
from typing import Any

from app.contracts.state import Payload

_INDEX = re.compile(r"(?:0|[1-9][0-9]{0,9})\Z")
_WHOLE: dict[str, Any] = {}
"""Marks, by its identity, the end of a pointer in the tree of pointers."""
_ABSENT = object()


def project(payload: Payload, pointers: Sequence[str]) -> Payload:
    """Return the parts of a payload to which ``pointers`` lead, at their places.

    Pointers that lead nowhere are ignored. An element of a list retains its index: elements before it that no
    pointer selects are null. The given payload is not changed.
    """
    tree: dict[str, Any] = {}
    for pointer in pointers:
        if pointer == "":
            return payload
        if pointer.startswith("/"):
            _add(tree, [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]])
    selected = _select(payload, tree)
    return {} if selected is _ABSENT else selected


def _add(tree: dict[str, Any], segments: Sequence[str]) -> None:
    *way, last = segments
    for segment in way:
        tree = tree.setdefault(segment, {})
        if tree is _WHOLE:
            return
    tree[last] = _WHOLE


def _select(value: Any, tree: dict[str, Any]) -> Any:
    if tree is _WHOLE:
        return value
    if isinstance(value, dict):
        members = {name: _select(member, tree[name]) for name, member in value.items() if name in tree}
        found = {name: member for name, member in members.items() if member is not _ABSENT}
        return found or _ABSENT
    if isinstance(value, list):
        return _select_elements(value, tree)
    return _ABSENT


def _select_elements(elements: list[Any], tree: dict[str, Any]) -> Any:
    found = {}
    for segment, branch in tree.items():
        if _INDEX.match(segment) and int(segment) < len(elements):
            element = _select(elements[int(segment)], branch)
            if element is not _ABSENT:
                found[int(segment)] = element
    return [found.get(index) for index in range(max(found) + 1)] if found else _ABSENT
