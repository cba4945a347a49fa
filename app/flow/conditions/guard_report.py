"""Reports about guards: the values that a refused one read, and messages of the library."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from app.flow.conditions.cel_tree import IDENT, Node
from app.flow.conditions.guard_reads import named_member

MAX_SHOWN_BYTES = 500
"""Of a value in a report, as JSON: a longer one is cut."""
_MAX_SHOWN_FAULTS = 3
_PLACED = re.compile(r"<input>:(\d+):(\d+): ([^\n]*)")
"""A message of the compiler, with its line and column."""


def seen_values(root: Node, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that an expression names, by their paths.

    A missing value is null, and a long one is cut.
    """
    seen = {}
    for segments in _paths(root):
        name = segments[0] if segments[0] in values else ".".join(segments[:2])
        if name not in values:
            continue
        value = values[name]
        for segment in segments[name.count(".") + 1 :]:
            if not isinstance(value, dict):
                break
            name, value = f"{name}.{segment}", value.get(segment)
        seen[name] = _shortened(value)
    return seen


def compile_fault(refusal: str) -> str:
    """Return the message of the compiler in plain words, with columns."""
    found = _PLACED.findall(refusal)
    if not found:
        return f"The guard does not compile: {strip_status(refusal)}"
    faults = []
    for line, column, message in found[:_MAX_SHOWN_FAULTS]:
        plain = message.replace(" (in container '')", "").removesuffix(" [INVALID_ARGUMENT]")
        place = f"column {column}" if line == "1" else f"line {line}, column {column}"
        faults.append(f"{plain.partition(' expecting {')[0]} ({place})")
    return f"The guard does not compile: {'; '.join(faults)}"


def strip_status(message: str) -> str:
    """Return the first line of a message of the library, without its status."""
    text = re.sub(r"^[A-Z_]+: ", "", message.partition("\n")[0])
    return re.sub(r" \[[A-Z_]+\]$", "", text)


def _paths(root: Node) -> Iterator[list[str]]:
    """Yield the names and members that an expression reads, each as long as it is written."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        path = _path_of(node)
        if path is None:
            waiting += reversed(node.parts)
        else:
            yield path


def _path_of(node: Node) -> list[str] | None:
    """Return the segments of ``name.member['other']``; None for any other expression."""
    segments: list[str] = []
    while node.kind != IDENT:
        member = named_member(node)
        if member is None:
            return None
        segments.append(member)
        node = node.parts[0]
    return [node.name.removeprefix("."), *reversed(segments)]


def _shortened(value: Any) -> Any:
    text = msgspec.json.encode(value)
    if len(text) <= MAX_SHOWN_BYTES:
        return msgspec.json.decode(text)
    return text[:MAX_SHOWN_BYTES].decode(errors="ignore") + "…"
