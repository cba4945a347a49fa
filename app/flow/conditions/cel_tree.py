"""The syntax tree of an expression in CEL, read from the form in which the library serializes it.

That is a protobuf message ``cel.expr.ParsedExpr`` in an ``Any``; the library brings no classes for it. Only
the fields that the checks of guards need are read (https://github.com/cel-expr/cel-spec, ``syntax.proto``).
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
"""The fields of a node that are nodes themselves: of a call its target and its arguments, of a comprehension
its range, the first value of its accumulator, its condition, its step and its result."""
_TARGET = 1
"""The field of a call that only a method has."""
_NAME = {IDENT: 1, SELECT: 2, CALL: 2, MESSAGE: 1, COMPREHENSION: 1}
_TEST_ONLY, _ACCUMULATOR, _STRING, _LITERAL_BYTES = 3, 3, 6, 7
_ENTRY, _KEY, _ENTRY_VALUE = 2, 3, 4
"""Fields of a message or a map."""


class Node(Struct, frozen=True):
    """A part of an expression.

    Args:
        raw: Its protobuf message.
        kind: One of the constants above.
        position: The character of the expression at which it is; of a call that of its opening bracket.
        name: The name of a variable, a selected member, a called function, a message, or the loop variable.
        accumulator: The name of the accumulator of a comprehension.
        text: A literal text or literal bytes.
        tests: True if ``has`` tests for the member.
        is_method: True for a call with a target, which is the first of its parts.
        parts: The nodes inside it, in the order of the expression.
        is_constant: True if it reads no variable, no member of one, and no loop variable.
        is_literal: True for a literal.
    """

    raw: bytes
    kind: int
    position: int
    name: str
    accumulator: str
    text: str | bytes | None
    tests: bool
    is_method: bool
    parts: tuple["Node", ...]
    is_constant: bool
    is_literal: bool

    @property
    def function(self) -> str:
        """The name of the called function; empty for other nodes."""
        return self.name if self.kind == CALL else ""


class Tree:
    """The tree of an expression that the library can parse.

    Raises:
        RuntimeError: It cannot.
    """

    def __init__(self, expression: str, environment: CelEnvironment) -> None:
        self._environment = environment
        parsed = dict(_fields(environment.parse(expression)))[_VALUE]
        members = dict(_fields(parsed))
        self._positions = dict(_positions(members[_SOURCE_INFO]))
        self.root = self._node(members[_EXPR])

    def value(self, node: Node) -> tuple[Any, str | None]:
        """Return the value of a constant node, or None and the reason why it has none."""
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
        tests = is_method = False
        inner: list[bytes] = []
        for number, value in _fields(content) if isinstance(content, bytes) else ():
            if number == _NAME.get(kind):
                name = value.decode()
            elif kind == MESSAGE and number == _ENTRY:
                inner += [part for member, part in _fields(value) if member in (_KEY, _ENTRY_VALUE)]
            elif number in _PARTS.get(kind, ()):
                inner.append(value)
                is_method = is_method or (kind == CALL and number == _TARGET)
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
            is_method=is_method,
            parts=tuple(parts),
            is_constant=is_constant,
            is_literal=kind == _CONSTANT,
        )


def _positions(source_info: bytes) -> Iterator[tuple[int, int]]:
    """Yield the id of each node with its position, in characters of the expression."""
    for number, value in _fields(source_info):
        if number == _POSITIONS:
            entry = dict(_fields(value))
            yield entry.get(1, 0), entry.get(2, 0)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the numbers and values of the fields of a protobuf message; a value is a number, or bytes."""
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
    """Return a protobuf field of bytes."""
    length, encoded = len(content), bytearray([number << 3 | _BYTES])
    while length > 127:
        encoded.append(length & 127 | 128)
        length >>= 7
    encoded.append(length)
    return bytes(encoded) + content
