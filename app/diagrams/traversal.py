"""Graph traversal of a picture: back edges and spanning trees."""

from collections import deque

from app.diagrams.model import Picture


def back_arrows(picture: Picture) -> frozenset[int]:
    """Return the positions of the back edges: without them the graph has no cycle.

    Depth-first; steps that come first in the flow are visited first.
    """
    outgoing = _outgoing(picture)
    entered: set[int] = set()
    done: set[int] = set()
    found = set()
    for root in _roots(picture):
        if root in entered:
            continue
        entered.add(root)
        path = [(root, iter(outgoing[root]))]
        while path:
            box, rest = path[-1]
            for target, arrow in rest:
                if target not in entered:
                    entered.add(target)
                    path.append((target, iter(outgoing[target])))
                    break
                if target not in done:
                    found.add(arrow)
            else:
                done.add(box)
                path.pop()
    return frozenset(found)


def spanning_arrows(picture: Picture) -> frozenset[int]:
    """Return the positions of arrows that form trees of shortest ways.

    The roots are the steps at which the flow starts or can start, then steps that these do not reach.
    """
    outgoing = _outgoing(picture)
    reached = {position for position, box in enumerate(picture.boxes) if box.entry is not None}
    queue = deque(box for box in _roots(picture) if box in reached)
    found = set()
    for root in (None, *_roots(picture)):
        if root is not None and root not in reached:
            reached.add(root)
            queue.append(root)
        while queue:
            for target, arrow in outgoing[queue.popleft()]:
                if target not in reached:
                    reached.add(target)
                    found.add(arrow)
                    queue.append(target)
    return frozenset(found)


def _outgoing(picture: Picture) -> list[list[tuple[int, int]]]:
    """Return for each box its outgoing arrows, as sorted pairs of target and arrow positions."""
    outgoing: list[list[tuple[int, int]]] = [[] for _ in picture.boxes]
    for position, arrow in enumerate(picture.arrows):
        outgoing[arrow.source].append((arrow.target, position))
    return [sorted(arrows) for arrows in outgoing]


def _roots(picture: Picture) -> list[int]:
    """Return all boxes: the initial step, other entry steps, then the rest."""
    order = ("start", "entry", None)
    return sorted(range(len(picture.boxes)), key=lambda box: order.index(picture.boxes[box].entry))
