"""The syntax tree of an expression in CEL, read from what the library serializes.

It is a protobuf message ``cel.expr.ParsedExpr`` in an ``Any``; the library brings no classes for it. Only
what finds constant parts and what estimates the cost is read (https://github.com/cel-expr/cel-spec,
``syntax.proto``).
"""

from collections.abc import Iterator
from typing import Any

from cel_expr_python import cel
from msgspec import Struct

from app.flow.conditions.cel_environment import CelEnvironment

_TYPE_URL = b"type.googleapis.com/cel.expr.ParsedExpr"
_VARINT, _64_BITS, _BYTES, _32_BITS = 0, 1, 2, 5
# Of Any, ParsedExpr and SourceInfo.
_VALUE, _EXPR, _SOURCE_INFO, _POSITIONS = 2, 2, 3, 4
# Of Expr.
_ID, _CONSTANT, IDENT, SELECT, CALL, LIST, MESSAGE, COMPREHENSION = 2, 3, 4, 5, 6, 7, 8, 9
"""The kinds of nodes. A map is a message without a name."""
_PARTS = {SELECT: (1,), CALL: (1, 3), LIST: (1,), COMPREHENSION: (2, 4, 5, 6, 7)}
"""Which fields of a part are parts themselves; those of a call are its target and its arguments, those of a
comprehension its range, the first value of its accumulator, its condition, its step and its result."""
_NAME = {IDENT: 1, SELECT: 2, CALL: 2, MESSAGE: 1, COMPREHENSION: 1}
_TEST_ONLY, _ACCUMULATOR, _STRING, _LITERAL_BYTES = 3, 3, 6, 7
_ENTRY, _KEY, _ENTRY_VALUE = 2, 3, 4
"""Of a message or a map."""


class Node(Struct, frozen=True):
    """A part of an expression. ``raw`` is its message, ``kind`` one of the constants above; a call has its
    target and arguments as parts. ``name`` is that of a variable, a selected member, a called function, a
    message, or the variable of a loop. ``text`` is a literal text or literal bytes; ``tests``: the member is
    asked for by ``has``."""

    raw: bytes
    kind: int
    position: int
    name: str
    accumulator: str
    text: str | bytes | None
    tests: bool
    parts: tuple["Node", ...]
    is_constant: bool
    """Return whether nothing in it is read: no variable, no member, no variable of a loop."""
    is_literal: bool

    @property
    def function(self) -> str:
        """The name of the called function; empty for what is no call."""
        return self.name if self.kind == CALL else ""


class Tree:
    """The tree of an expression, which must have a syntax that the library accepts."""

    def __init__(self, expression: str, environment: CelEnvironment) -> None:
        self._environment = environment
        parsed = dict(_fields(environment.parse(expression)))[_VALUE]
        members = dict(_fields(parsed))
        self._positions = dict(_positions(members[_SOURCE_INFO]))
        self.root = self._node(members[_EXPR])

    def value(self, node: Node) -> tuple[Any, str | None]:
        """Evaluate a constant node: its value, or why it has none."""
        parsed = _member(_EXPR, node.raw)
        whole = _member(1, _TYPE_URL) + _member(_VALUE, parsed)
        try:
            found = self._environment.evaluate(whole)
        except RuntimeError as refusal:
            return None, str(refusal)
        return (None, str(found.value())) if found.type() == cel.Type.ERROR else (found.value(), None)

    def _node(self, raw: bytes) -> Node:
        fields = list(_fields(raw))
        kind, content = next(((number, value) for number, value in fields if number != _ID), (0, b""))
        expr_id = next((value for number, value in fields if number == _ID), 0)
        name = accumulator = ""
        text = None
        tests = False
        inner: list[bytes] = []
        for number, value in _fields(content) if isinstance(content, bytes) else ():
            if number == _NAME.get(kind):
                name = value.decode()
            elif kind == MESSAGE and number == _ENTRY:
                inner += [part for member, part in _fields(value) if member in (_KEY, _ENTRY_VALUE)]
            elif number in _PARTS.get(kind, ()):
                inner.append(value)
            elif kind == COMPREHENSION and number == _ACCUMULATOR:
                accumulator = value.decode()
            elif kind == SELECT and number == _TEST_ONLY:
                tests = bool(value)
            elif kind == _CONSTANT and number in (_STRING, _LITERAL_BYTES):
                text = value.decode() if number == _STRING else value
        parts = []
        is_constant = kind in (_CONSTANT, SELECT, CALL, LIST, MESSAGE)
        for part in inner:
            node = self._node(part)
            parts.append(node)
            is_constant = is_constant and node.is_constant
        return Node(
            raw=raw,
            kind=kind,
            position=self._positions.get(expr_id, 0),
            name=name,
            accumulator=accumulator,
            text=text,
            tests=tests,
            parts=tuple(parts),
            is_constant=is_constant,
            is_literal=kind == _CONSTANT,
        )


def _positions(source_info: bytes) -> Iterator[tuple[int, int]]:
    """For each node by its id, the character at which the expression has it."""
    for number, value in _fields(source_info):
        if number == _POSITIONS:
            entry = dict(_fields(value))
            yield entry.get(1, 0), entry.get(2, 0)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message, in order: numbers, or bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        length = {_64_BITS: 8, _32_BITS: 4}.get(wire)
        if length is None:
            length, at = _varint(message, at)
        yield tag >> 3, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _member(number: int, content: bytes) -> bytes:
    """A field of bytes."""
    length, encoded = len(content), bytearray([number << 3 | _BYTES])
    while length > 127:
        encoded.append(length & 127 | 128)
        length >>= 7
    encoded.append(length)
    return bytes(encoded) + content
