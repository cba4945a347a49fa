"""The variables, and the members of them, that an expression reads."""

from collections.abc import Iterable, Iterator

from app.flow.conditions.cel_tree import CALL, IDENT, SELECT, Node


def reads_of(root: Node, names: Iterable[str]) -> dict[str, set[str] | None]:
    """Find the variables that an expression may read.

    Args:
        root: The syntax tree of the expression.
        names: The declared variables.

    Returns:
        For each variable the members of it that the expression names; ``None`` if it may read any of them.
    """
    declared = frozenset(names)
    found: dict[str, set[str] | None] = {}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        waiting += node.parts
        variable = variable_of(node, declared)
        if variable is not None:
            found.setdefault(variable, set())
    # A member that is named is all that is read, unless the variable is also used without one.
    for node, parent in _with_parents(root):
        variable = variable_of(node, declared)
        members = None if variable is None else found[variable]
        if variable is None or members is None:
            continue
        name = named_member(parent) if parent is not None and parent.parts[0] is node else None
        if name is None:
            found[variable] = None
        else:
            members.add(name)
    return found


def _with_parents(root: Node) -> Iterator[tuple[Node, Node | None]]:
    waiting: list[tuple[Node, Node | None]] = [(root, None)]
    while waiting:
        node, parent = waiting.pop()
        yield node, parent
        waiting += [(part, node) for part in node.parts]


def named_member(node: Node) -> str | None:
    """Return the member that a node reads by its name, as in ``x.name`` and ``x['name']``."""
    if node.kind == SELECT:
        return node.name
    if node.kind == CALL and node.name == "_[_]" and isinstance(node.parts[1].text, str):
        return node.parts[1].text
    return None


def variable_of(node: Node, declared: frozenset[str]) -> str | None:
    """Return the declared variable, with or without dots, that a node reads; ``None`` if it reads none."""
    names = []
    while node.kind == SELECT:
        if node.tests:
            return None
        names.append(node.name)
        node = node.parts[0]
    if node.kind != IDENT:
        return None
    whole = ".".join([node.name.removeprefix("."), *reversed(names)])
    return whole if whole in declared else None
