"""Writes a definition as YAML 1.2 in block style, steps and transitions in their order.

Readers of YAML 1.2 and 1.1 read back exactly what was written. No library is used, because they take seconds
for a large definition and lose some characters (U+0085).
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from msgspec import to_builtins

from app.contracts.flow import Flow

_RESERVED = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}
_MAX_KEY = 1000
"""YAML allows at most 1024 characters for a key on the line of its value."""
_UNSAFE = re.compile(r"[:#]| \Z")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def flow_to_yaml(flow: Flow) -> str:
    """Return the definition, with a line end at the end."""
    return "\n".join(_block(to_builtins(flow))) + "\n"


def _block(value: Any) -> Iterator[str]:
    """Yield the lines of a value at the start of a line."""
    if isinstance(value, dict) and value:
        for name, member in value.items():
            yield from _member(name, member)
    elif isinstance(value, list) and value:
        for member in value:
            yield from _item(member)
    else:
        yield _scalar(value)


def _member(name: str, value: Any) -> Iterator[str]:
    key = _quoted_if_needed(name)
    if len(key) > _MAX_KEY:
        yield f"? {key}"
        key = ""
    if isinstance(value, dict | list) and value:
        yield f"{key}:"
        yield from _indented(_block(value))
    elif _is_paragraph(value):
        yield f"{key}: {'|' if value.endswith(chr(10)) else '|-'}"
        yield from _indented(iter(value.removesuffix("\n").split("\n")))
    else:
        yield f"{key}: {_scalar(value)}"


def _item(value: Any) -> Iterator[str]:
    first, *rest = _block(value)
    yield f"- {first}"
    yield from _indented(iter(rest))


def _indented(lines: Iterator[str]) -> Iterator[str]:
    return (f"  {line}" if line else line for line in lines)


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return _quoted_if_needed(value)
    written = json.dumps(value)
    # YAML 1.1 has no numbers with an exponent but no point.
    return written.replace("e", ".0e") if isinstance(value, float) and "." not in written else written


def _quoted_if_needed(text: str) -> str:
    """Return the text, in quotes and with invisible characters escaped if YAML could interpret it."""
    if _is_plain(text):
        return text
    escaped = (_ESCAPES.get(c) or (c if c.isprintable() else _escape(c)) for c in text)
    return f'"{"".join(escaped)}"'


def _is_plain(text: str) -> bool:
    begins_plainly = text[:1].isalpha() or text[:1] in ("_", "$", "/")
    return (
        begins_plainly
        and text.isprintable()
        and _UNSAFE.search(text) is None
        and text.lower() not in _RESERVED
    )


def _escape(character: str) -> str:
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"


def _is_paragraph(value: object) -> bool:
    """Return whether a value is a text of several lines that needs no escapes."""
    if not isinstance(value, str) or "\n" not in value.removesuffix("\n"):
        return False
    lines = value.removesuffix("\n").split("\n")
    return (
        all(line.isprintable() and not line.endswith(" ") for line in lines)
        and lines[0][:1] not in ("", " ")
        and lines[-1] != ""
    )
