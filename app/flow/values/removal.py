"""Removal of members of a payload, by JSON pointers (RFC 6901)."""

import re
from collections.abc import Sequence
from typing import Any

from app.contracts.errors import Fault, InvalidRequestError
from app.contracts.state import Payload

_LONE_TILDE = re.compile(r"~(?![01])")
_REMOVED: dict[str, Any] = {}
"""Marks, by its identity, the end of a pointer in the tree of removals."""


def pointer_faults(pointers: Sequence[str], at: str = "/remove") -> list[Fault]:
    """Return the faults of pointers to members of a payload; ``at`` is the pointer to their list."""
    if isinstance(pointers, str):  # it would be read as a list of its characters
        return [Fault(at, "The pointers must be a list, not one text, as in ['/address/street']")]
    faults = []
    for n, pointer in enumerate(pointers):
        fault = _fault(pointer)
        if fault is not None:
            faults.append(Fault(f"{at}/{n}", fault))
    return faults


def require_pointers(pointers: Sequence[str]) -> None:
    """Raise InvalidRequestError, with every fault, unless all ``pointers`` can point to a member."""
    faults = pointer_faults(pointers)
    if faults:
        raise InvalidRequestError(faults)


def without(payload: Payload, pointers: Sequence[str]) -> Payload:
    """Return a payload without the values at ``pointers``.

    All of them point into ``payload`` as it is, whatever their order: two elements of a list are named by
    their present positions. A pointer to nothing removes nothing. The given payload is not changed.
    """
    removals: dict[str, Any] = {}
    for pointer in pointers:
        branch = removals
        *way, last = (segment.replace("~1", "/").replace("~0", "~") for segment in pointer.split("/")[1:])
        for name in way:
            branch = branch.setdefault(name, {})
            if branch is _REMOVED:
                break
        else:
            branch[last] = _REMOVED
    left: Payload = _without(payload, removals)
    return left


def _without(value: Any, removals: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        members = [(name, member, removals.get(name)) for name, member in value.items()]
        return {n: m if r is None else _without(m, r) for n, m, r in members if r is not _REMOVED}
    if isinstance(value, list):
        elements = [(element, removals.get(str(n))) for n, element in enumerate(value)]
        return [e if r is None else _without(e, r) for e, r in elements if r is not _REMOVED]
    return value


def _fault(pointer: str) -> str | None:
    if not pointer:
        return "The pointer leads to the whole payload; name its members one by one"
    if not pointer.startswith("/"):
        return "This is not a JSON pointer (RFC 6901): it must start with '/', as in '/address/street'"
    if _LONE_TILDE.search(pointer):
        return "This is not a JSON pointer (RFC 6901): '~' is written '~0', and '/' in a name '~1'"
    try:
        pointer.encode()
    except UnicodeEncodeError:
        return "The pointer is not Unicode text: it has half of a surrogate pair"
    return None
