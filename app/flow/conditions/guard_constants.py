"""Constant parts of a guard that can never be evaluated, whatever the guard reads."""

from collections.abc import Iterator
from functools import cache
from typing import Any

from cel_expr_python import cel

from app.flow.conditions.cel_environment import CelEnvironment
from app.flow.conditions.cel_tree import Node, Tree
from app.flow.conditions.guard_report import strip_status

_DIVISIONS = ("_/_", "_%_")
_ZONED_METHODS = frozenset(
    {
        *("getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"),
        *("getHours", "getMinutes", "getSeconds", "getMilliseconds"),
    }
)
_PROBES = {
    **{name: f"timestamp('2000-01-01T00:00:00Z').{name}(given) >= 0" for name in _ZONED_METHODS},
    "matches": "[''.matches(given)].size() == 1",
}
"""Expressions that check an argument of a method, whatever the method is called on."""


def constant_fault(tree: Tree, expression: str) -> str | None:
    """Return the fault of the first constant part that can never be evaluated; None if there is none.

    Such parts are ``x / 0``, ``int('abc')``, ``x.getHours('Europe/Pariss')``, ``x.matches('(')``, ``[1][2]``
    and ``x[-1]``, also where they are not always reached.
    """
    return next((fault for node in _nodes(tree.root) for fault in _faults(tree, node, expression)), None)


def _nodes(root: Node) -> Iterator[Node]:
    """Yield the nodes in their order, from the outside in; of constant nodes only the outermost."""
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
        return  # reported as a fault of its own
    if node.function in _DIVISIONS and isinstance(value, int) and value == 0:
        yield f"The guard divides by zero ({_place(node, expression)})"
    elif node.function == "_[_]" and _is_no_index(value):
        yield f"The guard reads a member at {value}, which no list has ({_place(node, expression)})"
    elif node.function in _PROBES and isinstance(value, str):
        reason = _refusal(node.function, value)
        if reason is not None:
            yield _argument_fault(node.function, value, reason)


def _innermost_failing(tree: Tree, node: Node) -> tuple[Node, str] | None:
    """Return a constant node without a value all of whose parts have one, and the reason."""
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
        return _argument_fault(node.function, given, reason)
    return f"Part of the guard can never be evaluated: {strip_status(reason)} ({_place(node, expression)})"


def _argument_fault(function: str, argument: str, reason: str) -> str:
    return f"{argument!r} is not a valid argument of {function}: {strip_status(reason)}"


def _is_no_index(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value < 0 or not float(value).is_integer()


def _refusal(function: str, given: str) -> str | None:
    """Return the reason why a method refuses a text; None if it accepts it."""
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


@cache
def _probes() -> CelEnvironment:
    return CelEnvironment({"given": cel.Type.STRING})
