"""JSON pointers (RFC 6901) into a document."""

from collections.abc import Iterator
from typing import Any


def path_to(document: object, pointer: str) -> Iterator[tuple[Any, Any]]:
    """Yield each object or list on the path to a value, with the name or position in it.

    It ends where the document has no such member.
    """
    value: Any = document
    for segment in pointer.split("/")[1:]:
        name: str | int = segment
        if isinstance(value, dict):
            if "~" in segment:
                name = segment.replace("~1", "/").replace("~0", "~")
            if name not in value:
                return
        elif isinstance(value, list) and segment.isdecimal() and int(segment) < len(value):
            name = int(segment)
        else:
            return
        yield value, name
        value = value[name]


def value_at(document: object, pointer: str) -> Any:
    """Return the value at a pointer."""
    value: Any = document
    for around, name in path_to(document, pointer):
        value = around[name]
    return value
