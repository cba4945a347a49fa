"""Parsed texts of modules, each parsed once in a process."""

import ast
import gc
from functools import cache


@cache
def tree_of(source: str) -> ast.Module:
    """Return the tree of a module's text."""
    was_on = gc.isenabled()
    gc.disable()  # no node is garbage; collections take three times as long as the parser
    try:
        return ast.parse(source)
    finally:
        if was_on:
            gc.enable()


@cache
def nodes_of(tree: ast.AST) -> list[ast.AST]:
    """Return all nodes of a tree, in the order of ``ast.walk``."""
    nodes = [tree]
    for node in nodes:
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, ast.AST):
                nodes.append(value)
            elif isinstance(value, list):
                nodes += [each for each in value if isinstance(each, ast.AST)]
    return nodes


def called_name(call: ast.Call) -> str:
    """Return the last name of what is called: ``c`` of ``a.b.c()``; empty if it has none."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""
