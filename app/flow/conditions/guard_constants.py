"""Parts of a guard that can never be evaluated, whatever the guard reads."""

from collections.abc import Iterator
from functools import cache
from typing import Any

from cel_expr_python import cel

from app.flow.conditions.cel_environment import CelEnvironment
from app.flow.conditions.cel_tree import Node, Tree

_DIVISIONS = ("_/_", "_%_")
_OF_A_ZONE = frozenset(
    {
        *("getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"),
        *("getHours", "getMinutes", "getSeconds", "getMilliseconds"),
    }
)
_PROBES = {
    **{name: f"timestamp('2000-01-01T00:00:00Z').{name}(given) >= 0" for name in _OF_A_ZONE},
    "matches": "[''.matches(given)].size() == 1",
}
"""Checks of the texts that a method takes, whatever it is called on."""


def constant_fault(tree: Tree, expression: str) -> str | None:
    """The first part of a guard that compiles and can never be evaluated; None if there is none.

    Such parts are ``x / 0``, ``int('abc')``, ``x.getHours('Europe/Pariss')``, ``x.matches('(')``, ``[1][2]``
    and ``x[-1]``, also where they are not always reached.
    """
    return next((fault for node in _nodes(tree.root) for fault in _faults(tree, node, expression)), None)


def _nodes(root: Node) -> Iterator[Node]:
    """All parts in their order, from the outside in; of constant parts the outermost alone."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        if not node.is_constant:
            waiting += reversed(node.parts)


def _faults(tree: Tree, node: Node, expression: str) -> Iterator[str]:
    if node.is_constant:
        failing = _innermost_failing(tree, node)
        if failing is not None:
            yield _message(tree, *failing, expression)
        return
    *_, last = node.parts or (None,)
    if last is None or not last.is_constant or not node.function:
        return
    value, reason = tree.value(last)
    if reason is not None:
        return  # it is a fault of its own
    if node.function in _DIVISIONS and isinstance(value, int) and value == 0:
        yield f"divides by zero ({_place(node, expression)})"
    elif node.function == "_[_]" and _is_no_index(value):
        yield f"reads a member at {value}, which no list has ({_place(node, expression)})"
    elif node.function in _PROBES and isinstance(value, str):
        reason = _refusal(node.function, value)
        if reason is not None:
            yield f"{value!r} is not what {node.function} takes: {_plain(reason)}"


def _innermost_failing(tree: Tree, node: Node) -> tuple[Node, str] | None:
    """A constant part without a value all of whose parts have one, and why it has none."""
    found = None
    waiting = [node]
    while waiting:
        part = waiting.pop()
        reason = None if part.is_literal else tree.value(part)[1]
        if reason is not None:
            found = part, reason
            waiting = list(reversed(part.parts))
    return found


def _message(tree: Tree, node: Node, reason: str, expression: str) -> str:
    texts = [tree.value(part)[0] for part in node.parts]
    given = texts[-1] if texts else None
    if node.function.isidentifier() and isinstance(given, str):
        return f"{given!r} is not what {node.function} takes: {_plain(reason)}"
    return f"can never be evaluated: {_plain(reason)} ({_place(node, expression)})"


def _is_no_index(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value < 0 or not float(value).is_integer()


def _refusal(function: str, given: str) -> str | None:
    """Why a method does not take a text."""
    probe = _probes().compile(_PROBES[function])
    try:
        found = probe.eval(data={"given": given})
    except RuntimeError as refusal:
        return str(refusal)
    return str(found.value()) if found.type() == cel.Type.ERROR else None


def _place(node: Node, expression: str) -> str:
    before = expression[: node.position]
    line, column = before.count("\n") + 1, node.position - before.rfind("\n")
    return f"column {column}" if line == 1 else f"line {line}, column {column}"


def _plain(message: str) -> str:
    """A message of the library without its status."""
    status, colon, text = message.partition("\n")[0].partition(": ")
    return text if colon and status.isupper() else message.partition("\n")[0]


@cache
def _probes() -> CelEnvironment:
    return CelEnvironment({"given": cel.Type.STRING})
