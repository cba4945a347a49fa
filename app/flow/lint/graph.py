"""Which steps lead to which."""

from collections.abc import Collection, Iterable, Mapping

Edges = Mapping[str, Collection[str]]
"""The steps that each step leads to; every step has an entry."""


def reached(edges: Edges, starts: Iterable[str]) -> set[str]:
    """The ``starts`` and all that can be reached from them."""
    found = set(starts)
    frontier = list(found)
    while frontier:
        for step in edges[frontier.pop()]:
            if step not in found:
                found.add(step)
                frontier.append(step)
    return found


def turned(edges: Edges) -> dict[str, list[str]]:
    """The same with every edge the other way round."""
    sources: dict[str, list[str]] = {step: [] for step in edges}
    for step, targets in edges.items():
        for target in targets:
            sources[target].append(step)
    return sources


def components(edges: Edges) -> list[set[str]]:
    """The largest sets of steps that can all be reached from each other (Kosaraju's algorithm)."""
    sources = turned(edges)
    taken: set[str] = set()
    found = []
    for step in reversed(_finished(edges)):
        if step in taken:
            continue
        component = {step}
        frontier = [step]
        while frontier:
            for source in sources[frontier.pop()]:
                if source not in taken and source not in component:
                    component.add(source)
                    frontier.append(source)
        taken |= component
        found.append(component)
    return found


def _finished(edges: Edges) -> list[str]:
    """The steps in the order in which a search in depth is done with them."""
    order: list[str] = []
    seen: set[str] = set()
    for root in edges:
        if root in seen:
            continue
        seen.add(root)
        path = [(root, iter(edges[root]))]
        while path:
            step, targets = path[-1]
            for target in targets:
                if target not in seen:
                    seen.add(target)
                    path.append((target, iter(edges[target])))
                    break
            else:
                order.append(step)
                path.pop()
    return order
