"""A definition as YAML 1.2, as a person would write it: in blocks, steps and transitions in their order.

What is written is read back exactly, by readers of YAML 1.1 too. It is written here and not by a library,
which takes seconds for a large definition and loses some characters (U+0085).
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from msgspec import to_builtins

from app.contracts.flow import Flow

_RESERVED = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}
_LONGEST_KEY = 1000
"""A key on the line of its value has at most 1024 characters."""
_UNSAFE = re.compile(r"[:#]| \Z")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def flow_to_yaml(flow: Flow) -> str:
    """The definition, ending with a line end."""
    return "\n".join(_block(to_builtins(flow))) + "\n"


def _block(value: Any) -> Iterator[str]:
    """The lines of a value that begins a line."""
    if isinstance(value, dict) and value:
        for name, member in value.items():
            yield from _member(name, member)
    elif isinstance(value, list) and value:
        for member in value:
            yield from _item(member)
    else:
        yield _scalar(value)


def _member(name: str, value: Any) -> Iterator[str]:
    key = _text(name)
    if len(key) > _LONGEST_KEY:
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
        return _text(value)
    written = json.dumps(value)
    # An exponent alone makes no number in YAML 1.1.
    return written.replace("e", ".0e") if isinstance(value, float) and "." not in written else written


def _text(text: str) -> str:
    """Plain where nothing in it could mean anything, otherwise in quotes with what cannot be seen escaped."""
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
    """True for a text of several lines that can stand as they are."""
    if not isinstance(value, str) or "\n" not in value.removesuffix("\n"):
        return False
    lines = value.removesuffix("\n").split("\n")
    return (
        all(line.isprintable() and not line.endswith(" ") for line in lines)
        and lines[0][:1] not in ("", " ")
        and lines[-1] != ""
    )
