"""The syntax tree of an expression in CEL, read from what the library serializes.

It is a protobuf message ``cel.expr.ParsedExpr`` in an ``Any``; the library brings no classes for it. Only
what finds constant parts is read (https://github.com/cel-expr/cel-spec, ``syntax.proto``).
"""

from collections.abc import Iterator
from typing import Any

from cel_expr_python import cel
from msgspec import Struct

from app.flow.cel_environment import CelEnvironment

_TYPE_URL = b"type.googleapis.com/cel.expr.ParsedExpr"
_VARINT, _64_BITS, _BYTES, _32_BITS = 0, 1, 2, 5
# Of Any, ParsedExpr and SourceInfo.
_VALUE, _EXPR, _SOURCE_INFO, _POSITIONS = 2, 2, 3, 4
# Of Expr.
_ID, _CONSTANT, _SELECT, _CALL, _LIST, _MESSAGE = 2, 3, 5, 6, 7, 8
_COMPREHENSION = 9
_FUNCTION = 2
_PARTS = {_SELECT: (1,), _CALL: (1, 3), _LIST: (1,), _COMPREHENSION: (2, 4, 5, 6, 7)}
"""Which fields of a part are parts themselves; those of a call are its target and its arguments."""
_ENTRY, _KEY, _ENTRY_VALUE = 2, 3, 4
"""Of a message or a map."""


class Node(Struct, frozen=True):
    """A part of an expression. ``raw`` is its message; a call has its target and arguments as parts."""

    raw: bytes
    position: int
    function: str
    parts: tuple["Node", ...]
    is_constant: bool
    """Return whether nothing in it is read: no variable, no member, no variable of a loop."""
    is_literal: bool


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
        function = ""
        inner: list[bytes] = []
        if kind == _MESSAGE:
            for number, entry in _fields(content):
                if number == _ENTRY:
                    inner += [value for member, value in _fields(entry) if member in (_KEY, _ENTRY_VALUE)]
        elif kind in _PARTS:
            for number, value in _fields(content):
                if kind == _CALL and number == _FUNCTION:
                    function = value.decode()
                elif number in _PARTS[kind]:
                    inner.append(value)
        parts = []
        is_constant = kind in (_CONSTANT, _SELECT, _CALL, _LIST, _MESSAGE)
        for part in inner:
            node = self._node(part)
            parts.append(node)
            is_constant = is_constant and node.is_constant
        return Node(
            raw=raw,
            position=self._positions.get(expr_id, 0),
            function=function,
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
