"""Graph algorithms over the steps of a flow."""

from collections.abc import Collection, Iterable, Mapping

Edges = Mapping[str, Collection[str]]
"""The steps that each step leads to; every step has an entry."""


def reached(edges: Edges, starts: Iterable[str]) -> set[str]:
    """Return the ``starts`` and all steps that can be reached from them."""
    found = set(starts)
    frontier = list(found)
    while frontier:
        for step in edges[frontier.pop()]:
            if step not in found:
                found.add(step)
                frontier.append(step)
    return found


def reversed_edges(edges: Edges) -> dict[str, list[str]]:
    """Return the sources of each step."""
    sources: dict[str, list[str]] = {step: [] for step in edges}
    for step, targets in edges.items():
        for target in targets:
            sources[target].append(step)
    return sources


def components(edges: Edges) -> list[set[str]]:
    """Return the strongly connected components (Kosaraju's algorithm)."""
    sources = reversed_edges(edges)
    assigned: set[str] = set()
    found = []
    for step in reversed(_postorder(edges)):
        if step in assigned:
            continue
        component = {step}
        frontier = [step]
        while frontier:
            for source in sources[frontier.pop()]:
                if source not in assigned and source not in component:
                    component.add(source)
                    frontier.append(source)
        assigned |= component
        found.append(component)
    return found


def descendants(edges: Edges) -> dict[str, int]:
    """Return the steps that can be reached from each step, itself included, as bits by their positions."""
    bits = {step: 1 << position for position, step in enumerate(edges)}
    found: dict[str, int] = {}
    for component in reversed(components(edges)):  # its targets are in it or come later
        reachable = 0
        for step in component:
            reachable |= bits[step]
            for target in edges[step]:
                reachable |= found.get(target, bits[target])
        found |= dict.fromkeys(component, reachable)
    return found


def _postorder(edges: Edges) -> list[str]:
    """Return the steps in the order in which a depth-first search leaves them."""
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
